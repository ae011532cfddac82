"""The way back from adapt: at once where it is refused, and by restore() where it was done."""

import copy
import json
import pickle

import pytest
import timm
import torch
from families import BACKBONES, FRAMES, SIZE, clips, move
from torch import nn

import d2st

SYSTEMS = {name: config() for name, config in d2st.adapters.SYSTEMS.items()} | {
    "dualpath": d2st.DualPathConfig(tiles=2),
    "dist": d2st.DiSTConfig(width=16, temporal_width=8, pool_layers=1),
    "lsn": d2st.LSNConfig(width=16),
    "side4video": d2st.Side4VideoConfig(width=16),
}


def state(model):
    """All that a model is: classes, modes, hooks, what trains, values."""
    modules = [
        (name, type(m), m.training, tuple(m._forward_hooks.values()), tuple(m._forward_pre_hooks.values()))
        for name, m in model.named_modules()
    ]
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trained = {name: p.requires_grad for name, p in model.named_parameters()}
    return modules, trained, tensors


def same(one, other):
    assert one[:2] == other[:2]
    assert list(one[2]) == list(other[2])
    assert all(torch.equal(tensor, other[2][name]) for name, tensor in one[2].items())


def uneven(family="clip-vit"):
    """A model in which not everything trains or is in the same mode, with a hook of its maker's."""
    torch.manual_seed(0)
    model = BACKBONES[family]().train()
    parts = list(model.children())
    parts[1].eval()
    next(model.parameters()).requires_grad_(False)
    parts[1].register_forward_hook(len_of_arguments)
    return model


def len_of_arguments(module, args, output):
    assert len(args) == 1


@pytest.mark.parametrize("way", [lambda encoder: encoder, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
@pytest.mark.parametrize(
    ("system", "family"), [(s, "clip-vit") for s in SYSTEMS] + [("d2st", "resnet-basic"), ("st", "regnet")]
)
def test_restored_backbones_are_as_before(system, family, way):
    model, video = uneven(family), clips(batch=1)
    before = state(model)
    encoder = d2st.adapt(model, SYSTEMS[system], frames=FRAMES, image_size=SIZE)
    if not encoder.config.tunes_backbone:
        move(encoder)
    encoder = way(encoder.train())
    encoder.set_grad_checkpointing(True)
    encoder(video)
    backbone = encoder.restore()
    assert backbone is encoder.backbone
    same(before, state(backbone))
    assert not getattr(backbone, "grad_checkpointing", False)
    uses = encoder.restore, encoder.adapter_state_dict, encoder.set_grad_checkpointing, encoder.compile_blocks
    for use in (lambda: encoder(video), lambda: encoder.images(video), *uses):
        with pytest.raises(d2st.D2STError, match="taken out by restore"):
            use()
    assert d2st.adapt(backbone, "st", frames=FRAMES)(video).shape[0] == 1

    encoder, video = d2st.adapt(BACKBONES["clip-vit"](), frames=FRAMES), clips(batch=1)
    move(encoder)
    other = copy.deepcopy(encoder)
    expected = encoder(video)
    other.restore()
    assert torch.equal(encoder(video), expected)


@pytest.mark.parametrize("size", [None, 48])
@pytest.mark.parametrize("config", [d2st.D2STConfig(groups=3), d2st.D2STConfig(positions=(7,)), "nothing", 3])
def test_a_refused_adapt_leaves_the_model_as_it_was(config, size):
    model = uneven()
    before, table, hooks = state(model), model.pos_embed, model.blocks._forward_hooks
    handle = model.norm.register_forward_hook(len_of_arguments)
    with pytest.raises(d2st.D2STError):
        d2st.adapt(model, config, frames=FRAMES, image_size=size)
    assert model.pos_embed is table and model.patch_embed.img_size == (32, 32) and model.blocks._forward_hooks is hooks
    handle.remove()
    same(before, state(model))


@pytest.mark.parametrize("name", ["twins_svt_small", "hrnet_w18_small"])
def test_stages_that_are_no_modules_are_refused(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    with pytest.raises(d2st.D2STError, match="none of its modules"):
        d2st.adapt(model)


def test_backbones_without_checkpointing_are_named():
    encoder = d2st.adapt(timm.create_model("dla46_c", num_classes=0), frames=4)
    with pytest.raises(d2st.D2STError, match="no gradient checkpointing for DLA"):
        encoder.set_grad_checkpointing(True)
    encoder.set_grad_checkpointing(False)


def test_replicas_of_data_parallel_are_refused():
    replica = d2st.adapt(BACKBONES["vit"](), frames=FRAMES)._replicate_for_data_parallel()
    with pytest.raises(d2st.D2STError, match="one process for each GPU"):
        replica(clips())


def test_configs_by_name_and_class():
    for given in ("st", d2st.STConfig, d2st.STConfig()):
        assert d2st.adapt(BACKBONES["vit"](), given, frames=FRAMES).config == d2st.STConfig()
    for wrong in ("stt", nn.Linear, 3, d2st.adapters.AdapterConfig()):
        with pytest.raises(d2st.D2STError, match="no adapter system"):
            d2st.adapt(BACKBONES["vit"](), wrong)
    for wrong in (None, 3, ["resnet18"]):
        with pytest.raises(d2st.D2STError, match="timm name or a model"):
            d2st.adapt(wrong)
    for wrong in ("8", 8.0, True, 0):
        with pytest.raises(d2st.D2STError, match="whole number"):
            d2st.adapt(BACKBONES["vit"](), frames=wrong)
    with pytest.raises(d2st.D2STError, match="encoder with adapters"):
        d2st.adapt(d2st.adapt(BACKBONES["vit"](), frames=FRAMES))


@pytest.mark.parametrize("first", ["none", "full", "lsn", "side4video", "dist", "st"])
def test_a_backbone_serves_one_encoder_at_a_time(first):
    """Also where the first one has put no hooks into it, whose features a second would change."""
    model = BACKBONES["clip-vit"]()
    encoder = d2st.adapt(model, SYSTEMS.get(first, first), frames=FRAMES)
    for taken in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(encoder)).backbone):
        with pytest.raises(d2st.D2STError, match="or is another encoder's backbone"):
            d2st.adapt(taken, "st", frames=FRAMES)
    assert d2st.adapt(copy.deepcopy(encoder).restore(), "none").restore() is not model
    with pytest.raises(d2st.D2STError, match="groups"):
        d2st.adapt(encoder.restore(), d2st.D2STConfig(groups=3), frames=FRAMES)
    d2st.adapt(model, "none", frames=FRAMES)


def test_a_backbone_that_an_adapter_cannot_be_loaded_onto_is_free(tmp_path):
    torch.manual_seed(0)
    d2st.adapt(BACKBONES["vit"](), "none").save_pretrained(tmp_path)
    other = BACKBONES["vit"]()
    with pytest.raises(d2st.D2STError, match="with other weights"):
        d2st.load(tmp_path, backbone=other)
    d2st.adapt(other, "none")


def test_a_backbone_that_a_damaged_adapter_was_for_is_as_it_was(tmp_path):
    """What trains along with adapters is written into a backbone that is given: not before all has been read."""
    torch.manual_seed(0)
    backbone = BACKBONES["vit"]()
    again = copy.deepcopy(backbone)
    encoder = d2st.adapt(backbone, "vanilla", frames=FRAMES)
    move(encoder)
    encoder.save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"reading": {"frames": FRAMES, "speed": 2}}))
    before = state(again)
    with pytest.raises(d2st.D2STError, match="no setting 'speed'"):
        d2st.load(tmp_path, backbone=again)
    same(before, state(again))


@pytest.mark.parametrize("family", ["vit", "resnet-basic"])
def test_rounded_weights_are_float32_again(family):
    config = d2st.LoRAConfig() if family == "vit" else d2st.STConfig()
    encoder = d2st.adapt(BACKBONES[family](), config, frames=FRAMES, image_size=SIZE)
    if encoder.mergeable:
        encoder.merge()
    rounded = {name: p.detach().float() for name, p in encoder.half_weights().restore().named_parameters()}
    again = d2st.adapt(encoder.backbone, "st", frames=FRAMES, image_size=SIZE)
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    assert all(torch.equal(p, rounded[name]) for name, p in again.backbone.named_parameters())
    again.half_weights()(clips())
