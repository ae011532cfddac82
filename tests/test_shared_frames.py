"""``d2st spot`` runs each frame through what lies before the first adapter once; scores are those of whole windows."""

import weakref

import numpy as np
import pytest
import torch
from families import BACKBONES, SIZE, move

import d2st
from d2st import heads
from d2st.features.prefix import NoSuffix, Suffix, split_for_inference
from d2st.heads import HeadSpec
from d2st.spotting import watch as watching
from d2st.spotting.segments import window_scores
from d2st.spotting.watch import SharedFrames, WholeWindows, watch
from d2st.spotting.windows import Frame

FRAMES, RATE = 4, 10
LENGTHS, STRIDE, BATCH = (0.8, 1.3, 2.0), 0.25, 5
LATE = {"positions": (1, 2), "temporal_embedding": False}
SYSTEMS = {
    "d2st, late": ("vit", d2st.D2STConfig(ratio=0.5, **LATE)),  # the class token trained, which is no hindrance
    "st, late": ("vit", d2st.STConfig(**LATE)),
    "lora, late": ("vit", d2st.LoRAConfig(positions=(1, 2))),
    "d2st in a CNN": ("resnet-basic", d2st.D2STConfig(ratio=0.5, positions=(2, 3))),
    "d2st in all of a CNN": ("resnet-basic", d2st.D2STConfig(ratio=0.5)),
    "none": ("vit", d2st.NoneConfig()),
    "none, a CNN": ("resnet-basic", d2st.NoneConfig()),
    "full": ("vit", d2st.FullConfig()),
}


def classifier(family="vit", config=SYSTEMS["d2st, late"][1], dtype=torch.float32, **options):
    torch.manual_seed(0)
    encoder = d2st.adapt(BACKBONES[family]().to(dtype), config, frames=FRAMES, image_size=SIZE)
    move(encoder)
    found = d2st.FewShotClassifier(encoder, **options)
    for number, name in enumerate(("blue", "red", "white")):
        clips = torch.randn(3, FRAMES, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(number))
        encoded = found.encode_all(clips)
        found.set_class(name, encoded.frames, encoded.tokens)
    return found


def video(seconds=6.0, stills=False):
    """Frames that are all different; with stills, two that stay for longer than a part of a window."""
    rng = np.random.default_rng(0)
    for i in range(round(seconds * RATE)):
        if not (stills and i % 30 in range(3, 12)):
            yield i / RATE, rng.integers(1, 256, (SIZE, SIZE, 3), np.uint8)


def search(found, frames=None):
    """Spans (N, 2) and logits (N, way) of all windows."""
    frames = video(stills=True) if frames is None else frames
    seen = list(watch(found, frames, RATE, LENGTHS, STRIDE, BATCH))
    return np.concatenate([s.spans for s in seen]), np.concatenate([s.logits for s in seen])


@pytest.fixture
def alone(monkeypatch):
    """Search with every window encoded by itself."""

    def search_alone(found):
        with monkeypatch.context() as patch:
            patch.setattr(watching, "split_for_inference", lambda encoder: None)
            return search(found)

    return search_alone


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-5), (torch.float64, 1e-6)], ids=["fp32", "fp64"])
def test_scores_are_those_of_windows_by_themselves(alone, system, dtype, rounding):
    found = classifier(*SYSTEMS[system], dtype)
    suffix = split_for_inference(found.encoder)
    assert isinstance(suffix, Suffix if len(found.encoder.adapters) else NoSuffix)
    spans, logits = search(found)
    expected_spans, expected = alone(found)
    assert (spans == expected_spans).all() and len(logits) == 50 and np.ptp(expected, 0).min() > 1e-3
    np.testing.assert_allclose(logits, expected, rtol=rounding, atol=rounding)  # heads compute in float32
    scores = [window_scores(found.rejector, x, 0.05) for x in (logits, expected)]
    np.testing.assert_allclose(*scores, rtol=rounding * 100, atol=rounding * 10)


@pytest.mark.parametrize("system", SYSTEMS)
def test_parts_are_the_whole_in_float64(system):
    encoder = classifier(*SYSTEMS[system], torch.float64).encoder
    clips = torch.randn(2, FRAMES, 3, SIZE, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    suffix = split_for_inference(encoder)
    with torch.no_grad():
        parts = suffix(suffix.prefix(clips.flatten(0, 1)).unflatten(0, (2, FRAMES)))
        torch.testing.assert_close(parts, encoder(clips), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_frame_passes_once(alone, system):
    family, config = SYSTEMS[system]
    found, passed = classifier(family, config), []
    found.encoder.backbone.get_submodule("patch_embed" if family == "vit" else "conv1").register_forward_pre_hook(
        lambda module, args: passed.extend(frame.sum().item() for frame in args[0] if frame.any())  # no blank ones
    )
    split_for_inference(found.encoder)
    verified = len(passed)  # frames of a random clip
    passed.clear()
    search(found)
    once = passed[verified:]
    assert len(once) == len(set(once)) <= len(list(video(stills=True)))
    passed.clear()
    alone(found)
    assert set(passed) == set(once) and len(passed) > 3 * len(once)


def test_bf16_is_that_of_windows_by_themselves(alone):
    found, exact = (classifier(*SYSTEMS["none"], precision=precision) for precision in ("bf16", "fp32"))
    (_, logits), (_, expected), (_, other) = search(found), alone(found), search(exact)
    np.testing.assert_allclose(logits, expected, rtol=2e-3, atol=2e-3)
    assert abs(logits - other).max() > 5e-3


def compiled(blocks):
    found = classifier()
    if blocks:
        found.encoder.compile_blocks(backend="eager")
    else:
        found.encoder = torch.compile(found.encoder, backend="eager")
    return found


@pytest.mark.parametrize(
    "build",
    [
        lambda: classifier(config=d2st.D2STConfig(ratio=0.5)),  # a temporal embedding at the input
        lambda: classifier(config=d2st.AIMConfig()),
        lambda: classifier(config=d2st.DiSTConfig()),
        lambda: classifier(config=d2st.NoneConfig(), head="molo"),
        lambda: classifier("resnet-basic", d2st.D2STConfig(ratio=0.5, **LATE), head=HeadSpec("sloshnet", {"width": 8})),
        lambda: classifier(config=d2st.NoneConfig(), head=heads.build("emp-net", features=32)),
        lambda: compiled(blocks=True),
        lambda: compiled(blocks=False),
    ],
    ids=["embedding", "aim", "dist", "maps", "stages", "tokens", "compiled blocks", "compiled"],
)
def test_what_has_no_prefix_goes_the_ordinary_way(build):
    assert isinstance(watching.windows_encoder(build()), WholeWindows)


@pytest.mark.parametrize("family", ["vit", "resnet-basic"])
@pytest.mark.parametrize("head", ["otam", "molo", HeadSpec("ts-dcm", {"width": 8})], ids=str)
def test_every_head_shares_frames(alone, head, family):
    found = classifier(family, d2st.D2STConfig(ratio=0.5, **LATE), head=head)
    assert isinstance(watching.windows_encoder(found), SharedFrames)
    (_, logits), (_, expected) = search(found), alone(found)
    assert np.ptp(expected, 0).min() > 1e-3
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_features_that_are_not_finite_name_their_window():
    found = classifier()
    with torch.no_grad():
        found.encoder.backbone.norm.weight[0] = float("nan")
    with pytest.raises(d2st.D2STError, match=r"The features of 5 clips '0.00 to 0.80 s', .* are not finite in fp32"):
        search(found)


def test_maps_go_with_their_frames(monkeypatch):
    alive = weakref.WeakSet()

    class Watched(Frame):
        def __init__(self, *args):
            super().__init__(*args)
            alive.add(self)

    monkeypatch.setattr(watching, "Frame", Watched)
    found = classifier()
    shape = split_for_inference(found.encoder).map_shape
    most = {20: 0, 120: 0}  # seconds of video -> maps at once
    for seconds in most:
        for _ in watch(found, video(seconds), RATE, LENGTHS, STRIDE, BATCH):
            maps = [frame.map for frame in alive if frame.map is not None]
            most[seconds] = max(most[seconds], len(maps))
            kept = {map.untyped_storage().data_ptr(): map.untyped_storage().nbytes() for map in maps}
            assert sum(kept.values()) == len(maps) * np.prod(shape) * 4
        assert len(alive) == 0
    asked = (1 + STRIDE) * max(LENGTHS) * sum(FRAMES / length for length in LENGTHS)
    assert most[20] == most[120] <= asked + BATCH * FRAMES
