"""Formulas, sizes and options of the compared systems, and what they refuse."""

import pytest
import timm
import torch
from families import FRAMES, VIT, VITS, clips, gradients, move
from safetensors.torch import save_file
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer

import d2st
from d2st.adapters.aim import Drop
from d2st.adapters.dualpath import frameset_codes, make_framesets


def adapt(config, family="clip-vit", frames=FRAMES, **kwargs):
    torch.manual_seed(0)
    encoder = d2st.adapt(VITS[family](), config, frames=frames, **kwargs)
    move(encoder)
    return encoder


def test_st_adapter_sits_before_attention_and_before_the_mlp():
    encoder, video = adapt(d2st.STConfig()), clips()
    model, ours = encoder.backbone, encoder.adapters
    plain = VITS["clip-vit"]().eval()
    plain.load_state_dict(model.state_dict())
    with torch.no_grad():
        x = plain.norm_pre(plain._pos_embed(plain.patch_embed(video.flatten(0, 1))))
        for i, block in enumerate(plain.blocks):
            x = ours[f"blocks_{i}_attention"](x.unflatten(0, (2, FRAMES)), (4, 4)).flatten(0, 1)
            x = x + block.attn(block.norm1(x))
            x = ours[f"blocks_{i}_mlp"](x.unflatten(0, (2, FRAMES)), (4, 4)).flatten(0, 1)
            x = x + block.mlp(block.norm2(x))
        expected = plain.norm(x)[:, 0].unflatten(0, (2, FRAMES))
        torch.testing.assert_close(encoder(video), expected, rtol=1e-5, atol=1e-5)


def test_st_adapter_averages_before_the_last_norm_and_aim_after_it():
    torch.manual_seed(0)
    video = clips()
    st, aim = (d2st.VideoClassifier(adapt(config), 5) for config in (d2st.STConfig(), d2st.AIMConfig()))
    with torch.no_grad():
        for parameter in st.encoder.backbone.parameters():  # random ViTs tell random frames hardly apart
            parameter.add_(torch.randn_like(parameter) * 0.2)
        after = st.head.linear(st.encoder(video).mean(1))
        assert not torch.allclose(st(video), after, atol=1e-3)
        assert torch.equal(aim(video), aim.head.linear(aim.encoder(video).mean(1)))
    assert {id(p) for p in st.trainable_parameters()} == {
        id(p) for p in [*st.encoder.trainable_parameters(), *st.head.parameters()]
    }
    assert st.train().head.dropout.training and not st.encoder.backbone.training
    on_cnn = d2st.adapt(ResNet(BasicBlock, (1, 1, 1, 1), num_classes=0, channels=(8, 8, 16, 16)), d2st.STConfig())
    assert d2st.VideoClassifier(on_cnn, 5)(clips()).shape == (2, 5)


@pytest.mark.parametrize(
    "config",
    [d2st.STConfig(kernel=(3, 3, 3)), d2st.AIMConfig(), d2st.DualPathConfig(tiles=2), d2st.DiSTConfig(width=32)],
)
def test_frames_not_square(config):
    encoder = d2st.adapt(VisionTransformer(**VIT | dict(img_size=(32, 48))), config, frames=FRAMES)
    assert encoder(clips(size=(32, 48))).shape[2] == encoder.num_features


def test_frames_of_another_size_on_a_backbone_that_takes_all():
    backbone = VisionTransformer(**VIT, dynamic_img_size=True)
    encoder = d2st.adapt(backbone, d2st.DiSTConfig(width=32), frames=FRAMES)
    assert encoder(clips(size=(40, 64))).shape == (2, FRAMES // 2, 32)
    encoder = d2st.adapt(VisionTransformer(**VIT, dynamic_img_size=True), d2st.DualPathConfig(tiles=2), frames=FRAMES)
    with pytest.raises(d2st.D2STError, match=r"DualPathConfig.*32x32 px, not 40x64.*image_size=\(40, 64\)"):
        encoder(clips(size=(40, 64)))


@pytest.mark.parametrize(
    "config",
    [
        d2st.STConfig(temporal_embedding=True, train_class_token=True, train_final_norm=True),
        d2st.STConfig(places="end"),
        d2st.DSTConfig(activate="branches", activation="gelu", fusion="sum"),
        d2st.D2STConfig(
            fusion="sum", offset_norm=False, activations=("fusion",), temporal_embedding=False,
            train_class_token=False, train_final_norm=False,
        ),
        d2st.AIMConfig(drop_path_axis="clip"),
        d2st.DualPathConfig(tiles=2, input_adapter=False, width=12),
    ],
    ids=lambda config: config.name,
)  # fmt: skip
def test_settings_beside_the_defaults(config, tmp_path):
    encoder, video = adapt(config), clips()
    got = gradients(encoder.train(), video)
    assert len(got) == len(encoder.trainable_parameters()) and all(g.isfinite().all() for g in got.values())
    encoder.eval().save_pretrained(tmp_path)
    torch.manual_seed(0)
    again = d2st.load(tmp_path, backbone=VITS["clip-vit"]())
    assert again.config == config
    with torch.no_grad():
        assert torch.equal(again(video), encoder(video))


def test_st_adapter_at_the_end_of_the_last_block_does_not_reach_the_class_token():
    got = gradients(adapt(d2st.STConfig(places="end")), clips())
    without = {name.split(".")[1] for name, gradient in got.items() if gradient.abs().max() == 0}
    assert without == {"blocks_2"}


def test_dualpath_by_name_with_clips_projection(tmp_path):
    name, config = "vit_xsmall_patch16_clip_224.tinyclip_yfcc15m", d2st.DualPathConfig(tiles=2, projection=True)
    options, video = {"frames": FRAMES, "image_size": 32}, clips(batch=1)
    encoder = d2st.adapt(name, config, pretrained=False, **options)
    head = encoder.backbone.get_classifier()
    assert encoder.num_features == 2 * head.out_features == 1024 and not head.weight.requires_grad
    with torch.no_grad():
        projected = encoder(video)
        encoder.passage.config = d2st.DualPathConfig(tiles=2)
        torch.testing.assert_close(projected, head(encoder(video).unflatten(2, (2, -1))).flatten(2))

    save_file(encoder.backbone.state_dict(), tmp_path / "clip.safetensors")
    encoder = d2st.adapt(name, config, pretrained=tmp_path / "clip.safetensors", **options)
    move(encoder)
    encoder.save_pretrained(tmp_path)
    again = d2st.load(tmp_path, weights=tmp_path / "clip.safetensors")
    with torch.no_grad():
        assert torch.equal(again(video), encoder(video))
    with pytest.raises(d2st.D2STError, match="without the projection of a CLIP"):  # classes are not a projection
        d2st.adapt("vit_tiny_patch16_224", config, pretrained=False, **options)


@pytest.mark.parametrize("config", [d2st.VanillaConfig(), d2st.STConfig(), d2st.DSTConfig(), d2st.AIMConfig()])
def test_other_lengths(config):
    encoder = adapt(config, frames=4)
    for frames in (1, 4, 7, 16):
        assert encoder(clips(frames=frames)).shape == (2, frames, 32)


def test_length_that_framesets_and_dense_frames_are_laid_out_for():
    for config in (d2st.DualPathConfig(tiles=2), d2st.DiSTConfig(width=32)):
        with pytest.raises(d2st.D2STError, match=f"{type(config).__name__}.*clips of 8 frames, not 16"):
            adapt(config)(clips(frames=16))
    assert adapt(d2st.DualPathConfig(), frames=32)(clips(batch=1, frames=32)).shape == (1, 8, 64)
    assert adapt(d2st.DiSTConfig(stride=1, width=32))(clips()).shape == (2, FRAMES, 32)
    assert adapt(d2st.DiSTConfig(width=32, feature="video", out_features=24))(clips()).shape == (2, 1, 24)


@pytest.mark.parametrize("tiles", [2, 4])
def test_frameset_tiles_are_in_reading_order(tiles):
    frames = 2 * tiles**2
    video = torch.arange(1.0, frames + 1).view(1, frames, 1, 1, 1).expand(1, frames, 3, 16, 16)
    images = make_framesets(video, tiles, antialias=False)  # one color a frame: the color is the index
    middles = images[0, :, 0, 8 // tiles :: 16 // tiles, 8 // tiles :: 16 // tiles]
    assert torch.equal(middles.flatten(), torch.arange(1.0, frames + 1))
    codes = frameset_codes(2, tiles, (16, 16), 8, 1, antialias=False)
    assert torch.equal(codes[:, 0], torch.tensor([0.0, 1.0]).repeat(2, 4)), "the class token's index is 0"
    patches = codes[:, 1:, 0].view(2, 16, 16)[:, 8 // tiles :: 16 // tiles, 8 // tiles :: 16 // tiles]
    torch.testing.assert_close(patches.flatten(), torch.arange(1.0, frames + 1).sin())


def test_tokens_of_a_2x2_frameset_see_one_frame_each():
    codes = frameset_codes(1, 2, (14, 14), 8, 0, antialias=False).view(14, 14, 8).round(decimals=4)
    assert len(codes.flatten(0, 1).unique(dim=0)) == 4
    assert torch.equal(codes[:7, :7].flatten(0, 1).unique(dim=0), codes[0, 0].unsqueeze(0))


@pytest.mark.parametrize(("axis", "dims"), [("token", (0, 1, 3)), ("clip", (1, 2, 3))])
def test_drop_path_drops_whole_tokens_or_clips(axis, dims):
    torch.manual_seed(0)
    drop, x = Drop(0.5, axis).train(), torch.ones(6, 3, 7, 2)
    y = drop(x)
    alive = y.amax(dims)
    assert torch.equal(alive, y.amin(dims)) and set(alive.tolist()) == {0.0, 2.0}
    assert torch.equal(drop.eval()(x), x)


def test_full_fine_tuning_keeps_batch_statistics_and_the_classifier():
    backbone = ResNet(BasicBlock, (1, 1, 1, 1), num_classes=3, channels=(8, 8, 16, 16))
    encoder = d2st.adapt(backbone, d2st.FullConfig()).train()
    before = backbone.bn1.running_mean.clone()
    encoder(clips()).sum().backward()
    assert torch.equal(backbone.bn1.running_mean, before)
    assert backbone.bn1.weight.grad is not None and backbone.layer4.training
    assert not backbone.fc.weight.requires_grad


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (d2st.DualPathConfig(), r"frames=16 as released\), or tiles=2"),
        (d2st.DualPathConfig(tiles=2, projection=True), "without the projection"),
        (d2st.DiSTConfig(stride=3), "multiple of stride=3"),
        (d2st.D2STConfig(spatial=(1, 1, 1), reference_map=(256, 32, 32)), "windows of 262,144 of the cells"),
    ],
)
def test_refusals_of_configs_are_sentences(config, message):
    with pytest.raises(d2st.D2STError, match=f"{type(config).__name__}.*{message}"):
        adapt(config)


@pytest.mark.parametrize(
    ("system", "settings", "message"),
    [
        (d2st.STConfig, {"kernel": (2, 1, 1)}, r"three odd sizes"),
        (d2st.STConfig, {"kernel": (3, 1)}, r"kernel=\(3, 1\) must be a list of 3 whole numbers"),
        (d2st.STConfig, {"width": 8, "ratio": 0.5}, r"width.*or ratio"),
        (d2st.STConfig, {"places": "attn"}, "'attention', 'mlp', 'both' or 'end'"),
        (d2st.AIMConfig, {"drop_path": 1.0}, "at least 0 and below 1"),
        (d2st.AIMConfig, {"temporal_adapters": 3}, "must be 1 or 2"),
        (d2st.AIMConfig, {"drop_path_axis": "video"}, "'token' or 'clip'"),
        (d2st.DiSTConfig, {"width": 100}, "multiple of 64"),
        (d2st.DiSTConfig, {"stem_frames": 4}, "stem_frames=4 must be odd"),
        (d2st.DiSTConfig, {"feature": "clip"}, "'frames' or 'video'"),
        (d2st.D2STConfig, {"fusion": "average"}, "'mean' or 'sum'"),
        (d2st.D2STConfig, {"activations": ("down", "fuse", "up")}, "Did you mean 'fusion'"),
        (d2st.D2STConfig, {"activations": "fusion"}, "a list of 'down'"),
        (d2st.D2STConfig, {"pathways": "temporal "}, "Did you mean 'temporal'"),
        (d2st.D2STConfig, {"positions": "lat"}, "Did you mean 'late'"),
        (d2st.D2STConfig, {"spatial": ()}, "spatial is an empty list"),
        (d2st.D2STConfig, {"positions": []}, "positions is an empty list"),
        (d2st.D2STConfig, {"spatial": (2, 4)}, r"spatial=\(2, 4\)"),
        (d2st.D2STConfig, {"spatial": (10**9,) * 3}, "1000000000"),
        (d2st.D2STConfig, {"spatial": (4096, 4096, 4096)}, "68,719,476,736 points"),
        (d2st.D2STConfig, {"ratio": float("nan")}, "finite number above 0 and at most 1"),
        (d2st.D2STConfig, {"groups": (4, 0)}, "at least 1|from 1 to"),
        (d2st.VanillaConfig, {"activation": "ReLU"}, "Did you mean 'relu'"),
        (d2st.DSTConfig, {"activate": "branch"}, "Did you mean 'branches'"),
    ],
)
def test_values_that_mean_nothing_are_refused_where_a_config_is_made(system, settings, message):
    with pytest.raises(d2st.D2STError, match=f"{system.__name__}: .*{message}"):
        system(**settings)


def test_lists_are_tuples_in_a_config():
    config = d2st.D2STConfig(groups=[4, 4], positions=[0, 1], spatial=[[2, 4, 4], [1, 2, 2]])
    assert config == d2st.D2STConfig(groups=(4, 4), positions=(0, 1), spatial=((2, 4, 4), (1, 2, 2)))
    assert config.label == "d2st positions=(0,1) spatial=((2,4,4),(1,2,2)) groups=(4,4)"


def test_refusals_of_classes_are_sentences():
    with pytest.raises(d2st.D2STError, match="STConfig takes the number of classes"):
        d2st.VideoClassifier(adapt(d2st.STConfig()), 0)
    with pytest.raises(d2st.D2STError, match="of 3 classes got 2 names; give one for each class"):
        d2st.VideoClassifier(adapt(d2st.STConfig()), 3, ["a", "b"])
    with pytest.raises(d2st.D2STError, match="got the name 'a' for two classes"):
        d2st.VideoClassifier(adapt(d2st.STConfig()), 3, ["a", "b", "a"])
    with pytest.raises(d2st.D2STError, match='feature="video"'):
        d2st.VideoClassifier(adapt(d2st.DiSTConfig(width=32)), torch.zeros(3, 32))
    with pytest.raises(d2st.D2STError, match=r"text features, \(classes, 32\), not 5"):
        d2st.VideoClassifier(adapt(d2st.DiSTConfig(width=32, feature="video")), 5)


def test_blocks_of_another_build_are_refused():
    from timm.models.vision_transformer import ResPostBlock

    backbone = VisionTransformer(**VIT, block_fn=ResPostBlock)
    with pytest.raises(d2st.D2STError, match=r"AIMConfig.*ResPostBlock"):
        d2st.adapt(backbone, d2st.AIMConfig())
    assert d2st.adapt(backbone, d2st.STConfig(places="end"))(clips()).shape == (2, FRAMES, 32)


def test_full_fine_tuning_leaves_both_classifiers_of_a_distilled_model_alone():
    model = timm.create_model("deit_tiny_distilled_patch16_224", img_size=32, depth=1, embed_dim=48, num_heads=2)
    encoder = d2st.adapt(model, "full", frames=FRAMES)
    frozen = {name for name, p in encoder.backbone.named_parameters() if not p.requires_grad}
    assert frozen == {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"}
