"""Adapter files: what is in them, and what they refuse to be put on."""

import json
import time

import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.layers.activations import QuickGELU
from timm.models.vision_transformer import VisionTransformer

import d2st
from d2st import D2STConfig, D2STError
from d2st.adapter_file import config_from_dict
from d2st.backbones.fingerprint import fingerprint

VIT = dict(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=0)


def video(size=32):
    return torch.randn(1, 4, 3, size, size, generator=torch.Generator().manual_seed(0))


def trained(backbone, **config):
    encoder = d2st.adapt(backbone, D2STConfig(**config), frames=4)
    with torch.no_grad():
        for parameter in encoder.trainable_parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return encoder


def vit(seed=0, **changes):
    torch.manual_seed(seed)
    return VisionTransformer(**VIT | changes)


def test_round_trip_holds_the_adapter_only(tmp_path):
    encoder = trained(vit(), spatial=(1, 2, 2), positions=(1,))
    encoder.save_pretrained(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    keys = load_file(tmp_path / "adapter_model.safetensors").keys()
    assert keys == {n for n, p in encoder.adapters.named_parameters()} | {
        f"backbone.{n}" for n in encoder.trained_names
    }
    again = d2st.load(tmp_path, backbone=vit())
    assert again.config == encoder.config and again.frames == 4
    with torch.no_grad():
        assert torch.equal(again(video()), encoder(video()))


def test_backbone_by_name_from_a_file(tmp_path):
    torch.manual_seed(0)
    weights = tmp_path / "w.pth"
    torch.save(timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict(), weights)
    encoder = d2st.adapt(
        "vit_tiny_patch16_224", D2STConfig(positions=(0,)), frames=4, pretrained=weights, image_size=32
    )
    encoder.save_pretrained(tmp_path / "a")
    with pytest.raises(D2STError, match=r"weights from the file 'w.pth'.*--weights"):
        d2st.load(tmp_path / "a")
    again = d2st.load(tmp_path / "a", weights=weights)
    with torch.no_grad():
        assert torch.equal(again(video()), encoder(video()))


def test_shipped_backbone_needs_nothing_else(tmp_path):
    d2st.adapt("d2st_stills", frames=4).save_pretrained(tmp_path)
    assert d2st.load(tmp_path).backbone_name == "d2st_stills"


def test_refuses_other_backbones(tmp_path):
    trained(vit()).save_pretrained(tmp_path)
    with pytest.raises(D2STError, match=r"VisionTransformer.*cannot go onto a ResNet"):
        d2st.load(tmp_path, backbone=timm.create_model("resnet18", num_classes=0))
    with pytest.raises(D2STError, match="other weights"):
        d2st.load(tmp_path, backbone=vit(seed=1))
    with pytest.raises(D2STError, match="features of 32, not of 64"):
        d2st.load(tmp_path, backbone=vit(embed_dim=64))
    with pytest.raises(D2STError, match="not built by name"):
        d2st.load(tmp_path)


def test_refuses_the_same_weights_behind_another_activation(tmp_path):
    """CLIP's weights, which were trained with QuickGELU, go into timm's models with GELU, too."""
    encoder = trained(vit(act_layer=QuickGELU))
    encoder.save_pretrained(tmp_path)
    with pytest.raises(D2STError, match=r"was trained on a VisionTransformer .* with QuickGELU, .* this one with GELU"):
        d2st.load(tmp_path, backbone=vit())
    with torch.no_grad():
        assert torch.equal(d2st.load(tmp_path, backbone=vit(act_layer=QuickGELU))(video()), encoder(video()))
    path = tmp_path / "adapter_config.json"
    about = json.loads(path.read_text())
    del about["backbone"]["activations"]  # of an earlier version
    path.write_text(json.dumps(about))
    assert d2st.load(tmp_path, backbone=vit()).frames == 4


@pytest.mark.parametrize(
    ("build", "other"),
    [
        (vit, {"global_pool": "avg", "fc_norm": False}),
        (lambda **changes: timm.create_model("test_resnet", num_classes=0, **changes), {"global_pool": "max"}),
        (lambda **changes: timm.create_model("test_convnext", num_classes=0, **changes), {"global_pool": "max"}),
    ],
)
def test_refuses_the_same_weights_behind_another_pooling(build, other, tmp_path):
    """No weight says how timm pools the last map, and the feature is another one."""
    backbone, alike, pooled = build(), build(), build(**other)
    for model in (alike, pooled):
        model.load_state_dict(backbone.state_dict())
    encoder = d2st.adapt(backbone, d2st.VanillaConfig(train_class_token=False, train_final_norm=False), frames=4)
    encoder.save_pretrained(tmp_path)
    with pytest.raises(
        D2STError, match=r"with global_pool='(token|avg)'; this one with global_pool='(avg|max)' makes other"
    ):
        d2st.load(tmp_path, backbone=pooled)
    with torch.no_grad():
        assert torch.equal(d2st.load(tmp_path, backbone=alike)(video()), encoder(video()))
    path = tmp_path / "adapter_config.json"
    about = json.loads(path.read_text())
    del about["backbone"]["pooling"]  # of an earlier version
    path.write_text(json.dumps(about))
    assert d2st.load(tmp_path, backbone=pooled).frames == 4


def test_frames_are_normalized_as_in_the_training(tmp_path):
    """A model with the same weights that was built by hand says nothing of what it was trained on."""
    backbone = vit()
    backbone.pretrained_cfg = {"mean": (0.48, 0.46, 0.41), "std": (0.27, 0.26, 0.28), "interpolation": "bilinear"}
    encoder = trained(backbone)
    encoder.save_pretrained(tmp_path)
    again = d2st.load(tmp_path, backbone=vit())
    assert d2st.adapt(vit(), frames=4).preprocessing != encoder.preprocessing
    assert again.preprocessing == encoder.preprocessing
    frames = torch.randint(0, 256, (4, 3, 40, 48), dtype=torch.uint8)
    assert torch.equal(again.transform()(frames), encoder.transform()(frames))


def test_broken_files_are_named(tmp_path):
    with pytest.raises(D2STError, match=r"neither a folder with adapter_config\.json"):
        d2st.load(tmp_path / "nowhere")
    with pytest.raises(D2STError, match=r"holds no adapter_config.json"):
        d2st.load(tmp_path)
    trained(vit()).save_pretrained(tmp_path / "run" / "best")
    with pytest.raises(D2STError, match=r"save_pretrained\. The one that its training kept is in '.*best': give that"):
        d2st.load(tmp_path / "run")
    trained(vit()).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    weights = (tmp_path / "adapter_model.safetensors").read_bytes()
    (tmp_path / "adapter_model.safetensors").write_bytes(weights[:1000])
    with pytest.raises(D2STError, match=r"adapter_model.safetensors' cannot be read"):
        d2st.load(tmp_path, backbone=vit())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"format": 99}))
    with pytest.raises(D2STError, match="format 99"):
        d2st.load(tmp_path, backbone=vit())
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(D2STError, match="not the JSON"):
        d2st.load(tmp_path, backbone=vit())


@pytest.mark.parametrize("saved", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("given", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_backbones_are_compared_at_the_lower_precision(saved, given, tmp_path):
    trained(vit().to(saved)).save_pretrained(tmp_path)
    spec = json.loads((tmp_path / "adapter_config.json").read_text())["backbone"]
    assert spec["dtype"] == str(torch.promote_types(saved, torch.half)).removeprefix("torch.").replace("64", "32") or (
        spec["dtype"] == "bfloat16"
    )
    if {saved, given} == {torch.bfloat16, torch.float16}:
        with pytest.raises(
            D2STError, match=r"cannot be compared with these in .*float16: pass the backbone in float32"
        ):
            d2st.load(tmp_path, backbone=vit().to(given))
        return
    encoder = d2st.load(tmp_path, backbone=vit().to(given))
    assert encoder(video()).dtype == given
    with pytest.raises(D2STError, match="other weights"):
        d2st.load(tmp_path, backbone=vit(seed=1).to(given))


@pytest.mark.parametrize(
    ("field", "value"), [("dtype", ["float32"]), ("rounded", ["bfloat16"]), ("rounded", 5), ("pooling", 3)]
)
def test_what_a_file_says_of_the_weights_is_checked(field, value, tmp_path):
    trained(vit()).save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    about = json.loads(path.read_text())
    about["backbone"][field] = value
    path.write_text(json.dumps(about))
    with pytest.raises(D2STError, match=rf"backbone: {field}=.* must be"):
        d2st.load(tmp_path, backbone=vit().to(torch.bfloat16))


def test_files_from_before_precision_was_in_them(tmp_path):
    trained(vit()).save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    about = json.loads(path.read_text())
    del about["backbone"]["dtype"], about["backbone"]["rounded"]
    path.write_text(json.dumps(about))
    assert d2st.load(tmp_path, backbone=vit()).frames == 4
    with pytest.raises(D2STError, match="pass the backbone in float32"):
        d2st.load(tmp_path, backbone=vit().half())


def test_a_refused_load_leaves_the_backbone_as_it_was(tmp_path):
    trained(vit()).save_pretrained(tmp_path / "a")
    trained(vit(img_size=48)).save_pretrained(tmp_path / "other_size")
    trained(vit(), ratio=0.5).save_pretrained(tmp_path / "b")
    (tmp_path / "b" / "adapter_model.safetensors").write_bytes(
        (tmp_path / "a" / "adapter_model.safetensors").read_bytes()
    )
    backbone = vit(seed=1).train()
    backbone.blocks[0].eval()
    before, table = {k: v.clone() for k, v in backbone.state_dict().items()}, backbone.pos_embed
    for folder in ("a", "other_size", "a"):
        with pytest.raises(D2STError, match="other weights"):
            d2st.load(tmp_path / folder, backbone=backbone)
        assert backbone.pos_embed is table and backbone.patch_embed.img_size == (32, 32)
        assert all(p.requires_grad for p in backbone.parameters())
        assert backbone.training and not backbone.blocks[0].training and backbone.blocks[1].training
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in backbone.modules())
        assert all(torch.equal(tensor, before[key]) for key, tensor in backbone.state_dict().items())
    right = vit()
    with pytest.raises(D2STError, match="other shapes"):
        d2st.load(tmp_path / "b", backbone=right)
    assert torch.equal(right.cls_token, vit().cls_token)
    assert d2st.load(tmp_path / "a", backbone=right).frames == 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"frames": 10**9}, "frames=1000000000 must be a whole number from 1 to 4096"),
        ({"frames": "4"}, "frames"),
        ({"image_size": [10**6, 10**6]}, "image_size="),
        ({"adapter": {"name": "d2st", "spatial": [10**9] * 3}}, "spatial="),
        ({"adapter": {"name": "d2st", "spatial": [4096] * 3}}, "68,719,476,736 points"),
        ({"adapter": {"name": "d2st", "ratio": "x"}}, "ratio='x' must be a number"),
        ({"adapter": {"name": "st", "width": 10**9}}, "width=1000000000"),
        ({"adapter": {"name": "dist", "width": 64 * 10**6}}, "width=64000000"),
    ],
)
def test_sizes_in_a_file_are_bounded_before_anything_is_built(change, said, tmp_path):
    trained(vit()).save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    start = time.process_time()
    with pytest.raises(D2STError, match=said):
        d2st.load(tmp_path, backbone=vit())
    assert time.process_time() - start < 2


def test_configs_from_json():
    config = D2STConfig(spatial=((1, 2, 2), (2, 3, 3)), positions=(0, 1))
    fields = json.loads(json.dumps({"name": "d2st", **vars(config)}))
    assert config_from_dict(fields) == config
    with pytest.raises(D2STError, match=r"no field \['color'\]"):
        config_from_dict({"name": "d2st", "color": 1})
    with pytest.raises(D2STError, match="is not one of"):
        config_from_dict({"name": "magic"})


def test_adapter_weights_of_another_shape_are_refused():
    encoder, other = trained(vit()), trained(vit(), ratio=0.5)
    with pytest.raises(D2STError, match="other shapes"):
        encoder.load_adapter_state_dict(other.adapter_state_dict())


def test_fingerprint_sees_values_and_ignores_what_trains():
    backbone = vit()
    before = fingerprint(backbone, ("cls_token",))
    with torch.no_grad():
        backbone.cls_token.add_(1)
        assert fingerprint(backbone, ("cls_token",)) == before
        backbone.pos_embed[0, 0, 0] += 1e-3
    assert fingerprint(backbone, ("cls_token",)) != before
    assert fingerprint(vit().to(torch.float64)) == fingerprint(vit()), "precision of a copy must not matter"
