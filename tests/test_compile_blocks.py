"""The backbone's blocks compiled one by one."""

import copy
import pickle

import families
import pytest
import small as small_data
import torch
from families import BACKBONES, FRAMES, VIT, clips, gradients, move
from timm.models.vision_transformer import VisionTransformer
from torch._dynamo.utils import counters

import d2st
from d2st import D2STError
from d2st.backbones import compiled
from d2st.commands.evaluate import EvalConfig, evaluate
from d2st.features.prefix import split_encoder
from d2st.visualize.points import sampled_points


@pytest.fixture(autouse=True)
def reset():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compile_eagerly(encoder):
    """And count graphs from here on, without that of the trial."""
    encoder.compile_blocks(backend="eager")
    counters.clear()


def encoder_of(backbone, system="st"):
    torch.manual_seed(0)
    encoder = d2st.adapt(backbone, system, frames=FRAMES, image_size=families.SIZE)
    move(encoder)
    return encoder


def test_every_block_of_many_has_graphs_of_its_own():
    """And keeps them: the limit of torch.compile holds for each, not for all together."""
    depth = 9
    encoder = encoder_of(VisionTransformer(**VIT | {"depth": depth}))
    video = clips(1)
    with torch.no_grad():
        expected = encoder(video)
        compile_eagerly(encoder)
        for patch in ({}, {"error_on_recompile": True}):
            with torch._dynamo.config.patch(patch):
                torch.testing.assert_close(encoder(video), expected, rtol=1e-4, atol=1e-5)
    assert counters["stats"]["unique_graphs"] == depth
    assert not counters["unimplemented"] and not counters["graph_break"]


def test_lengths_and_gradients():
    encoder, lengths = encoder_of(BACKBONES["resnet-bottleneck"](), "d2st"), (FRAMES, 4)
    videos = [clips(1, frames) for frames in lengths]
    expected = [gradients(encoder, video) for video in videos]
    compile_eagerly(encoder)
    for video, own in (*zip(videos, expected, strict=True), (videos[0], expected[0])):
        for name, gradient in gradients(encoder, video).items():
            torch.testing.assert_close(gradient, own[name], rtol=1e-4, atol=1e-5)
    assert counters["stats"]["unique_graphs"] <= 4 * len(lengths) and not counters["graph_break"]


@pytest.mark.parametrize(("family", "blocks"), [("resnet-basic", 5), ("swin", 4)])
def test_blocks_of_every_kind_of_backbone(family, blocks):
    encoder = encoder_of(BACKBONES[family](), "d2st")
    assert len(list(compiled.blocks(encoder.backbone))) == blocks
    video = clips(1)
    with torch.no_grad():
        expected = encoder(video)
        compile_eagerly(encoder)
        torch.testing.assert_close(encoder(video), expected, rtol=1e-4, atol=1e-5)
    assert counters["stats"]["unique_graphs"] == blocks and not counters["graph_break"]


def test_what_looks_into_blocks_and_copies_of_them_see_them_as_they_were():
    encoder = encoder_of(BACKBONES["clip-vit"](), "d2st").eval()
    video = clips(1)
    with torch.no_grad():
        points, _ = sampled_points(encoder, video[0], None)
        encoder.compile_blocks(backend="eager")
        expected = encoder(video)
        again, _ = sampled_points(encoder, video[0], None)
        assert len(again) == len(points) > 0
        for other in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
            assert not other.compiled
            torch.testing.assert_close(other(video), expected, rtol=1e-4, atol=1e-5)
    blocks = [block for _, block in compiled.blocks(encoder.backbone)]
    assert all(block._compiled_call_impl for block in blocks)
    encoder.restore()
    assert not any(block._compiled_call_impl for block in blocks) and not encoder.compiled


def test_what_cannot_go_together_is_a_sentence(monkeypatch):
    encoder = encoder_of(BACKBONES["clip-vit"]())
    encoder.set_grad_checkpointing()
    with pytest.raises(D2STError, match="compile and grad_checkpointing exclude each other"):
        encoder.compile_blocks(backend="eager")
    encoder.set_grad_checkpointing(False)
    encoder.compile_blocks(backend="eager")
    with pytest.raises(D2STError, match="compile and grad_checkpointing exclude each other"):
        encoder.set_grad_checkpointing()
    with pytest.raises(D2STError, match="prefix_crops and compile exclude each other"):
        split_encoder(encoder)

    def compile(*args, **kwargs):
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(torch, "compile", compile)
    with pytest.raises(D2STError, match=r"does not work for cpu here \(No working C\+\+ compiler found\)\. It needs a"):
        encoder_of(BACKBONES["clip-vit"]()).compile_blocks()


def test_an_evaluation_takes_it(small, monkeypatch):
    settings = small_data.options(small, way=3, shot=1, queries=2, episodes=20)
    expected = evaluate(EvalConfig(**settings))
    own = compiled.compile_blocks
    monkeypatch.setattr("d2st.encoder.compile_blocks", lambda model, device, backend: own(model, device, "eager"))
    result = evaluate(EvalConfig(**settings, compile=True))
    assert counters["stats"]["unique_graphs"] >= families.FRAMES // 2
    assert result["results"][0]["accuracy"] == pytest.approx(expected["results"][0]["accuracy"], abs=0.05)


def test_early_stages_need_not_be_modules():
    """No adapter stands at them."""
    model = BACKBONES["resnet-basic"]()
    model.feature_info[0]["module"] = "nowhere"
    encoder = encoder_of(model)
    compile_eagerly(encoder)
    assert encoder.compiled and len(list(compiled.blocks(model))) == 5
