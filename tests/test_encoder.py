"""What an adapted encoder promises, over backbone families: identity, frozen backbone, copies, compilation, export."""

import copy
import io
import pickle
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
import torch
from families import BACKBONES, FRAMES, SIZE, VIT, check_clips_do_not_mix, clips, gradients, same
from timm.models.vision_transformer import VisionTransformer
from torch.utils.checkpoint import CheckpointError

import d2st
from d2st.adapters.base import bottleneck_width

FAMILIES = pytest.mark.parametrize("family", BACKBONES)
LIGHT = pytest.mark.parametrize("family", ["clip-vit", "dinov3", "resnet-basic"])


def encoder_of(family, moved=True, **config):
    """An adapted encoder; ``moved`` gives the adapters weights as if they had been trained for a while."""
    torch.manual_seed(0)
    encoder = d2st.adapt(BACKBONES[family](), d2st.D2STConfig(**config), frames=FRAMES, image_size=SIZE)
    if moved:
        with torch.no_grad():
            for parameter in encoder.adapters.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return encoder


@FAMILIES
def test_starts_as_the_frozen_backbone_bit_for_bit(family):
    torch.manual_seed(0)
    backbone = BACKBONES[family]().eval()
    keys, video = list(backbone.state_dict()), clips()
    with torch.no_grad():
        frozen = backbone.forward_head(backbone.forward_features(video.flatten(0, 1)), pre_logits=True)
        encoder = d2st.adapt(backbone, frames=FRAMES, image_size=SIZE)
        adapted = encoder(video)
    assert adapted.shape == (2, FRAMES, encoder.num_features)
    assert same(adapted.flatten(0, 1), frozen, family)
    assert list(backbone.state_dict()) == keys


@FAMILIES
def test_only_the_promised_parameters_train_and_each_gets_a_gradient(family):
    encoder = encoder_of(family).train()
    got = gradients(encoder, clips())
    promised = {name for name in got if name.startswith("adapters.")}
    assert promised == {f"adapters.{name}" for name, _ in encoder.adapters.named_parameters()}
    norms = {f"backbone.{norm}.{end}" for norm in ("norm", "fc_norm") for end in ("weight", "bias")}
    assert got.keys() - promised <= norms | {"backbone.cls_token"}
    for name, gradient in got.items():
        if not name.endswith("key.bias"):  # it cancels in the softmax
            assert gradient.abs().max() > 0, name
    assert not any(module.training for module in encoder.backbone.modules())
    assert {id(p) for p in encoder.trainable_parameters()} == {id(p) for p in encoder.parameters() if p.requires_grad}


@FAMILIES
def test_checkpointing_gives_the_same_gradients(family):
    encoder, video = encoder_of(family), clips()
    calls = []
    for module in encoder.modules():
        module.register_forward_pre_hook(lambda module, args: calls.append(module))
    plain = gradients(encoder, video)
    once = len(calls)
    encoder.set_grad_checkpointing(True)
    checkpointed = gradients(encoder, video)
    assert len(calls) > 2 * once, "no block was recomputed: checkpointing is off"
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@FAMILIES
def test_copies_are_independent(family):
    encoder, video = encoder_of(family), clips()
    with torch.no_grad():
        before = encoder(video)
        for other in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
            assert torch.equal(other(video), before)
            for parameter in other.adapters.parameters():
                parameter.zero_()
            assert not torch.equal(other(video), before), "the copy still runs the original's adapters"
            assert torch.equal(encoder(video), before), "changing the copy changed the original"


@LIGHT
def test_compiles_without_graph_breaks(family):
    encoder, video = encoder_of(family), clips()
    expected = gradients(encoder, video)
    torch._dynamo.reset()
    compiled = torch.compile(encoder, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(video), encoder(video), rtol=1e-4, atol=1e-5)
    for name, gradient in gradients(compiled, video).items():
        torch.testing.assert_close(gradient, expected[name.removeprefix("_orig_mod.")], rtol=1e-3, atol=1e-5, msg=name)


@LIGHT
def test_exports(family):
    encoder, video = encoder_of(family), clips()
    program = torch.export.export(encoder, (video,))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    with torch.no_grad():
        torch.testing.assert_close(torch.export.load(file).module()(video), encoder(video), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["clip-vit", "siglip", "resnet-basic"])
def test_other_lengths_and_sizes(family):
    encoder = encoder_of(family)
    with torch.no_grad():
        assert encoder(clips(frames=7)).shape == (2, 7, encoder.num_features)
        assert encoder(clips(frames=FRAMES)).shape == (2, FRAMES, encoder.num_features)
        if family == "resnet-basic":
            assert encoder(clips(size=(64, 48))).shape == (2, FRAMES, encoder.num_features)
    with pytest.raises(d2st.D2STError, match=r"1 frames.*Give at least 4"):
        encoder(clips(frames=1))


def test_frames_not_square():
    backbone = VisionTransformer(**VIT | dict(img_size=(32, 48)))
    encoder = d2st.adapt(backbone, frames=FRAMES)
    assert encoder.image_size == (32, 48)
    assert encoder(clips(size=(32, 48))).shape == (2, FRAMES, 32)
    dynamic = d2st.adapt(VisionTransformer(**VIT, dynamic_img_size=True), frames=FRAMES)
    assert dynamic(clips(size=(40, 64))).shape == (2, FRAMES, 32)


def test_threads_encode_clips_of_different_lengths():
    torch.manual_seed(0)
    encoder = d2st.adapt(BACKBONES["clip-vit"](), d2st.STConfig(), frames=FRAMES)  # with hooks that remember something
    for parameter in encoder.adapters.parameters():
        torch.nn.init.normal_(parameter)
    videos = [clips(frames=frames) for frames in (4, FRAMES)]
    expected, together = [encoder(video) for video in videos], threading.Barrier(2, timeout=60)

    def meet(module, args):
        together.wait()

    encoder.backbone.blocks[1].attn.register_forward_pre_hook(meet)
    with ThreadPoolExecutor(2) as pool:
        for got, alone in zip(pool.map(encoder, videos), expected, strict=True):
            torch.testing.assert_close(got, alone)


def test_an_interrupted_forward_leaves_nothing_in_copies():
    encoder, video = d2st.adapt(BACKBONES["clip-vit"](), d2st.STConfig(), frames=FRAMES), clips()
    expected, size = encoder(video), len(pickle.dumps(encoder))

    def interrupt(module, args):
        raise KeyboardInterrupt

    handle = encoder.backbone.blocks[1].attn.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        encoder(video)
    handle.remove()
    assert len(pickle.dumps(encoder)) == size
    assert torch.equal(copy.deepcopy(encoder)(video), expected)


@pytest.mark.parametrize("config", [d2st.D2STConfig(), d2st.DualPathConfig(tiles=2)])
def test_no_clips(config):
    encoder = d2st.adapt(BACKBONES["clip-vit"](), config, frames=FRAMES)
    assert encoder(clips(batch=0)).shape == (0, FRAMES, encoder.num_features)


@LIGHT
def test_a_clip_s_features_do_not_depend_on_its_batch(family):
    check_clips_do_not_mix(encoder_of(family))


@pytest.mark.parametrize("family", ["clip-vit", "resnet-basic"])
def test_half_precision_autocast_is_finite(family):
    encoder, video = encoder_of(family).train(), clips()
    with torch.autocast("cpu", torch.bfloat16):
        loss = encoder(video).square().mean()
    loss.backward()
    assert all(p.grad.isfinite().all() for p in encoder.trainable_parameters())


@pytest.mark.parametrize(
    "config",
    [d2st.LoRAConfig(shifts=(-1, 1), dropout=0.0), d2st.ZeroI2VConfig(dropout=0.0, temporal_embedding=False)],
)
def test_shifted_clips_are_not_recomputed_with_another_length(config):
    """Nothing else that is kept says of how many frames a clip was: as many images may be other clips."""
    encoder = d2st.adapt(BACKBONES["vit"](), config, frames=4).train()
    encoder.set_grad_checkpointing()
    loss = encoder(clips(batch=2, frames=4)).square().sum()
    encoder(clips(batch=1, frames=8))
    with pytest.raises(CheckpointError):
        loss.backward()


def test_refusals_are_sentences():
    with pytest.raises(d2st.D2STError, match="neither a timm model"):
        d2st.adapt("resnet18x", pretrained=False)
    with pytest.raises(d2st.D2STError, match="feature_info"):
        d2st.adapt(torch.nn.Linear(3, 3))
    encoder = encoder_of("vit")
    with pytest.raises(d2st.D2STError, match="already carries adapters"):
        d2st.adapt(encoder.backbone)
    with pytest.raises(d2st.D2STError, match="adapt the model itself, and compile the encoder"):
        d2st.adapt(torch.compile(BACKBONES["vit"](), backend="eager"))
    for shape in ((2, 3, SIZE, SIZE), (1, 0, 3, SIZE, SIZE)):
        with pytest.raises(d2st.D2STError, match=r"must be \(B, T, 3, H, W\), T at least 1"):
            encoder(torch.zeros(shape))
    with pytest.raises(
        d2st.D2STError, match=r"VisionTransformer takes frames of 32x32 px, not 48x32.*image_size=\(48, 32"
    ):
        encoder(clips(size=(48, 32)))
    with pytest.raises(d2st.D2STError, match=r"multiples of its patches' \(8x8 px\), not 32x36"):
        d2st.adapt(VisionTransformer(**VIT, dynamic_img_size=True), frames=FRAMES)(clips(size=(32, 36)))
    with pytest.raises(d2st.D2STError, match="no stage whose map has a quarter of a frame's side or less"):
        d2st.adapt(VisionTransformer(**VIT | {"patch_size": 2, "img_size": 8}), frames=FRAMES)
    with pytest.raises(d2st.D2STError, match="divide"):
        encoder_of("vit", groups=3)
    with pytest.raises(d2st.D2STError, match="no bottleneck"):
        encoder_of("vit", ratio=0.001)
    with pytest.raises(d2st.D2STError, match="3 sites"):
        encoder_of("vit", positions=(5,))
    with pytest.raises(d2st.D2STError, match=r"first half of the sites, and this backbone has one"):
        d2st.adapt(VisionTransformer(**VIT | {"depth": 1}), d2st.VanillaConfig(positions="early"))
    with pytest.raises(d2st.D2STError, match="3 whole numbers"):
        encoder_of("vit", spatial=(2, 0, 4))


@pytest.mark.parametrize("channels", [3, 64, 96, 192, 384, 768, 1024, 2048])
def test_the_ratio_that_a_refusal_names_leaves_a_bottleneck(channels):
    with pytest.raises(d2st.D2STError, match="no bottleneck") as refusal:
        bottleneck_width(channels, 1e-5)
    named = re.search(r"a ratio from (\S+) to 1", str(refusal.value))
    assert bottleneck_width(channels, float(named[1])) == 1


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("d2st_stils", r"Did you mean: d2st_stills.*\?$"),
        ("resent50", r"Did you mean: .*resnet50.*\?$"),
        ("none of these", r"timm\.list_models\(\) names timm's\.$"),
    ],
)
def test_a_misspelled_backbone_gets_a_hint(name, hint):
    with pytest.raises(d2st.D2STError, match=hint):
        d2st.adapt(name, d2st.D2STConfig(), frames=4, pretrained=False)


def test_what_timm_cannot_build_is_a_sentence():
    for name, more in (("resnet18.nowhere", {}), ("vit_tiny_patch16_224", {"image_size": 0})):
        with pytest.raises(d2st.D2STError):
            d2st.adapt(name, pretrained=False, **more)


def test_a_refusal_leaves_the_model_as_it_was():
    backbone = BACKBONES["vit"]()
    with pytest.raises(d2st.D2STError):
        d2st.adapt(backbone, d2st.D2STConfig(groups=3))
    assert all(p.requires_grad for p in backbone.parameters())
    assert d2st.adapt(backbone, frames=FRAMES)(clips()).shape == (2, FRAMES, 32)


@pytest.mark.parametrize("pretrained", [True, "model.safetensors"])
def test_weights_that_want_another_activation_are_told_of(pretrained, monkeypatch):
    """Downloaded or from a file, they are those of the name's tag."""
    backbone = BACKBONES["clip-vit"]()
    backbone.pretrained_cfg = {"notes": ("natively QuickGELU, use quickgelu model variant",)}
    monkeypatch.setattr("d2st.backbones.build.build", lambda *options: backbone)
    with pytest.warns(UserWarning, match=r"natively QuickGELU.*e\.g\. vit_base_patch16_clip_quickgelu_224\.openai"):
        d2st.adapt("vit_base_patch16_clip_224.openai", pretrained=pretrained)


def test_weight_files(tmp_path):
    from safetensors.torch import save_file

    torch.manual_seed(0)
    source = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=5)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    torch.save(source.state_dict(), tmp_path / "w.pth")
    for file in ("w.safetensors", "w.pth"):
        encoder = d2st.adapt("vit_tiny_patch16_224", pretrained=tmp_path / file, image_size=48)
        torch.testing.assert_close(encoder.backbone.blocks[3].mlp.fc1.weight, source.blocks[3].mlp.fc1.weight)
        assert encoder.backbone.pos_embed.shape == (1, 10, 192), "the position table was not resampled"
    coarse = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=32)
    save_file(coarse.state_dict(), tmp_path / "coarse.safetensors")
    with pytest.raises(
        d2st.D2STError, match="for patches of 32x32 px, and this VisionTransformer has patches of 16x16"
    ):
        d2st.adapt("vit_tiny_patch16_224", pretrained=tmp_path / "coarse.safetensors")
    with pytest.raises(d2st.D2STError, match=r"do not fit.*missing keys"):
        d2st.adapt("resnet18", pretrained=tmp_path / "w.safetensors")
    (tmp_path / "bad.pth").write_bytes(b"not weights")
    with pytest.raises(d2st.D2STError, match="cannot be read"):
        d2st.adapt("resnet18", pretrained=tmp_path / "bad.pth")
    with pytest.raises(d2st.D2STError, match="is not a file"):
        d2st.adapt("resnet18", pretrained=tmp_path / "none.pth")
