"""Windows over a stream: the same as reading each stretch by itself, from frames that are met once and soon let go."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2st.data import sampling as frames
from d2st.spotting.windows import FrameBuffer, cut, ladder, lengths_for

LENGTHS = st.lists(st.floats(0.1, 5), min_size=1, max_size=3, unique_by=lambda length: round(length, 3))
STRIDE, COUNT = st.floats(0.1, 1), st.integers(1, 9)


def stream(times):
    return [(time, i) for i, time in enumerate(times)]  # a number stands for a frame


def naive(times, start, end, count):
    """Numbers of the frames that a player shows at the centers of the parts of a stretch."""
    moments = start + (np.arange(count) + 0.5) * (end - start) / count
    return np.maximum(0, np.searchsorted(np.asarray(times), moments + 1e-6, side="right") - 1).tolist()


@given(st.lists(st.floats(0.01, 2.5), min_size=1, max_size=60), LENGTHS, STRIDE, COUNT, st.floats(0, 100))
def test_windows_of_any_timing_hold_what_a_player_shows(gaps, lengths, stride, count, origin):
    times = (origin + np.cumsum(gaps)).tolist()
    shown = 0.04
    windows = list(cut(stream(times), lengths, stride, count, shown))
    assert windows
    for window in windows:
        assert list(window.frames) == naive(times, window.start, window.end, count)
        assert times[0] - 1e-6 <= window.start < window.end <= times[-1] + shown + 1e-5
    spans = [(window.start, window.end) for window in windows]
    assert len(set(spans)) == len(spans)
    end = times[-1] + shown
    for length in lengths:  # every moment is in a window of every length, but for frames that stand still
        whole = [s for s in spans if s[0] <= times[0] + shown / 2 and s[1] >= end - shown / 2 - 1e-6]
        own = sorted({*whole, *(s for s in spans if abs(s[1] - s[0] - length) < 1e-6)})
        reached = times[0]
        for first, last in own:
            if first > reached + 1e-6:
                still = [b - a for a, b in zip(times, [*times[1:], end], strict=True) if a <= first and b > reached]
                assert max(still) > length * (1 - stride) - 1e-6
            reached = max(reached, last)
        assert reached >= end - shown


@given(st.integers(2, 60), st.integers(4, 40), st.integers(1, 9), st.integers(5, 60))
def test_a_window_is_sampled_as_a_clip_is(fps, length, count, total):
    times = [i / fps for i in range(total)]
    first = next(iter(cut(stream(times), [length / fps], 0.5, count, 1 / fps)))
    expected = frames.uniform(count, min(length, total))
    assert list(first.frames) == expected.tolist()


@given(LENGTHS, STRIDE, st.integers(5, 30))
def test_no_more_frames_are_kept_than_the_longest_window_needs(lengths, stride, fps):
    buffer = FrameBuffer()
    for _ in cut(stream([i / fps for i in range(40 * fps)]), lengths, stride, 4, 1 / fps, buffer):
        pass
    assert buffer.longest <= (1 + stride) * max(lengths) * fps + 3


def test_memory_does_not_grow_with_the_longest_window():
    fps, lengths, stride, count = 30, [4.0, 37.0, 100.0, 333.3], 0.25, 8
    times = [i / fps for i in range(600 * fps)]
    buffer, end = FrameBuffer(), times[-1] + 1 / fps
    windows = list(cut(stream(times), lengths, stride, count, 1 / fps, buffer))
    assert buffer.longest < 800  # of 12,500 in the longest window
    last = 0
    for window in windows:
        expected, found = naive(times, window.start, window.end, count), list(window.frames)
        if window.end < end - 1e-6:
            assert found == expected
        else:  # between moments that nobody knew of
            last += 1
            for one, best in zip(found, expected, strict=True):
                assert 0 <= best - one <= (len(times) - best) / 16 + 1
    assert last == 4


@pytest.mark.parametrize("shortest", [1.75, 1.75 - 4e-4])
def test_a_video_as_short_as_the_shortest_window_is_one_window(shortest):
    """Lengths are rounded: the shortest window shows the whole video, and the longer ones would show it again."""
    for lengths in ([shortest], [shortest, 2.0, 2.5]):
        (window,) = cut(stream([i / 12 for i in range(21)]), lengths, 0.25, 4, 1 / 12)
        assert (window.start, window.end) == (0.0, pytest.approx(1.75, abs=1e-3))


def test_a_leap_in_time_is_passed_over_at_once():
    times = [0.0, 0.1, 0.2, 1e9, 1e9 + 0.1, 1e9 + 0.2]
    spans = [(window.start, window.end) for window in cut(stream(times), [0.2], 0.5, 2, 0.1)]
    assert 4 <= len(spans) <= 8 and all(start <= 0.2 or start >= 1e9 - 0.2 for start, _ in spans)


def test_no_frames_give_no_windows():
    assert list(cut([], [1.0], 0.5, 8, 0.04)) == []


@given(st.floats(0.2, 60), st.floats(1, 20))
def test_lengths_for_actions_of_some_lengths(shortest, factor):
    lengths = ladder(shortest, shortest * factor)
    assert lengths[0] == pytest.approx(shortest, abs=1e-3)
    assert lengths[-1] == pytest.approx(shortest * factor, abs=1e-3)
    steps = np.divide(lengths[1:], lengths[:-1])
    assert (steps >= 1).all() and (steps < 1.52).all()
    assert ladder(2.0, 2.0) == (2.0,)


def test_clips_that_take_no_time_give_windows():
    assert lengths_for({"one frame": (1 / 90000, 1 / 90000)}) == (0.01,)
    assert lengths_for({"one frame": (1 / 90000, 1 / 90000), "more": (0.02, 2.0)})[0] == 0.01
