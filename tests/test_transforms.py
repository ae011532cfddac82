"""Transforms: the released code's pictures, and the same random choice for all frames of a clip."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from d2st.data import transforms
from d2st.errors import D2STError

PLAIN = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    tensors = load_file(Path(__file__).parent / "golden/transforms.safetensors")
    frames = tensors.pop("frames_u8").permute(0, 3, 1, 2)
    return {key: tensor.permute(1, 0, 2, 3) for key, tensor in tensors.items()} | {"frames": frames}  # (T, C, H, W)


def test_released_eval(golden):
    found = transforms.released_eval_transform(*PLAIN, size=32, resize=40)(golden["frames"])
    torch.testing.assert_close(found, golden["test_resize40_crop32"], atol=1e-6, rtol=0)
    found = transforms.released_eval_transform(*CLIP, size=32, resize=40)(golden["frames"])
    torch.testing.assert_close(found, golden["test_full"], atol=2e-6, rtol=0)


def test_released_support_crops_the_released_resize(golden):
    transform = transforms.released_support_transform(*PLAIN, size=32, resize=40)
    ends = {name: golden[f"train_resize40_crop32_{name}"] for name in ("lo", "hi")}
    seen = set()
    torch.manual_seed(0)
    for _ in range(400):
        found = transform(golden["frames"])
        seen |= {name for name, end in ends.items() if torch.allclose(found, end, atol=1e-6, rtol=0)}
    assert seen == {"lo", "hi"}  # both corners of the crop are reached, and equal the released pictures


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_color_operations_are_the_released_ones(golden, name):
    cases = {key: value for key, value in golden.items() if key.startswith(f"adjust_{name}_")}
    assert len(cases) == 2
    for key, expected in cases.items():
        found = getattr(F, f"adjust_{name}")(golden["test_resize40_crop32"], float(key.rpartition("_")[2]))
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_grey_is_the_released_one(golden):
    # torchvision weighs red with 0.2989, the released code with 0.299
    found = F.rgb_to_grayscale(golden["test_resize40_crop32"], 3)
    torch.testing.assert_close(found, golden["gray"], atol=1.5e-4, rtol=0)


def _clip(frames=4, height=40, width=60) -> torch.Tensor:
    picture = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return picture.expand(frames, -1, -1, -1)  # the same picture in every frame


@pytest.mark.parametrize(
    "transform",
    [
        transforms.train_transform(32, *CLIP, jitter=0.8),
        transforms.train_transform((32, 24), *CLIP),
        transforms.released_support_transform(*CLIP, size=32, resize=40),
        transforms.released_query_transform(*CLIP, size=32, resize=40),
    ],
)
def test_all_frames_of_a_clip_change_alike(transform):
    torch.manual_seed(0)
    results = [transform(_clip()) for _ in range(12)]
    for result in results:
        assert result.dtype == torch.float32 and result.shape[:2] == (4, 3)
        assert torch.equal(result, result[:1].expand_as(result))
    assert len({result.sum().item() for result in results}) > 6  # and clips change differently
    for _ in range(2):
        torch.manual_seed(5)
        results.append(transform(_clip()))
    assert torch.equal(results[-1], results[-2])


@pytest.mark.parametrize("build", [transforms.train_transform, transforms.released_query_transform])
def test_flip_can_be_turned_off(build):
    ramp = torch.arange(60, 124, dtype=torch.uint8).expand(2, 3, 64, 64)  # darker to the left; no jitter saturates it
    torch.manual_seed(0)

    def rising(flip):
        made = build(size=32, mean=PLAIN[0], std=PLAIN[1], flip=flip)
        clips = [made(ramp) for _ in range(24)]
        return {bool(clip[..., 16:].mean() > clip[..., :16].mean()) for clip in clips}

    assert rising(flip=False) == {True}
    assert False in rising(flip=True)


def test_eval_covers_and_crops_the_center():
    clip = torch.zeros(2, 3, 60, 100, dtype=torch.uint8)
    clip[..., 40:60] = 255  # the middle fifth
    found = transforms.eval_transform(30, *PLAIN)(clip)
    assert found.shape == (2, 3, 30, 30)
    assert (found[..., 12:18] > 0.99).all() and (found[..., :9] < 0.01).all() and (found[..., 21:] < 0.01).all()
    normalized = transforms.eval_transform(30, (0.5,) * 3, (0.25,) * 3)(clip)
    torch.testing.assert_close(normalized, (found - 0.5) / 0.25)


@pytest.mark.parametrize("shape", [(31, 77), (77, 31), (32, 32), (7, 9), (33, 32), (1080, 1920)])
@pytest.mark.parametrize("size", [32, (32, 20), (20, 32)])
def test_every_picture_shape_gives_the_size_asked_for(shape, size):
    clip, expected = torch.zeros(1, 3, *shape, dtype=torch.uint8), (size, size) if isinstance(size, int) else size
    for transform in (transforms.eval_transform(size, *PLAIN), transforms.train_transform(size, *PLAIN)):
        assert transform(clip).shape == (1, 3, *expected)


def test_memory_layout_changes_nothing():
    clip = torch.randint(0, 256, (3, 3, 50, 70), dtype=torch.uint8)
    made = transforms.eval_transform(32, *CLIP)
    assert torch.equal(made(clip), made(clip.to(memory_format=torch.channels_last)))


@pytest.mark.parametrize(
    ("transform", "dtype"),
    [
        (transforms.eval_transform(32, *CLIP), torch.uint8),
        (transforms.train_transform(32, *CLIP, jitter=0.4), torch.uint8),
        (transforms.full_shot_transform(32, *CLIP, rand_augment=2), torch.uint8),
        (transforms.CropsTransform(32, *CLIP, crops=3), torch.uint8),
        (transforms.released_eval_transform(*CLIP, size=32, resize=40), torch.float32),
        (transforms.released_query_transform(*CLIP, size=32, resize=40), torch.float32),
    ],
)
def test_a_batch_that_is_normalized_later_has_the_same_bits(transform, dtype):
    clip = torch.randint(0, 256, (4, 3, 40, 60), dtype=torch.uint8)
    pixels, normalize = transforms.parts(transform)
    torch.manual_seed(3)
    whole = torch.stack([transform(clip) for _ in range(2)])
    torch.manual_seed(3)
    batch = torch.stack([pixels(clip) for _ in range(2)])
    expected = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(*CLIP)])(batch)
    kept = batch.clone()
    assert batch.dtype == dtype
    assert torch.equal(normalize(batch), whole) and torch.equal(whole, expected)
    assert torch.equal(batch, kept)


def test_what_needs_normalized_floats_stays_one_part():
    transform = transforms.full_shot_transform(32, *CLIP, erasing=1.0)
    pixels, normalize = transforms.parts(transform)
    found = pixels(torch.randint(0, 256, (4, 3, 40, 60), dtype=torch.uint8))
    assert pixels is transform and normalize is transforms.as_it_is
    assert found.dtype == torch.float32 and (found == 0).any()


def test_the_released_resize_has_the_bits_of_a_whole_clips():
    clip = torch.randint(0, 256, (5, 3, 50, 70), dtype=torch.uint8).to(memory_format=torch.channels_last)
    whole = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Resize((40, 40), antialias=False)])(clip)
    pixels, _ = transforms.parts(transforms.released_eval_transform(*PLAIN, size=40, resize=40))
    assert torch.equal(pixels(clip), whole)


def test_wrong_options_are_refused():
    with pytest.raises(D2STError, match=r"'lanczos'.*bicubic"):
        transforms.eval_transform(32, *PLAIN, interpolation="lanczos")
    with pytest.raises(D2STError, match="jitter"):
        transforms.train_transform(32, *PLAIN, jitter=2.0)
    with pytest.raises(D2STError, match="margin"):
        transforms.train_transform(32, *PLAIN, margin=0.9)


@pytest.mark.parametrize("kind", ["eval", "train", "released"])
def test_pixels_that_are_no_bytes_are_refused_where_they_would_be_scaled_as_what_they_are_not(kind):
    transform = {
        "eval": transforms.eval_transform(32, *CLIP),
        "train": transforms.train_transform(32, *CLIP),
        "released": transforms.released_eval_transform(*CLIP, size=32, resize=40),
    }[kind]
    clip = _clip()
    for wrong in (clip.long(), clip.int(), clip.short(), clip.to(torch.uint16)):
        with pytest.raises(D2STError, match=r"uint8 of 0..255, or floats of 0..1, and not torch\.u?int(64|32|16)"):
            transform(wrong)
    with pytest.raises(D2STError, match=r"Float pixels are in 0..1, and these in .*uint8"):
        transform(clip.float())
    with pytest.raises(D2STError, match=r"Frames are RGB, \(..., 3, H, W\), and these \(4, 1, 40, 60\)"):
        transform(clip[:, :1])
    if kind == "eval":
        assert (transform(clip.float() / 255) - transform(clip)).abs().mean() < 0.02  # floats are not rounded
