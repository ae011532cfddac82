"""Features and maps of one pass, over backbone families."""

import pytest
import torch
from families import BACKBONES, CNNS, FRAMES, SIZE, VIT, VITS, clips, move
from timm.models.vision_transformer import VisionTransformer

import d2st
from d2st.backbones.features import as_maps
from d2st.errors import D2STError


def encoder_of(family, size=SIZE):
    torch.manual_seed(0)
    encoder = d2st.adapt(BACKBONES[family](), frames=FRAMES, image_size=size)
    move(encoder)
    return encoder


@pytest.mark.parametrize("family", BACKBONES)
@torch.no_grad()
def test_maps_come_with_the_features_of_the_same_pass(family):
    encoder, video = encoder_of(family), clips()
    features, maps = encoder.features_and_maps(video)
    assert torch.equal(features, encoder(video))
    assert maps.shape[:3] == (2, FRAMES, encoder.map_channels) and maps.ndim == 5
    assert encoder.map_channels == encoder.num_features


@torch.no_grad()
def test_a_backbone_that_widens_its_pooled_map_says_so():
    encoder = d2st.adapt("mobilenetv3_small_050", d2st.NoneConfig(), pretrained=False, image_size=SIZE)
    features, maps = encoder.features_and_maps(clips(batch=1, frames=1))
    assert features.shape[2] == encoder.num_features == 1024
    assert maps.shape[2] == encoder.map_channels == 288


@pytest.mark.parametrize("family", CNNS)
@torch.no_grad()
def test_pooling_the_map_of_a_cnn_gives_its_feature(family):
    encoder = encoder_of(family)
    features, maps = encoder.features_and_maps(clips())
    frames = maps.flatten(0, 1)
    if family == "swin":
        frames = frames.permute(0, 2, 3, 1)
    pooled = encoder.backbone.forward_head(frames, pre_logits=True).unflatten(0, (2, FRAMES))
    torch.testing.assert_close(pooled, features)
    if family not in ("clip-resnet", "convnext"):  # attention pooling, a norm after pooling
        torch.testing.assert_close(maps.mean((3, 4)), features)


@pytest.mark.parametrize("family", VITS)
@torch.no_grad()
def test_the_map_of_a_vit_is_its_patches_after_the_last_norm(family):
    encoder, video = encoder_of(family), clips()
    _, maps = encoder.features_and_maps(video)
    (theirs,) = encoder.backbone.forward_intermediates(video.flatten(0, 1), 1, norm=True, intermediates_only=True)
    torch.testing.assert_close(maps.flatten(0, 1), theirs)


@torch.no_grad()
def test_pooling_the_map_of_a_vit_that_pools_gives_its_feature():
    mean = d2st.adapt(VisionTransformer(**VIT, global_pool="avg", fc_norm=False), frames=FRAMES)
    features, maps = mean.features_and_maps(clips())
    torch.testing.assert_close(maps.mean((3, 4)), features)
    attention = encoder_of("siglip")
    features, maps = attention.features_and_maps(clips())
    pooled = attention.backbone.attn_pool(maps.flatten(0, 1).flatten(2).transpose(1, 2))
    torch.testing.assert_close(pooled.unflatten(0, (2, FRAMES)), features)


@torch.no_grad()
def test_rows_are_rows_on_frames_that_are_not_square():
    """A change at the bottom left of the frames shows most at the bottom left of the maps."""
    encoders = {
        "vit": d2st.adapt(VisionTransformer(**VIT, dynamic_img_size=True), d2st.NoneConfig(), frames=FRAMES),
        "resnet": d2st.adapt(BACKBONES["resnet-basic"](), d2st.NoneConfig(), frames=FRAMES),
    }
    for name, cell in (("vit", 8), ("resnet", 32)):
        video = clips(batch=1, size=(3 * cell, 5 * cell))
        changed = video.clone()
        changed[..., 2 * cell :, :cell] += 1
        maps, others = (encoders[name].features_and_maps(clip)[1] for clip in (video, changed))
        assert maps.shape[3:] == (3, 5)
        change = (maps - others).square().sum((0, 1, 2))
        assert change.argmax() == 2 * 5, name


def test_gradients_reach_the_adapters_through_the_maps():
    encoder = encoder_of("vit").train()
    encoder.features_and_maps(clips())[1].square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in encoder.adapters.blocks_1.up.parameters())


def test_systems_with_a_way_of_their_own_are_refused_with_a_sentence():
    for config in (d2st.DiSTConfig(width=16, temporal_width=8), d2st.DualPathConfig(tiles=2, spatial_frames=4)):
        encoder = d2st.adapt(BACKBONES["vit"](), config, frames=FRAMES)
        with pytest.raises(D2STError, match=r"has no map for each frame\. .*such as d2st"):
            encoder.features_and_maps(clips())
    with pytest.raises(D2STError, match="does not end in a feature map"):
        as_maps(torch.nn.Identity(), torch.zeros(2, 5, 3), (32, 32))
