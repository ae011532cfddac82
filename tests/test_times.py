"""Times of frames whose timestamps are wrong here and there: off by a frame at most, and told."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2st.data.video.timestamps import rising

GAPS = st.lists(st.sampled_from([1, 2, 3, 7, 20]), min_size=4, max_size=120)  # hundredths of a second


def timed(stamps, step=0.04, start=0.0):
    found = list(rising([(stamp, i) for i, stamp in enumerate(stamps)], step, start))
    assert [entry.frame for entry in found] == list(range(len(stamps)))
    times = [entry.time for entry in found]
    assert all(a < b for a, b in pairwise(times))
    return np.array(times), [entry.frame for entry in found if not entry.usable]


@given(GAPS, st.floats(0, 50))
def test_good_timestamps_are_the_times(gaps, origin):
    true = origin + np.cumsum([0, *gaps]) / 100
    times, unusable = timed(true.tolist(), start=origin)
    assert times == pytest.approx(true - origin, abs=1e-9) and not unusable


@given(GAPS, st.data())
def test_single_wrong_timestamps_cost_their_own_frame(gaps, data):
    true = np.cumsum([0, *gaps]) / 100
    step = float(np.mean(np.diff(true)))
    stamps, wrong, at = true.tolist(), [], 1
    while at < len(stamps) - 2:
        at += data.draw(st.integers(1, 30))
        if at < len(stamps) - 2:
            kinds = ["twice", "missing", "back", "zero", "leap"]
            kind = data.draw(st.sampled_from(kinds if at > 2 else kinds[:2]))
            stamps[at] = {
                "twice": stamps[at - 1],
                "missing": None,
                "back": true[max(0, at - 1 - data.draw(st.integers(1, at)))],
                "zero": 0.0,
                "leap": 1e6,
            }[kind]
            wrong.append(at)
            at += 2
    times, unusable = timed(stamps, step)
    good = np.setdiff1d(np.arange(len(true)), wrong)
    assert times[good] == pytest.approx(true[good], abs=1e-9)
    for i in wrong:
        assert true[i - 1] < times[i] < true[i + 1]
    assert unusable == wrong


def test_one_double_in_a_dense_stretch_shifts_nothing():
    true = np.concatenate([np.arange(3600) / 60, 60 + np.arange(900) / 15])  # on average 30 a second
    stamps = true.tolist()
    stamps[5] = stamps[4]
    times, unusable = timed(stamps, 1 / 37.5)
    assert np.abs(times - true).max() < 1 / 60 and times[-1] == true[-1] and unusable == [5]


@given(st.integers(2, 40), st.integers(1, 5), st.sampled_from([12.5, 25.0, 60.0]), st.integers(0, 3))
def test_files_put_together_go_on(length, parts, fps, origin):
    one = origin + np.arange(length) / fps
    times, unusable = timed(np.tile(one, parts).tolist(), 1 / fps, origin)
    assert times == pytest.approx(np.arange(length * parts) / fps, abs=1e-6) and not unusable


@given(GAPS, st.integers(1, 8), st.data())
def test_a_few_missing_ones_lie_evenly_between(gaps, count, data):
    true = np.cumsum([0, *gaps, *gaps, *gaps]) / 100
    first = data.draw(st.integers(1, len(true) - count - 1))
    stamps = true.tolist()
    stamps[first : first + count] = [None] * count
    times, unusable = timed(stamps, float(np.mean(np.diff(true))))
    assert times[first - 1 : first + count + 1] == pytest.approx(
        np.linspace(true[first - 1], true[first + count], count + 2)
    )
    assert unusable == list(range(first, first + count))


def test_without_any_they_follow_the_rate():
    times, unusable = timed([None] * 30)
    assert times == pytest.approx(np.arange(30) * 0.04) and len(unusable) == 30


def test_wrong_order_stays_in_its_place():
    """AVI gives B-frames the timestamps of their places in the file."""
    stamps = [0, 3, 1, 2, 6, 4, 5, 9, 7, 8, 12, 10, 11]
    times, _ = timed([stamp * 0.04 for stamp in stamps])
    assert np.abs(times - np.arange(13) * 0.04).max() <= 2 * 0.04 + 1e-9 and times[-1] <= 14 * 0.04


@given(st.lists(st.none() | st.floats(-10, 100), max_size=60), st.floats(0.001, 1), st.floats(0, 10))
def test_any_timestamps_give_rising_times(stamps, step, start):
    timed(stamps, step, start)
