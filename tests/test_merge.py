"""Folding linear adapters into the backbone (LoRA, ZeroI2V), and what LoRA and the shift of heads compute."""

import copy
import inspect

import pytest
import timm
import torch
import torch.nn.functional as F
from families import BACKBONES, FRAMES, SIZE, VIT, clips, move, on_meta
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import d2st
from d2st.adapters.lora import LoRA, LowRank, leading_directions
from d2st.backbones.linears import Part
from d2st.layers.time_shift import TimeShift

ALL = ("v", "q", "k", "fc2", "proj", "fc1")  # in no order
CONFIGS = {
    "lora": d2st.LoRAConfig(),
    "lora-all": d2st.LoRAConfig(
        matrices=ALL, rank=3, alpha=5, orthogonal=True, shifts=(-1, 2), temporal_embedding=True
    ),
    "zeroi2v": d2st.ZeroI2VConfig(),
    "zeroi2v-3": d2st.ZeroI2VConfig(after_mlp=False, shifts=(), scale=1.5, ratio=0.5),
}
PLAIN_VIT = "vit", "clip-vit", "siglip", "dinov2-registers"
UNFUSED = dict(num_reg_tokens=4, use_rot_pos_emb=True, use_abs_pos_emb=False)


def adapted(config, family="clip-vit", frames=FRAMES):
    torch.manual_seed(0)
    encoder = d2st.adapt(BACKBONES[family](), config, frames=frames, image_size=SIZE)
    move(encoder)
    return encoder.eval()


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * theirs.abs().max().item())


@pytest.mark.parametrize("family", PLAIN_VIT)
@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_a_merged_encoder_is_the_same_function(name, family):
    torch.manual_seed(0)
    own = BACKBONES[family]().state_dict()
    encoder, video = adapted(CONFIGS[name], family), clips()
    before = encoder(video)
    copied = copy.deepcopy(encoder)
    assert encoder.mergeable and encoder.merge() is encoder and not encoder.mergeable
    close(encoder(video), before)
    folded = (d2st.adapters.lora.LoRA, d2st.adapters.zeroi2v.LinearAdapter)
    assert not any(isinstance(adapter, folded) for adapter in encoder.adapters.values())
    assert torch.equal(copied(video), before), "merging changed a copy"

    again = copy.deepcopy(encoder)
    close(again(video), before)
    for one in (encoder, again):
        state = one.restore().state_dict()
        assert all(torch.equal(state[key], value) for key, value in own.items()) and state.keys() == own.keys()


@torch.no_grad()
def test_lora_leaves_nothing_but_the_plain_backbone():
    encoder, video = adapted(CONFIGS["lora"]), clips()
    features = encoder.merge()(video)
    assert not encoder.adapters and not any(m._forward_hooks for m in encoder.backbone.modules())
    model = BACKBONES["clip-vit"]().eval()
    model.load_state_dict(encoder.backbone.state_dict())
    close(model.forward_head(model.forward_features(video.flatten(0, 1)), pre_logits=True), features.flatten(0, 1))
    assert d2st.adapt(encoder.restore(), CONFIGS["lora"]).mergeable


@torch.no_grad()
def test_a_layer_without_bias_gets_one_where_the_adapter_has_one():
    torch.manual_seed(0)
    backbone = VisionTransformer(**VIT, qkv_bias=False)
    keys = backbone.state_dict().keys()
    encoder, video = d2st.adapt(backbone, d2st.ZeroI2VConfig(), image_size=SIZE), clips()
    move(encoder)
    before = encoder.eval()(video)
    close(encoder.merge()(video), before)
    assert "blocks.0.attn.qkv.bias" in backbone.state_dict()
    assert encoder.restore().state_dict().keys() == keys


@pytest.mark.parametrize("fused", [True, False])
@torch.no_grad()
def test_eva_blocks_without_separate_biases(fused):
    """As DINOv3's and EVA-02's: one layer without biases, or three layers."""
    torch.manual_seed(0)
    backbone = Eva(**VIT, **UNFUSED, qkv_fused=fused, qkv_bias=not fused)
    encoder, video = d2st.adapt(backbone, CONFIGS["lora-all"], image_size=SIZE), clips()
    move(encoder)
    before = encoder.eval()(video)
    close(encoder.merge()(video), before)
    layers = ["qkv"] if fused else ["k_proj", "v_proj"]
    shifts = [f"blocks_{i}_{layer}_shift" for i in range(3) for layer in layers]
    assert list(encoder.adapters) == ["temporal_embedding", *shifts]


def test_blocks_that_never_call_the_layer_are_refused_by_name():
    with pytest.raises(d2st.D2STError, match=r"LoRAConfig .* q, v .* Eva call none for q, v\. .*\(proj, fc1, fc2\)"):
        adapted(d2st.LoRAConfig(), "dinov3")
    adapted(d2st.LoRAConfig(matrices=("proj", "fc1")), "dinov3")
    with pytest.raises(d2st.D2STError, match=r"ZeroI2VConfig has one adapter before .* Eva computes them in three"):
        d2st.adapt(Eva(**VIT, **UNFUSED, qkv_fused=False), d2st.ZeroI2VConfig(), image_size=SIZE)


def test_what_cannot_be_merged_says_so(tmp_path):
    with pytest.raises(d2st.D2STError, match="Nothing of STConfig can be merged"):
        adapted(d2st.STConfig()).merge()
    encoder = adapted(CONFIGS["lora"])
    state = encoder.adapter_state_dict()
    encoder.merge()
    with pytest.raises(d2st.D2STError, match="merged into its backbone already"):
        encoder.merge()
    video = d2st.VideoClassifier(encoder, 2, names=["clap", "wave"])
    few_shot = d2st.FewShotClassifier(encoder)
    saves = [lambda model=model: model.save_pretrained(tmp_path / "out") for model in (encoder, video, few_shot)]
    for use in (*saves, lambda: encoder.load_adapter_state_dict(state)):
        with pytest.raises(d2st.D2STError, match="Save an adapter before merge"):
            use()
    assert not (tmp_path / "out").exists(), "a half of a model was written"
    encoder = adapted(CONFIGS["lora"])
    encoder.compile_blocks(backend="eager")
    with pytest.raises(d2st.D2STError, match="before the blocks are compiled"):
        encoder.merge()

    class Other(nn.Linear):
        pass

    encoder = adapted(CONFIGS["lora"])
    encoder.backbone.blocks[1].attn.qkv.__class__ = Other
    with pytest.raises(d2st.D2STError, match=r"blocks\.1\.attn\.qkv is a Other"):
        encoder.merge()
    assert encoder.mergeable and encoder.merged is None


@torch.no_grad()
def test_a_hook_of_somebody_else_in_between_keeps_the_adapter_out():
    encoder, video = adapted(d2st.ZeroI2VConfig(shifts=())), clips()
    proj = encoder.backbone.blocks[0].attn.proj
    handle = proj.register_forward_hook(lambda module, args, output: output.tanh(), prepend=True)
    before = encoder(video)
    close(encoder.merge()(video), before)
    assert list(encoder.adapters) == ["temporal_embedding", "blocks_0_proj"]
    handle.remove()


@torch.no_grad()
def test_one_that_shares_its_weights_keeps_them():
    from d2st.evaluation.cost import shared_copy

    backbone, video = BACKBONES["clip-vit"](), clips()
    encoder = d2st.adapt(shared_copy(backbone), CONFIGS["lora"], image_size=SIZE)
    move(encoder)
    own = copy.deepcopy(backbone.state_dict())
    encoder.eval().merge()(video)
    assert all(torch.equal(backbone.state_dict()[key], value) for key, value in own.items())


def test_export_merges_first(tmp_path, capsys):
    from safetensors.torch import save_file

    from d2st.commands import cli

    torch.manual_seed(0)
    weights = timm.create_model("test_vit", num_classes=0).state_dict()
    save_file(weights, tmp_path / "weights.safetensors")
    options = (
        f"--backbone test_vit --weights {tmp_path / 'weights.safetensors'} --image-size 160 --frames 2 --format pt2"
    )
    sizes = {}
    for name in ("none", "lora"):
        assert cli.main(["export", *options.split(), "--adapter", name, "--out", str(tmp_path / name)]) == 0
        assert ("lora on test_vit, merged into its weights" in capsys.readouterr().out) == (name == "lora")
        program = torch.export.load(tmp_path / name / "encoder.pt2")
        sizes[name] = len(program.graph.nodes), sorted(program.state_dict)
    assert sizes["lora"] == sizes["none"]


def test_lora_is_the_formula():
    torch.manual_seed(0)
    layer = nn.Linear(6, 12)
    parts = {"v": Part("", 8, 12, 6), "q": Part("", 0, 4, 6)}
    lora, x = LoRA(parts, rank=2, scale=0.5), torch.randn(2, 3, 5, 6)
    assert torch.equal(lora(x, layer(x), (1, 5)), layer(x)), "B starts at zero"
    assert all(pair.a.abs().max() <= 6**-0.5 for pair in lora.pairs.values()), "Kaiming's bound for a = sqrt 5"
    with torch.no_grad():
        for pair in lora.pairs.values():
            pair.b.normal_()
    y = lora(x, layer(x), (1, 5))
    weight = layer.weight.detach().clone()
    weight[8:] += 0.5 * lora.pairs["v"].b @ lora.pairs["v"].a
    weight[:4] += 0.5 * lora.pairs["q"].b @ lora.pairs["q"].a
    torch.testing.assert_close(y, F.linear(x, weight, layer.bias))
    torch.testing.assert_close(y[..., 4:8], layer(x)[..., 4:8], rtol=0, atol=0)
    lora.dropout = 0.5
    assert not torch.equal(lora.train()(x, layer(x), (1, 5)), y) and torch.equal(lora.eval()(x, layer(x), (1, 5)), y)


def test_orthogonal_lora_stays_out_of_what_the_matrix_does_most():
    """P2A: as many left singular vectors as the effective rank, exp of the entropy of the singular values' shares."""
    torch.manual_seed(0)
    u, _ = torch.linalg.qr(torch.randn(8, 8))
    values = torch.tensor([4.0, 4.0, 4.0, 0.01, 0.01, 0.01])
    weight = u[:, :6] @ values.diag() @ torch.linalg.qr(torch.randn(6, 6))[0]
    shares = values / values.sum()
    taken = leading_directions(weight)
    assert taken.shape == (8, int(torch.exp(-(shares * shares.log()).sum()))) == (8, 3)
    pair = LowRank(6, 8, 2, weight)
    with torch.no_grad():
        pair.b.normal_()
        result = pair(torch.randn(10, 6))
    assert (result @ u[:, :3]).abs().max() < 1e-5 < result.abs().max()
    assert "away_from" not in pair.state_dict()
    config = d2st.LoRAConfig(orthogonal=True)
    assert (
        d2st.adapt(BACKBONES["vit"](), config, image_size=SIZE).adapters["blocks_0_qkv"].pairs["q"].away_from.ndim == 2
    )


@pytest.mark.parametrize("frames", [1, 2, 3, 8])
def test_shift_takes_the_frames_it_names(frames):
    x = torch.randn(2, frames, 3, 12)
    y = TimeShift([(-1, 2), (2, 1)], starts=(3, 8))(x)
    expected = x.clone()
    for start in (3, 8):
        for t in range(frames):
            if t >= 1:
                expected[:, t, :, start : start + 2] = x[:, t - 1, :, start : start + 2]
            if t + 2 < frames:
                expected[:, t, :, start + 2] = x[:, t + 2, :, start + 2]
    assert torch.equal(y, expected)


@pytest.mark.skipif(
    "num_kv_heads" not in inspect.signature(Eva).parameters, reason="no ViT of this timm shares keys and values"
)
def test_heads_that_share_keys_and_values_are_shifted_whole():
    """Four heads of queries share two of keys and values, as in Sapiens 2."""
    torch.manual_seed(0)
    shared = dict(num_heads=4, num_kv_heads=2, attn_type="rope", qkv_fused=False)
    backbone = Eva(**VIT | UNFUSED | shared)
    encoder = d2st.adapt(backbone, d2st.LoRAConfig(shifts=(-1, 1)), frames=FRAMES)
    shifts = [encoder.adapters[f"blocks_0_{name}_shift"] for name in ("k_proj", "v_proj")]
    assert [shift.groups for shift in shifts] == [((-1, 8), (1, 8))] * 2  # heads of 8 channels
    with pytest.raises(d2st.D2STError, match=r"are 3 heads; the keys and values of blocks.0 have 2"):
        d2st.adapt(encoder.restore(), d2st.LoRAConfig(shifts=(-1, 1, 2)), frames=FRAMES)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shifts": (0,)}, "offsets to other frames"),
        ({"shifts": (-1, 1), "shifted_heads": 2}, "are 4 heads; the keys and values of blocks.0 have 2"),
    ],
)
@pytest.mark.parametrize("config", [d2st.LoRAConfig, d2st.ZeroI2VConfig])
def test_shifts_that_cannot_be(config, options, words):
    with pytest.raises(d2st.D2STError, match=f"{config.__name__}: .*{words}"):
        adapted(config(**options))


def test_matrices_are_named_once():
    with pytest.raises(d2st.D2STError, match=r"LoRAConfig: matrices=.* each once"):
        d2st.LoRAConfig(matrices=("q", "v", "q"))


def test_parameters_at_full_size():
    """MuST's count, and all six matrices at rank 16."""
    assert on_meta(d2st.LoRAConfig())[0].parameter_count()[0] == 294_912
    assert on_meta(d2st.LoRAConfig(matrices=ALL, rank=16))[0].parameter_count()[0] == 2_654_208


def test_summary_says_what_does_not_start_as_the_backbone(capsys):
    for config, said in (
        (d2st.LoRAConfig(), False),
        (d2st.LoRAConfig(shifts=(-1,)), True),
        (d2st.ZeroI2VConfig(), True),
    ):
        adapted(config).summary()
        assert ("does not give what the frozen backbone gives" in capsys.readouterr().out) == said


def test_a_matrix_of_zeros_has_no_directions_to_stay_out_of():
    assert leading_directions(torch.zeros(6, 4)).shape == (6, 0)
    model = BACKBONES["vit"]()
    nn.init.zeros_(model.blocks[0].attn.qkv.weight)
    encoder = d2st.adapt(model, d2st.LoRAConfig(orthogonal=True), frames=FRAMES)
    pair = encoder.adapters["blocks_0_qkv"].pairs["q"]
    assert torch.equal(pair.outward(), pair.b)
