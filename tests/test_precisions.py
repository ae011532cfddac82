"""Encoders in other precisions and memory layouts than float32 and PyTorch's own, and videos of other types."""

import copy

import pytest
import torch
from families import BACKBONES, FRAMES, SIZE, clips, gradients, move
from torch import nn

import d2st
from d2st.adapters.dualpath import make_framesets

SYSTEMS = {
    "d2st": d2st.D2STConfig(),
    "d2st-local": d2st.D2STLocalConfig(),
    "st": d2st.STConfig(kernel=(3, 3, 3)),
    "dst": d2st.DSTConfig(),
    "aim": d2st.AIMConfig(),
    "task-adapter": d2st.TaskAdapterConfig(),
    "vanilla": d2st.VanillaConfig(),
    "dualpath": d2st.DualPathConfig(tiles=2, antialias=True),
    "dist": d2st.DiSTConfig(width=16, temporal_width=8, pool_layers=1),
    "dia": d2st.DiAConfig(),
    "lora": d2st.LoRAConfig(orthogonal=True),
    "zeroi2v": d2st.ZeroI2VConfig(),
    "lsn": d2st.LSNConfig(width=16),
    "side4video": d2st.Side4VideoConfig(width=16),
    "full": d2st.FullConfig(),
}
PRECISIONS = {torch.bfloat16: 0.05, torch.float16: 0.01, torch.float64: 1e-5}  # and how far features may be off


def adapted(system, dtype=torch.float32, family="clip-vit"):
    torch.manual_seed(0)
    encoder = d2st.adapt(BACKBONES[family]().to(dtype), SYSTEMS[system], frames=FRAMES, image_size=SIZE)
    return encoder


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("system", SYSTEMS)
def test_backbones_of_other_precision(system, dtype):
    """Videos get the backbone's type, whatever theirs is."""
    exact, video = adapted(system), clips()
    move(exact)
    encoder = adapted(system, dtype)
    encoder.load_state_dict(exact.state_dict())
    assert {p.dtype for p in encoder.parameters()} == {dtype}
    features, expected = encoder(video), exact(video)
    assert features.dtype == dtype
    assert (features - expected).abs().max() < PRECISIONS[dtype] * expected.abs().max()
    for other in (torch.float64, torch.float16, torch.bfloat16):
        assert (encoder(video.to(other)) - expected).abs().max() < 0.05 * expected.abs().max()
    got, wanted = gradients(encoder, video), gradients(exact, video)
    assert got.keys() == wanted.keys()
    assert all(gradient.dtype == dtype and gradient.isfinite().all() for gradient in got.values())


def test_a_backbone_of_two_precisions_stays_what_it_is():
    """Adapters have the precision of its first parameter; its norms are not cast to it."""
    torch.manual_seed(0)
    backbone = BACKBONES["resnet-basic"]()
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            module.to(torch.bfloat16)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    encoder = d2st.adapt(backbone, d2st.VanillaConfig(), frames=FRAMES, image_size=SIZE)
    for name, tensor in backbone.state_dict().items():
        assert tensor.dtype == before[name].dtype and torch.equal(tensor, before[name]), name
    assert {parameter.dtype for parameter in encoder.adapters.parameters()} == {torch.bfloat16}
    assert encoder(clips()).isfinite().all()


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("head", ["bi-mhm", "hyrsm", "trx", "molo", "strm"])
def test_classifiers_on_backbones_of_other_precision(head, dtype, tmp_path):
    encoder = adapted("d2st", dtype)
    options = {"hyrsm": {"features": 32}, "trx": {"features": 32, "width": 8}, "molo": {"features": 32, "hidden": 8}}
    options |= {"strm": {"features": 32, "frames": FRAMES, "width": 8}}
    head = d2st.heads.build(head, **options.get(head, {}))
    classifier = d2st.FewShotClassifier(encoder, head)
    video = clips(batch=3)
    classifier.fit({"a": [video[0]], "b": [video[1]]})
    assert classifier.predict(video[1]).label == "b"
    classifier.save_support(tmp_path / "support.safetensors")
    again = d2st.FewShotClassifier(copy.deepcopy(encoder), head).load_support(tmp_path / "support.safetensors")
    assert again.predict(video[0]).label == "a"
    assert d2st.VideoClassifier(encoder, 5)(video).shape == (3, 5)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool, torch.complex64])
def test_videos_that_are_not_normalized_are_refused(dtype):
    with pytest.raises(d2st.D2STError, match="not a list"):
        adapted("d2st")([torch.zeros(FRAMES, 3, 32, 32)])
    with pytest.raises(d2st.D2STError, match=f"floating-point frames; this one is {dtype}.*encoder.transform"):
        adapted("d2st")(torch.zeros(1, FRAMES, 3, 32, 32, dtype=dtype))


@pytest.mark.parametrize("family", ["clip-vit", "resnet-basic", "convnext"])
@pytest.mark.parametrize("system", ["d2st", "d2st-local", "st", "dst", "dist", "side4video"])
def test_channels_last(system, family):
    if system in ("dist", "side4video") and family != "clip-vit":
        return
    encoder, video = adapted(system, family=family), clips()
    move(encoder)
    expected, wanted = encoder(video), gradients(encoder, video)
    model = nn.Sequential(encoder)  # also as a part of something else
    model.to(memory_format=torch.channels_last)
    kernels = [p for p in encoder.backbone.parameters() if p.ndim == 4]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)
    torch.testing.assert_close(encoder(video), expected, rtol=1e-4, atol=1e-5)
    for name, gradient in gradients(encoder, video).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-3, atol=1e-5, msg=name)
    assert {p.dtype for p in model.to(torch.float64, memory_format=torch.channels_last).parameters()} == {torch.float64}


def test_framesets_of_half_precision_with_antialiasing():
    video = clips(frames=4)
    exact = make_framesets(video, 2, antialias=True)
    for dtype in (torch.bfloat16, torch.float16):
        got = make_framesets(video.to(dtype), 2, antialias=True)
        assert got.dtype == dtype
        torch.testing.assert_close(got.float(), exact, rtol=0.02, atol=0.02)
