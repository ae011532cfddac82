"""Transforms of full-shot classification: the same choice for all frames, and test crops from end to end."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from d2st.data.transforms import CropsTransform, eval_transform, full_shot_transform, offsets
from d2st.errors import D2STError

PLAIN = (0.0,) * 3, (1.0,) * 3


@given(st.integers(0, 500), st.integers(1, 12))
def test_crops_reach_from_end_to_end(slack, count):
    found = offsets(slack, count)
    assert len(found) == count and found == sorted(found)
    assert (found[0], found[-1]) == ((0, slack) if count > 1 else (round(slack / 2),) * 2)
    steps = [b - a for a, b in itertools.pairwise(found)]
    assert not steps or max(steps) - min(steps) <= 1
    assert [slack - place for place in reversed(found)] == pytest.approx(found, abs=1), "the same from both ends"


@pytest.mark.parametrize("shape", [(40, 90), (90, 40), (32, 32)])
def test_three_crops_are_the_two_ends_and_the_center(shape):
    clip = torch.randint(0, 256, (2, 3, *shape), dtype=torch.uint8)
    crops = CropsTransform(32, *PLAIN, crops=3)(clip)
    assert crops.shape == (3, 2, 3, 32, 32)
    center = eval_transform(32, *PLAIN)(clip)
    assert torch.equal(crops[1], center) and torch.equal(CropsTransform(32, *PLAIN)(clip)[0], center)
    turned = CropsTransform(32, *PLAIN, crops=3)(clip.flip(-1, -2)).flip(-1, -2, 0)  # the first is the last then
    torch.testing.assert_close(turned, crops, atol=1 / 255, rtol=0)


@pytest.mark.parametrize(
    "options",
    [
        {"crop": "area"},
        {"crop": "short-side"},
        {"flip": False, "rand_augment": 4, "magnitude": 7},
        {"rand_augment": 2, "magnitude": 10, "erasing": 1.0},
    ],
    ids=str,
)
def test_all_frames_of_a_clip_are_treated_alike(options):
    frame = torch.randint(0, 256, (1, 3, 40, 56), dtype=torch.uint8)
    transform = full_shot_transform((24, 32), *PLAIN, **options)
    seen = []
    for seed in range(8):
        torch.manual_seed(seed)
        clip = transform(frame.expand(5, -1, -1, -1))
        assert clip.shape == (5, 3, 24, 32) and clip.dtype == torch.float32
        assert all(torch.equal(clip[0], other) for other in clip[1:])
        seen.append(clip[0])
    assert any(not torch.equal(seen[0], other) for other in seen[1:])


def test_short_side_crops_keep_the_scale_within_bounds():
    """A picture of two halves: the share of a crop that is one pixel tells its scale."""
    grid = (torch.arange(64) % 2 * 255).to(torch.uint8).expand(1, 3, 64, 64).clone()
    transform = full_shot_transform(64, *PLAIN, interpolation="nearest", short_side=(1.0, 1.0), flip=False)
    assert torch.equal(transform(grid), grid / 255)
    transform = full_shot_transform(64, *PLAIN, interpolation="nearest", short_side=(2.0, 2.0), flip=False)
    columns = transform(grid)[0, 0, 0]
    runs = [len(run) for run in "".join("x" if v else " " for v in columns).split(" ") if run]
    assert max(runs) == 2


def test_erasing_leaves_the_mean_color_in_a_box():
    clip = torch.full((3, 3, 32, 32), 255, dtype=torch.uint8)
    transform = full_shot_transform(32, (0.5,) * 3, (0.5,) * 3, crop="short-side", erasing=1.0)
    torch.manual_seed(0)
    found = transform(clip)
    assert set(found.unique().tolist()) == {0.0, 1.0} and torch.equal(found[0], found[2])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"crop": "centre"}, "no crop 'centre'"),
        ({"area": (0.0, 0.0)}, "area is 0.0 to 0.0"),
        ({"short_side": (0.5, 1.0)}, "short_side is 0.5 to 1.0"),
        ({"erasing": 2.0}, "erasing 2.0"),
    ],
)
def test_what_makes_no_sense_is_refused(options, said):
    with pytest.raises(D2STError, match=said):
        full_shot_transform(32, *PLAIN, **options)
    with pytest.raises(D2STError, match="at least 1 crop, not 0"):
        CropsTransform(32, *PLAIN, crops=0)
