"""An encoder that is split at its first adapter: both parts together are the whole, or a sentence says why not."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
import torch
from families import BACKBONES, FRAMES, SIZE, clips, gradients, move
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import d2st
from d2st.features.prefix import split_encoder
from d2st.training.episodic import EpisodicLoss

FROZEN_INPUT = {"temporal_embedding": False, "train_class_token": False}
LATE = {"positions": (1, 2)} | FROZEN_INPUT
SYSTEMS = {
    "d2st": d2st.D2STConfig(ratio=0.5, **LATE),
    "dst": d2st.DSTConfig(**LATE),
    "st": d2st.STConfig(**LATE),
    "st at the end": d2st.STConfig(places="end", **LATE),
}
HEADS = [{"name": "bi-mhm"}, {"name": "ts-dcm", "width": 8}, {"name": "molo", "reconstruction_weight": 0.0}]


def encoder(family="vit", config=None):
    torch.manual_seed(0)
    found = d2st.adapt(BACKBONES[family](), config or SYSTEMS["d2st"], frames=FRAMES, image_size=SIZE)
    move(found)
    return found


def split_maps(suffix, video):
    return suffix.prefix(video.flatten(0, 1)).unflatten(0, video.shape[:2])


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("family", BACKBONES)
def test_both_parts_are_the_whole(family, system):
    whole = encoder(family, SYSTEMS[system])
    suffix, video = split_encoder(whole), clips()
    with torch.no_grad():
        expected, found = whole(video), suffix(split_maps(suffix, video))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not whole.training


@pytest.mark.parametrize("family", BACKBONES)
def test_maps_are_those_of_the_whole(family):
    whole = encoder(family)
    suffix, video = split_encoder(whole), clips(frames=5)
    with torch.no_grad():
        expected, found = whole.features_and_maps(video), suffix.features_and_maps(split_maps(suffix, video))
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    with pytest.raises(d2st.D2STError, match=r"Maps at the output of .* must be \(B, T, "):
        suffix.features_and_maps(torch.zeros(1, FRAMES, 3))


@pytest.mark.parametrize("family", ["vit", "dinov3", "resnet-basic", "swin", "convnext"])
def test_gradients_are_those_of_the_whole(family):
    whole = encoder(family).train()
    suffix, video = split_encoder(whole), clips()
    assert whole.training
    expected = gradients(whole, video)
    maps = split_maps(suffix, video)
    assert not maps.requires_grad
    whole.zero_grad()
    suffix(maps).square().mean().backward()
    assert len(expected) > 10
    for name, parameter in whole.named_parameters():
        if name in expected:
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("head", HEADS)
def test_a_loss_is_that_of_the_whole(head):
    whole, classes = encoder("resnet-basic").train(), torch.arange(3)
    suffix, video = split_encoder(whole), clips(batch=6)
    episode = d2st.create_head(**head, encoder=whole, classes=3), 3, 1, 1, True, 3, 0.5
    torch.manual_seed(0)
    loss, accuracy = EpisodicLoss(whole, *episode)(video, classes)
    torch.manual_seed(0)
    from_maps = EpisodicLoss(whole, *episode, suffix=suffix)
    found, right = from_maps(split_maps(suffix, video), classes)
    torch.testing.assert_close(found, loss)
    assert right == accuracy
    assert not any(name.startswith("suffix.") for name, _ in from_maps.named_parameters())


def test_frames_themselves_are_not_there():
    suffix = split_encoder(encoder("resnet-basic"))
    with pytest.raises(d2st.D2STError, match="head 'molo' takes the frames themselves, which prefix_crops does not"):
        EpisodicLoss(suffix.encoder, d2st.create_head("molo", suffix.encoder), 3, 1, 1, suffix=suffix)


def test_the_cut_is_as_late_as_adapters_allow():
    cuts = {name: str(split_encoder(encoder("vit", config)).cut) for name, config in SYSTEMS.items()}
    assert cuts["d2st"] == cuts["st at the end"] == "the output of blocks.1"
    assert cuts["st"] == "the input of blocks.1"
    assert str(split_encoder(encoder("resnet-basic")).cut) == "the output of layer2.1"


def test_the_encoder_is_as_it_was():
    whole, video = encoder(), clips()
    before = whole(video)
    suffix = split_encoder(whole)
    suffix(split_maps(suffix, video))
    assert torch.equal(whole(video), before)


def test_what_lies_before_sees_one_frame_alone():
    suffix, seen = split_encoder(encoder()), []
    suffix.encoder.backbone.blocks[0].register_forward_pre_hook(lambda block, args: seen.append(len(args[0])))
    suffix(torch.zeros(2, FRAMES, *suffix.map_shape))
    assert seen == [1]


def test_clips_of_other_lengths_and_half_precision():
    whole = encoder()
    suffix, video = split_encoder(whole), clips(frames=5)
    with torch.no_grad():
        found = suffix(split_maps(suffix, video).half())
        torch.testing.assert_close(found, whole(video), rtol=1e-2, atol=1e-2)
    assert found.dtype == torch.float32
    with pytest.raises(d2st.D2STError, match=r"Maps at the output of blocks.1 must be \(B, T, 17, 32\)"):
        suffix(torch.zeros(1, FRAMES, 16, 32))


def tuned(name, **options):
    return d2st.D2STConfig(**{**LATE, name: True}, **options)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (tuned("temporal_embedding"), r"trains a temporal embedding at .* \(--adapter.temporal-embedding false\)"),
        (tuned("train_class_token"), r"trains the class token at .* \(--adapter.train-class-token false\)"),
        (d2st.FullConfig(), "'full' trains the backbone from its input on"),
        (d2st.NoneConfig(), "'none' puts nothing into the backbone"),
        (d2st.DualPathConfig(tiles=2), "'dualpath' takes clips through the backbone in a way of its own"),
        (d2st.DiSTConfig(), "'dist' takes clips through the backbone in a way of its own"),
        (d2st.STConfig(), "'st' stands in the very first block"),
    ],
    ids=["embedding", "token", "full", "none", "dualpath", "dist", "first"],
)
def test_what_cannot_be_computed_once_is_refused(config, said):
    whole = d2st.adapt(timm.create_model("test_vit", num_classes=0), config, frames=FRAMES)
    with pytest.raises(d2st.D2STError, match=said + r".*train without it \(prefix_crops 0\)"):
        split_encoder(whole)


def test_a_class_token_that_a_cnn_does_not_have_is_no_reason():
    assert split_encoder(encoder("resnet-basic", d2st.D2STConfig(ratio=0.5))).cut.side == "output"


def test_another_parameter_that_trains_before_the_cut_is_named():
    whole = encoder()
    whole.backbone.pos_embed.requires_grad_()
    with pytest.raises(d2st.D2STError, match=r"backbone\.pos_embed train before the output of blocks.1"):
        split_encoder(whole)


def test_gradient_checkpointing_is_refused():
    whole = encoder()
    whole.set_grad_checkpointing()
    with pytest.raises(d2st.D2STError, match="prefix_crops and grad_checkpointing exclude each other"):
        split_encoder(whole)


class Around(VisionTransformer):
    """Frames pass the cut by another way too."""

    def forward_features(self, x):
        return super().forward_features(x) + x.mean((1, 2, 3))[:, None, None]


class Batched(VisionTransformer):
    """What follows the cut needs the number of frames."""

    def forward_features(self, x):
        return super().forward_features(x).view(len(x), -1, self.embed_dim)


@pytest.mark.parametrize(
    ("kind", "said"),
    [(Around, "gives other features than as a whole"), (Batched, "cannot be run from the output of blocks.1 on")],
)
def test_a_backbone_that_cannot_be_split_is_refused(kind, said):
    backbone = kind(img_size=SIZE, patch_size=8, embed_dim=32, depth=3, num_heads=2, num_classes=0)
    whole = d2st.adapt(backbone, SYSTEMS["d2st"], frames=FRAMES)
    with pytest.raises(d2st.D2STError, match=said):
        split_encoder(whole)


def test_hooks_of_others_stay_where_they_are():
    whole, video = encoder(), clips()
    whole.backbone.blocks[1].register_forward_hook(lambda block, args, output: output * 2)
    suffix = split_encoder(whole)
    with torch.no_grad():
        torch.testing.assert_close(suffix(split_maps(suffix, video)), whole(video), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("system", ["d2st", "st"])
def test_another_thread_may_encode_meanwhile(system):
    whole, video = encoder("vit", SYSTEMS[system]), clips()
    suffix, expected = split_encoder(whole), whole(video)
    with suffix._at_cut(torch.zeros_like), ThreadPoolExecutor(1) as other:
        assert not torch.equal(whole(video), expected)
        assert torch.equal(other.submit(whole, video).result(), expected)


def test_it_is_a_module():
    suffix = split_encoder(encoder())
    assert isinstance(suffix, nn.Module)
    trained = [p for p in suffix.parameters() if p.requires_grad]
    assert len(trained) == len(suffix.encoder.trainable_parameters()) > 0
