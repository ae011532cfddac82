"""What every adapter system promises on every family of backbones; test_encoder.py holds D²ST to more."""

import copy
import io
import pickle

import pytest
import torch
from families import BACKBONES, CNNS, FRAMES, SIZE, VITS, check_clips_do_not_mix, clips, gradients, move, same

import d2st
from d2st.adapters import SYSTEMS

CONFIGS = {
    "none": d2st.NoneConfig(),
    "full": d2st.FullConfig(),
    "vanilla": d2st.VanillaConfig(),
    "st": d2st.STConfig(),
    "dst": d2st.DSTConfig(),
    "d2st-local": d2st.D2STLocalConfig(),
    "aim": d2st.AIMConfig(temporal_adapters=2, drop_path=0),
    "task-adapter": d2st.TaskAdapterConfig(),
    "dualpath": d2st.DualPathConfig(tiles=2, dropout=0),
    "dist": d2st.DiSTConfig(width=32, temporal_width=8, pool_layers=1),
    "dia": d2st.DiAConfig(),
    "lora": d2st.LoRAConfig(dropout=0),
    "zeroi2v": d2st.ZeroI2VConfig(dropout=0),
    "lsn": d2st.LSNConfig(width=32),
    "side4video": d2st.Side4VideoConfig(width=32),
}
FEATURES = {"dist": FRAMES // 2}  # vectors a clip, where that is not one a frame
VIT_ONLY = {"aim", "task-adapter", "dualpath", "dist", "lora", "zeroi2v", "lsn", "side4video"}
ONE_LENGTH = {"dualpath", "dist"}  # laid out for clips of as many frames as were said
ONE_SIZE = {*VITS, "clip-resnet", "swin"}  # position tables or windows are laid out for one size of frames
CLASS_TOKEN_ALONE = {"vit", "clip-vit", "dinov2-registers"}  # what their feature is read from
REFUSED = [
    ("dualpath", "dinov3"),  # no position table
    ("dist", "siglip"),  # no class token
    ("lora", "dinov3"),  # its attention never calls the layer of queries, keys and values
    ("zeroi2v", "dinov3"),
    ("lsn", "siglip"),  # no class token
    ("side4video", "siglip"),
]
PAIRS = [(s, f) for s in CONFIGS for f in BACKBONES if (s not in VIT_ONLY or f in VITS) and (s, f) not in REFUSED]
LIGHT = [(s, f) for s, f in PAIRS if f == "clip-vit" or (f == "resnet-basic" and s in ("st", "dst", "d2st-local"))]


def encoder_of(system, family, moved=True):
    torch.manual_seed(0)
    encoder = d2st.adapt(BACKBONES[family](), CONFIGS[system], frames=FRAMES, image_size=SIZE)
    if moved:
        move(encoder)
    return encoder


def has_no_gradient(system, family, name):
    """Parameters that get none, and why."""
    convolutions = {
        "st": "adapters.blocks_2_mlp.",
        "dst": ("adapters.blocks_2.spatial.", "adapters.blocks_2.temporal."),
        "d2st-local": tuple(f"adapters.blocks_2.pathways.{name}.attention.bias." for name in ("spatial", "temporal")),
    }
    if family in CLASS_TOKEN_ALONE and system in convolutions and name.startswith(convolutions[system]):
        return True  # after the last attention nothing of the patches reaches the class token any more
    if system == "d2st-local" and name.endswith("attention.value.bias"):
        return True  # cancels in the difference of values, but for class and register tokens
    if system == "side4video" and name in (
        "passage.stem.bias",
        "passage.blocks.2.proj.bias",
        "passage.blocks.2.fc2.bias",
    ):
        return True  # cancels in the batch's mean
    return name.endswith(("key.bias", "attn_pool.kv.bias"))  # cancels in the softmax


def test_every_system_is_held_to_the_contract():
    assert SYSTEMS.keys() == CONFIGS.keys() | {"d2st"}
    assert all(isinstance(config, SYSTEMS[name]) for name, config in CONFIGS.items())


@pytest.mark.parametrize(("system", "family"), PAIRS)
def test_contract(system, family):
    encoder, video = encoder_of(system, family, moved=False), clips()
    backbone = encoder.backbone
    with torch.no_grad():
        features = encoder(video)
        assert features.shape == (2, FEATURES.get(system, FRAMES), encoder.num_features)
        frozen = BACKBONES[family]().eval()
        frozen.load_state_dict(backbone.state_dict())
        expected = frozen.forward_head(frozen.forward_features(video.flatten(0, 1)), pre_logits=True)
        if encoder.config.starts_as_backbone:
            assert same(features.flatten(0, 1), expected, family), "not the frozen backbone at the start"
        else:
            assert features.shape != (2, FRAMES, *expected.shape[1:]) or not torch.allclose(
                features.flatten(0, 1), expected
            ), "it starts as the frozen backbone, and says that it does not"

    move(encoder)
    plain = gradients(encoder.train(), video) if system != "none" else {}
    assert system == "full" or not any(module.training for module in backbone.modules())
    assert system != "full" or backbone.training
    assert not any(m.training for m in backbone.modules() if isinstance(m, torch.nn.BatchNorm2d))
    for name, parameter in encoder.named_parameters():
        if name.startswith("passage.layers.2.to_temporal."):
            assert not parameter.requires_grad  # nothing comes after it
        elif not parameter.requires_grad:
            assert name.startswith("backbone.") and name.removeprefix("backbone.") not in encoder.trained_names
        elif not has_no_gradient(system, family, name):
            assert name in plain and plain[name].abs().max() > 0, f"{name} gets no gradient"
    if plain:
        encoder.set_grad_checkpointing(True)
        for name, gradient in gradients(encoder, video).items():
            torch.testing.assert_close(gradient, plain[name], rtol=1e-3, atol=1e-5, msg=name)
        encoder.set_grad_checkpointing(False)

    encoder.eval()
    with torch.no_grad():
        before = encoder(video)
        other = copy.deepcopy(encoder) if system == "full" else pickle.loads(pickle.dumps(encoder))
        assert same(other(video), before, family)
        for parameter in other.trainable_parameters():
            parameter.mul_(0.5)
        assert system == "none" or not torch.equal(other(video), before), "the copy runs the original's adapters"
        assert same(encoder(video), before, family), "changing the copy changed the original"
        assert same(copy.deepcopy(encoder)(video), before, family)
        other.load_adapter_state_dict(encoder.adapter_state_dict())
        assert same(other(video), before, family), "the adapter's file does not hold all that was trained"
        frames, size = 5 if system not in ONE_LENGTH else FRAMES, (SIZE, SIZE if family in ONE_SIZE else 48)
        features = encoder(clips(batch=1, frames=frames, size=size))
        assert features.shape == (1, FEATURES.get(system, frames), encoder.num_features) and features.isfinite().all()


@pytest.mark.parametrize(("system", "family"), [(s, f) for s, f in PAIRS if f in ("clip-vit", "resnet-bottleneck")])
def test_a_clip_s_features_do_not_depend_on_its_batch(system, family):
    check_clips_do_not_mix(encoder_of(system, family))


@pytest.mark.parametrize("family", BACKBONES)
def test_st_classifier_on_every_family(family):
    """It averages frames before a ViT's last norm, for which it reads tokens in timm's own way."""
    model = d2st.VideoClassifier(encoder_of("st", family), 5)
    model(clips()).sum().backward()
    assert all(parameter.grad is not None for parameter in model.trainable_parameters())
    with torch.no_grad():
        still = clips()[:, :1].expand(-1, FRAMES, -1, -1, -1)  # one frame again and again: the order does not matter
        model.encoder.adapters.requires_grad_(False).apply(_zero)
        expected = model.head.linear(model.encoder(still)[:, 0])
        torch.testing.assert_close(model(still), expected, rtol=1e-4, atol=1e-5)


def _zero(module):
    for parameter in module.parameters(recurse=False):
        parameter.zero_()


@pytest.mark.parametrize(("system", "family"), LIGHT)
def test_compiles_without_graph_breaks(system, family):
    encoder, video = encoder_of(system, family), clips()
    torch._dynamo.reset()
    compiled = torch.compile(encoder, backend="aot_eager", fullgraph=True)
    if system == "none":
        return torch.testing.assert_close(compiled(video), encoder(video), rtol=1e-4, atol=1e-5)
    expected = gradients(encoder, video)
    for name, gradient in gradients(compiled, video).items():
        torch.testing.assert_close(gradient, expected[name.removeprefix("_orig_mod.")], rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    "system",
    ["st", "d2st-local", "aim", "task-adapter", "dualpath", "dist", "dia", "lora", "zeroi2v", "lsn", "side4video"],
)  # those that reach into blocks, or beside them
def test_exports(system):
    encoder, video = encoder_of(system, "clip-vit"), clips()
    file = io.BytesIO()
    torch.export.save(torch.export.export(encoder, (video,)), file)
    file.seek(0)
    with torch.no_grad():
        torch.testing.assert_close(torch.export.load(file).module()(video), encoder(video), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", CNNS)
@pytest.mark.parametrize(
    "config",
    [CONFIGS[s] for s in CONFIGS if s in VIT_ONLY] + [d2st.STConfig(places="both"), d2st.DiAConfig(place="input")],
)
def test_unsuitable_backbones_are_refused_by_name(config, family):
    refused(config, family)


@pytest.mark.parametrize(("system", "family"), REFUSED)
def test_unsuitable_vits_are_refused_by_name(system, family):
    refused(CONFIGS[system], family)


def refused(config, family):
    with pytest.raises(d2st.D2STError, match=f"{type(config).__name__}.*{type(BACKBONES[family]()).__name__}"):
        d2st.adapt(BACKBONES[family](), config, frames=FRAMES, image_size=SIZE)


@pytest.mark.parametrize(
    ("system", "family"), [(s, "clip-vit") for s in CONFIGS] + [("dst", f) for f in BACKBONES if f != "clip-vit"]
)
def test_files(system, family, tmp_path):
    encoder, video = encoder_of(system, family), clips()
    encoder.save_pretrained(tmp_path)
    torch.manual_seed(0)
    again = d2st.load(tmp_path, backbone=BACKBONES[family]())
    assert again.config == encoder.config
    with torch.no_grad():
        assert same(again(video), encoder(video), family)
