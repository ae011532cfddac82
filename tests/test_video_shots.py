"""Cuts, and how much of what moves lies in a window."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from d2st.spotting.shots import LITTLE, MARGIN, NEAR, Changes
from d2st.spotting.windows import Frame

SIDE = 32
SCENES = st.lists(st.integers(2 * NEAR, 20), min_size=1, max_size=6)  # frames of each


def frame(level, rng, noise=4):
    """A picture of one level of gray with the noise of a camera."""
    pixels = level + rng.integers(-noise, noise + 1, (3, SIDE, SIDE))
    return Frame(torch.from_numpy(pixels.clip(0, 255).astype(np.uint8)))


def scenes(counts, rng):
    """Timed frames of scenes that grow lighter by a level a frame, and the times at which they begin."""
    frames, starts = [], []
    for number, count in enumerate(counts):
        starts.append(len(frames) / 25)
        for i in range(count):
            frames.append((len(frames) / 25, frame(60 + 80 * (number % 2) + i, rng)))
    return frames, starts


def read(changes, frames):
    return [list(shot) for shot in changes.shots(iter(frames))]


@given(SCENES, st.integers(0, 9))
def test_shots_are_the_frames_divided_at_the_cuts(counts, seed):
    frames, starts = scenes(counts, np.random.default_rng(seed))
    changes = Changes()
    shots = read(changes, frames)
    assert [len(shot) for shot in shots] == counts
    assert [pair for shot in shots for pair in shot] == frames
    assert list(changes.starts) == pytest.approx(starts) and list(changes.times) == [time for time, _ in frames]
    first = np.cumsum([0, *counts[:-1]])
    assert all(changes.values[i] == 0 for i in first)  # a cut is no movement
    moved = np.delete(changes.values, first)
    assert ((moved > 0) & (moved < 0.02)).all()  # a level is 0.004, noise less
    assert [len(shot) for shot in read(Changes(cut=1), frames)] == [sum(counts)]


def test_a_flash_and_fast_motion_are_no_cuts():
    rng = np.random.default_rng(0)
    flash = [60] * 10 + [250] + [60] * 10
    fast = [60 + 30 * (i % 2) for i in range(20)]
    for levels in (flash, fast):
        assert len(read(Changes(), [(i / 25, frame(level, rng)) for i, level in enumerate(levels)])) == 1


def test_frames_are_passed_on_a_few_frames_later():
    rng, taken = np.random.default_rng(0), 0

    def stream():
        nonlocal taken
        for i in range(60):
            taken += 1
            yield i / 25, frame(60 + 80 * (i >= 30), rng)

    given = 0
    for shot in Changes().shots(stream()):
        for _ in shot:
            given += 1
            assert taken - given <= NEAR
    assert given == taken == 60
    assert read(Changes(), []) == []


def recorded(times, values, starts):
    changes = Changes()
    changes.times.extend(times)
    changes.values.extend(values)
    changes.starts.extend(starts)
    return changes


@given(st.data())
def test_a_window_is_as_whole_as_what_moves_lies_in_it(data):
    count = data.draw(st.integers(4, 40))
    values = np.array(data.draw(st.lists(st.integers(0, 60), min_size=count, max_size=count))) / 200
    firsts = sorted({0, *data.draw(st.lists(st.integers(1, count - 1), max_size=3))})
    values[firsts] = 0
    changes = recorded(np.arange(count), values, firsts)
    edges, spans, shares, moving = [*firsts, count], [], [], []
    for low, high in pairwise(edges):
        start = data.draw(st.integers(low, high - 1))
        end = data.draw(st.integers(start + 1, high))
        margin = MARGIN * (end - start)
        near = [i for i in range(low, high) if start - margin < i < end + margin and i not in (start, end)]
        inside = sum(values[i] for i in near if start < i < end)
        spans.append((start, end))
        shares.append(inside / (sum(values[near]) + LITTLE))
        moving.append(inside >= LITTLE)
    best = np.quantile(np.array(shares)[moving], 0.95) if any(moving) else np.inf
    expected = np.minimum(np.array(shares) / best, 1)
    assert changes.whole(np.array(spans, float)) == pytest.approx(expected, abs=1e-9)


def test_where_all_moves_or_nothing_does_no_window_is_better():
    spans = np.array([(start, start + 20) for start in range(20, 60)], float)
    steady = recorded(range(100), [0.0] + [0.02] * 99, [0.0]).whole(spans)
    assert steady == pytest.approx(np.ones(40))
    assert (recorded(range(100), [0.0] * 100, [0.0]).whole(spans) == 0).all()
    moved = np.zeros(100)
    moved[30:45] = 0.02
    alone = recorded(range(100), moved, [0.0]).whole(spans)
    assert (alone[spans[:, 0] == 28] == 1).all() and alone[spans[:, 0] == 38] < 0.5
    assert Changes().whole(np.empty((0, 2))).shape == (0,)


@pytest.mark.parametrize("seconds", [60, 3000])
def test_still_windows_make_no_part_of_a_movement_whole(seconds):
    """One movement of 2 s: what is said of the windows around it is the same however long nothing moves else."""
    values = np.zeros(10 * seconds)
    values[301:320] = 0.02
    starts = np.arange(0, seconds - 2, 0.5)
    whole = recorded(np.arange(10 * seconds) / 10, values, [0.0]).whole(np.column_stack([starts, starts + 2]))
    near = {start: round(float(share), 2) for start, share in zip(starts, whole, strict=True) if 28 < start < 32}
    assert near[30] == 1 and near[29] == pytest.approx(0.54, abs=0.03) and near[31.5] < 0.4
    assert (whole[(starts < 28) | (starts > 32)] == 0).all()
