"""Frame samplers: the released code's own indices, and what holds for every length."""

import csv
from fractions import Fraction
from math import floor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2st.data import sampling as frames
from d2st.errors import D2STError

GOLDEN = Path(__file__).parent / "golden"
LENGTHS, COUNTS, SEEDS = st.integers(1, 5000), st.integers(1, 64), st.integers(0, 2**32 - 1)


class _Pinned:
    """A generator whose draws are all at the lower or all at the upper end."""

    def __init__(self, upper: bool) -> None:
        self.upper = upper

    def integers(self, low, high=None, size=None):
        low, high = (0, low) if high is None else (low, high)
        drawn = np.asarray(high) - 1 if self.upper else low
        return drawn if size is None else np.full(size, drawn)

    def uniform(self, low, high):
        return high if self.upper else low


def _golden(name: str) -> list[tuple[int, str, list[int], list[int]]]:
    with open(GOLDEN / name, newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["lo0"]]
    columns = [[f"{end}{i}" for i in range(8)] for end in ("lo", "hi")]
    return [(int(row["length"]), row["mode"], *([int(row[key]) for key in keys] for keys in columns)) for row in rows]


def test_rate50_is_the_released_rule():
    rows = _golden("frames_rate50.csv")
    assert len(rows) > 50
    for length, _, low, high in rows:
        assert frames.rate50(8, length, 25.0, _Pinned(False)).tolist() == low, length
        assert frames.rate50(8, length, 25.0, _Pinned(True)).tolist() == high, length


@pytest.mark.parametrize("fps", ["12", "25", "29.97", "30"])
def test_rate35_is_the_released_rule(fps):
    rows = _golden(f"frames_rate35_fps{fps}.csv")
    assert {mode for _, mode, _, _ in rows} == {"train", "test"}
    for length, mode, low, high in rows:
        for upper, expected in ((False, low), (True, high)):
            rng = _Pinned(upper) if mode == "train" else None
            assert frames.rate35(8, length, float(fps), rng).tolist() == expected, (length, mode)


@given(LENGTHS, COUNTS)
def test_uniform_test_frames_are_segment_centres(length, count):
    found = frames.build("uniform", count)(length, 25.0, None)
    assert found.tolist() == [floor((k + Fraction(1, 2)) * length / count) for k in range(count)]


@given(LENGTHS, COUNTS, SEEDS)
def test_uniform_train_frames_lie_one_in_each_segment(length, count, seed):
    found = frames.uniform(count, length, 25.0, np.random.default_rng(seed))
    k = np.arange(count)
    assert found.dtype == np.int64 and found.shape == (count,)
    assert (found >= k * length // count).all()
    assert (found <= np.maximum(-(-(k + 1) * length // count) - 1, 0)).all()
    assert (np.diff(found) >= 0).all()


def test_uniform_draws_every_frame_equally():
    rng = np.random.default_rng(0)
    counts = np.bincount(np.concatenate([frames.uniform(4, 10, 0, rng) for _ in range(4000)]), minlength=10)
    assert counts.shape == (10,) and np.abs(counts / 4000 - 0.4).max() < 0.04  # 4 draws over 10 frames


@given(LENGTHS, COUNTS)
def test_rate50_centers_stay_in_their_windows(length, count):
    found, window = frames.rate50(count, length), length // count
    if window:
        assert (found // window == np.arange(count)).all()
    else:
        assert np.array_equal(found, frames.uniform(count, length))


@given(LENGTHS, COUNTS, st.sampled_from([0.0, 10.0, 12.0, 23.976, 25.0, 30.0, 60.0]), st.none() | SEEDS)
def test_every_index_exists(length, count, fps, seed):
    for name in ("uniform", "rate50", "rate35", "stride", "tsn"):
        rng = None if seed is None else np.random.default_rng(seed)
        found = frames.build(name, count)(length, fps, rng)
        assert found.shape == (count,) and found.dtype == np.int64
        assert found.min() >= 0 and found.max() < length


@pytest.mark.parametrize("name", ["uniform", "rate50", "rate35", "stride", "tsn"])
def test_a_seed_gives_the_same_frames_again(name):
    sample = frames.build(name, 8)
    draws = [sample(500, 25.0, np.random.default_rng(seed)).tolist() for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_wrong_names_and_counts_are_refused():
    with pytest.raises(D2STError, match=r"'dense'.*uniform, rate50, rate35, stride, tsn"):
        frames.build("dense", 8)
    with pytest.raises(D2STError, match="at least 1 frame and 0"):
        frames.build("uniform", 0)
    with pytest.raises(D2STError, match=r"at least 1 apart and stride is \(4, 0\)"):
        frames.build("stride", 8, stride=(4, 0))
    with pytest.raises(D2STError, match="no view 3 of 3"):
        frames.build("tsn", 8, view=3, views=3)
    with pytest.raises(D2STError, match="'rate35' has one test view, not 3"):
        frames.build("rate35", 8, views=3)


def _published_tsn(length: int, count: int, train: bool) -> list[tuple[int, int]]:
    """ST-Adapter's rule written out one segment at a time: the ends that a training draw has, or the test's frame."""
    segment, found = (length - 1) / count, []
    for i in range(count):
        start, end = round(segment * i), round(segment * (i + 1))
        found.append((start, end) if train else ((start + end) // 2,) * 2)
    return found


@given(LENGTHS, COUNTS, SEEDS)
def test_tsn_is_the_published_rule(length, count, seed):
    assert frames.tsn(count, length).tolist() == [frame for frame, _ in _published_tsn(length, count, False)]
    drawn = frames.tsn(count, length, 25.0, np.random.default_rng(seed)).tolist()
    ends = _published_tsn(length, count, True)
    assert all(low <= frame <= high for frame, (low, high) in zip(drawn, ends, strict=True))
    assert frames.tsn(count, length, 25.0, _Pinned(True)).tolist() == [high for _, high in ends]


@given(LENGTHS, COUNTS, st.integers(1, 40), st.integers(1, 10))
def test_strides_and_views_are_the_published_rule(length, count, stride, views):
    """Pad with the last frame to (T - 1) r + 1; views start at round(slide / (V - 1) i)."""
    span = (count - 1) * stride + 1
    padded = list(range(length)) + [length - 1] * max(0, span - length)
    slide = len(padded) - span
    starts = [round(slide / (views - 1) * i) for i in range(views)] if views > 1 else [slide // 2]
    for view, start in enumerate(starts):
        found = frames.build("stride", count, stride=stride, view=view, views=views)(length, 25.0, None)
        expected = padded[start : start + span : stride]
        assert found.tolist() == expected or abs(slide / max(views - 1, 1) * view % 1 - 0.5) < 1e-6
    drawn = frames.dense(count, length, 25.0, _Pinned(True), strides=(stride,)).tolist()
    assert drawn == padded[slide::stride][:count], "the last start of a training draw"


def test_one_of_several_strides_is_drawn():
    sample, steps = frames.build("stride", 4, stride=(2, 1, 8)), set()
    for seed in range(40):
        steps |= set(np.diff(sample(100, 25.0, np.random.default_rng(seed))).tolist())
    assert steps == {1, 2, 8} and np.diff(sample(100, 25.0, None)).tolist() == [2, 2, 2]


@given(LENGTHS, COUNTS, st.integers(1, 10), st.sampled_from(["uniform", "tsn"]))
def test_views_move_from_the_start_of_segments_to_their_ends(length, count, views, name):
    found = [frames.build(name, count, view=view, views=views)(length, 25.0, None) for view in range(views)]
    assert all(one.min() >= 0 and one.max() < length and (np.diff(one) >= 0).all() for one in found)
    assert (np.diff(found, axis=0) >= 0).all()
    if views % 2:
        assert found[views // 2].tolist() == frames.build(name, count)(length, 25.0, None).tolist()
