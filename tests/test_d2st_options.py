"""D²ST's options of our own: each against its formula, and all of them under one name."""

import copy
import json
import math

import pytest
import torch
from families import BACKBONES, FRAMES, SIZE, VIT, clips, gradients, move
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.vision_transformer import VisionTransformer

import d2st
from d2st.adapters import SYSTEMS
from d2st.adapters.d2st import D2STAdapter
from d2st.layers.deformable_attention import AnisotropicAttention, ShiftedPoints, _attend, _logits, reference_points
from d2st.layers.position_bias import PositionBias
from d2st.visualize.points import sampled_points

OPTIONS = {
    "position_bias": ("none", "staggered"),
    "values": ("plain", "difference"),
    "points": ("free", "inside"),
    "offset_init": ("random", "rest"),
    "offset_lr": (1.0, 0.1),
    "time_kernel": ("cube", "difference"),
}
SHAPES = [  # volume, density, groups, heads
    ((4, 5, 6), (2, 3, 2), 2, 2),
    ((3, 4, 4), (3, 2, 2), 2, 4),
    ((4, 3, 5), (1, 2, 3), 4, 2),
    ((2, 4, 3), (2, 2, 2), 4, 6),
    ((1, 1, 1), (2, 2, 2), 1, 1),
]


def bias_of(volume, density, heads, staggered=True, dtype=torch.float64, std=0.5):
    bias = PositionBias(heads, volume, density, staggered).to(dtype)
    with torch.no_grad():
        for parameter in bias.parameters():
            parameter.add_(torch.randn_like(parameter) * std)
    return bias


def mask_of(bias, points, volume, prefix=0):
    """-sum_a alpha_a (q_a - p_a - mu_a)² of all pairs, (B, h, T*N, n), in cells from the first."""
    heads, groups = len(bias.shift), points.shape[1]
    points = (points.flatten(2, 4) + 1) / 2 * (points.new_tensor(volume) - 1)  # (B, G, n, 3)
    own = []
    for head in range(heads):
        if heads % groups == 0:
            own.append(points[:, head // (heads // groups)])
        elif groups % heads == 0:
            share = groups // heads
            own.append(points[:, head * share : (head + 1) * share].mean(1))
        else:
            own.append(points.mean(1))
    points = torch.stack(own, dim=1).unsqueeze(2)  # (B, h, 1, n, 3)
    cells = torch.cartesian_prod(*(torch.arange(length, dtype=points.dtype) for length in volume))
    alpha, mu = bias.sharpness.to(points.dtype), bias.shift.to(points.dtype)  # (h, 3)
    far = cells.view(1, 1, -1, 1, 3) - points - mu.view(1, heads, 1, 1, 3)
    mask = -(alpha.view(1, heads, 1, 1, 3) * far.square()).sum(-1)  # (B, h, T*H*W, n)
    mask = mask.unflatten(2, (volume[0], -1))
    return torch.nn.functional.pad(mask, (0, 0, prefix, 0)).flatten(2, 3)


def attention_of(volume, density, groups, heads, dtype=torch.float64, channels=24, **options):
    """An attention whose parameters are as if trained, so that points leave the clip."""
    attention = AnisotropicAttention(channels, volume, density, groups, heads, **options).to(dtype)
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        attention.points.project.weight.normal_(std=2)
    return attention


def plainly(attention, x, grid):
    """aDSTA with a mask for the bias, and with values of all tokens."""
    volume, prefix = (x.shape[1], *grid), x.shape[2] - grid[0] * grid[1]
    queries = attention.query(x)
    points = attention.points(attention._volume(queries, grid))
    sampled = attention._sample(attention._volume(x, grid), points)
    q, k, v = (attention._split(t) for t in (queries.flatten(1, 2), attention.key(sampled), attention.value(sampled)))
    logits = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if attention.bias is not None:
        logits = logits + mask_of(attention.bias, points, volume, prefix)
    weights = logits.softmax(-1)
    y = (weights @ v).transpose(1, 2).flatten(2).view_as(x)
    if attention.difference:
        y = torch.cat([y[:, :, :prefix], y[:, :, prefix:] - attention.value(x[:, :, prefix:])], dim=2)
    return attention.output(y), weights


@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize("difference", [False, True])
@pytest.mark.parametrize("bias", ["none", "centered", "staggered"])
@pytest.mark.parametrize(("volume", "density", "groups", "heads"), SHAPES)
def test_attention_is_its_formula(volume, density, groups, heads, bias, difference, prefix):
    """Outputs, weights, and gradients of the tokens and of every parameter."""
    torch.manual_seed(0)
    attention = attention_of(volume, density, groups, heads, position_bias=bias, difference=difference)
    grid = volume[1:]
    x = torch.randn(2, volume[0], prefix + grid[0] * grid[1], 24, dtype=torch.float64, requires_grad=True)
    inputs = [x, *attention.parameters()]
    found = []
    for y in (attention(x, grid), plainly(attention, x, grid)[0]):
        c = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(1))
        found.append([y, *torch.autograd.grad((y * c).sum(), inputs)])
    for got, expected in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    _, lots = attention.weights(x, grid, rows=7)
    expected = plainly(attention, x, grid)[1]
    torch.testing.assert_close(torch.cat(list(lots), dim=2), expected.float(), rtol=1e-4, atol=1e-5)


def test_what_heads_begin_with():
    """Half the distance of two reference points; one such distance before and after in turn."""
    assert not PositionBias(4, (8, 14, 14), (2, 4, 7)).shift.any()
    bias = PositionBias(3, (8, 14, 14), (2, 4, 28), staggered=True)
    assert bias.shift.tolist() == [[4, 0, 0], [-4, 0, 0], [4, 0, 0]]
    assert not any(parameter.any() for parameter in bias.parameters()), "weight decay would change it"
    widths = torch.tensor([4, 3.5, 1.0]) / 2  # never below half a cell
    torch.testing.assert_close(bias.sharpness, (0.5 / widths**2).expand(3, 3))
    assert not PositionBias(1, (8, 14, 14), (2, 4, 4), staggered=True).shift.any()
    # The cell in the middle of frame 4 attends most to what is one distance before it, or after it.
    points = reference_points((8, 1, 1))[None, None]
    frames = mask_of(PositionBias(2, (8, 1, 1), (8, 1, 1), staggered=True), points, (8, 1, 1))[0, :, 4].argmax(-1)
    assert frames.tolist() == [3, 5]


@pytest.mark.parametrize("prefix", [0, 3])
@given(st.lists(st.floats(-20, 20), min_size=3, max_size=3))
@settings(max_examples=20)
def test_where_the_map_begins_changes_nothing(prefix, moved):
    """Coordinates may be counted from anywhere; without a place (class token) the bias is none wherever that is."""
    torch.manual_seed(0)
    volume, density = (3, 4, 5), (2, 2, 3)
    bias, points = bias_of(volume, density, 2), torch.rand(1, 2, *density, 3, dtype=torch.float64) * 3 - 1.5
    q, k = (torch.randn(1, 2, n, 8, dtype=torch.float64) for n in (3 * (prefix + 20), 12))
    cells, terms = bias(points, volume, prefix + 20)
    moved = torch.tensor(moved, dtype=torch.float64)
    has_place = cells[..., 3:]  # (T*N, 1)
    cells_moved = torch.cat([cells[..., :3] + moved * has_place, has_place], dim=-1)
    alpha = bias.sharpness.unsqueeze(1)
    place = terms[..., :3] / (2 * alpha) + moved
    terms_moved = torch.cat([2 * alpha * place, -(alpha * place.square()).sum(-1, keepdim=True)], dim=-1)
    one, other = (_logits(q, k, factors).softmax(-1) for factors in ((cells, terms), (cells_moved, terms_moved)))
    torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


@given(st.permutations(range(12)), st.integers(0, 2))
@settings(max_examples=20)
def test_the_bias_knows_places_and_not_their_order(order, axis):
    """Points in another order give weights in that order; a mirrored axis, with its shift, the mirrored weights."""
    torch.manual_seed(0)
    volume = (3, 4, 5)
    bias, points = bias_of(volume, (1, 1, 12), 2), torch.rand(1, 2, 1, 1, 12, 3, dtype=torch.float64) * 3 - 1.5
    q, k = (torch.randn(1, 2, n, 8, dtype=torch.float64) for n in (60, 12))

    def weights(k, points):
        return _logits(q, k, bias(points, volume, 20)).softmax(-1)

    plain = weights(k, points)
    order = list(order)
    torch.testing.assert_close(weights(k[:, :, order], points[..., order, :]), plain[..., order])
    q = q.unflatten(2, volume).flip(2 + axis).flatten(2, 4)
    sign = torch.ones(3, dtype=torch.float64)
    sign[axis] = -1
    with torch.no_grad():
        bias.displacement += bias.shift * (sign - 1)
    mirrored = weights(k, points * sign).unflatten(2, volume).flip(2 + axis).flatten(2, 4)
    torch.testing.assert_close(mirrored, plain)


def test_the_bias_that_was_in_half_precision_is_the_same_again():
    """Where it begins is a constant, which the way through another precision does not round."""
    bias = PositionBias(2, (8, 14, 14), (3, 4, 4), staggered=True)
    rounded = PositionBias(2, (8, 14, 14), (3, 4, 4), staggered=True).bfloat16()
    for name in ("sharpness", "shift"):
        assert torch.equal(getattr(rounded, name), getattr(bias, name)), name
        assert torch.equal(getattr(rounded.float(), name), getattr(bias, name)), name


# Measured: values 0.019 and 0.0023 off at most (with few points; PyTorch's kernel: 0.008 and 0.001), gradients 1.2 %
# and 0.23 % (terms in half precision, split in two: those of the sharpness 150 % and 11 %).
@pytest.mark.parametrize(
    ("dtype", "limit", "of_gradients"), [(torch.bfloat16, 0.025, 0.02), (torch.float16, 3e-3, 3e-3)]
)
@pytest.mark.parametrize(
    ("volume", "density", "heads", "width"),
    [
        ((8, 14, 14), (8, 2, 2), 4, 16),
        ((8, 14, 14), (8, 2, 2), 4, 48),
        ((16, 56, 56), (2, 8, 8), 1, 16),
        ((16, 56, 56), (16, 4, 4), 1, 16),
        ((16, 56, 56), (16, 2, 2), 1, 64),
    ],
)
def test_half_precision_keeps_the_bias(volume, density, heads, width, dtype, limit, of_gradients):
    """Also on the map of a ResNet's first stage, where large terms nearly cancel, with few points and with many."""
    torch.manual_seed(0)
    bias, points = bias_of(volume, density, heads, dtype=torch.float32), torch.rand(1, heads, *density, 3) * 2 - 1
    q, k, v = (torch.randn(1, heads, n, width).to(dtype) for n in (math.prod(volume), *[math.prod(density)] * 2))
    got = _attend(q, k, v, bias(points, volume, math.prod(volume[1:])))
    assert got.dtype == dtype
    logits = q.float() @ k.float().transpose(-1, -2) / math.sqrt(width) + mask_of(bias, points, volume)
    expected = logits.softmax(-1) @ v.float()
    assert (got - expected).abs().max() < limit
    found = []
    for y in (got, expected):
        direction = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
        found.append(torch.autograd.grad((y * direction).sum(), list(bias.parameters())))
    for one, other in zip(*found, strict=True):
        assert (one - other).norm() < of_gradients * other.norm()


@pytest.mark.parametrize("width", [16, 256])
def test_autocast_keeps_the_precision_of_the_bias(width):
    torch.manual_seed(0)
    volume, density = (16, 56, 56), (16, 4, 4)
    bias, points = bias_of(volume, density, 1, dtype=torch.float32), torch.rand(1, 1, *density, 3) * 2 - 1
    q, k, v = (torch.randn(1, 1, n, width).bfloat16() for n in (math.prod(volume), 256, 256))
    factors = bias(points, volume, math.prod(volume[1:]))
    expected = _attend(q, k, v, factors)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(_attend(q, k, v, factors), expected)


def test_what_is_alike_everywhere_has_no_difference():
    """With points inside: one that reads zeros differs. Class and register tokens keep what they read."""
    torch.manual_seed(0)
    options = {"position_bias": "staggered", "difference": True, "points_inside": True}
    volume, grid, prefix = (4, 3, 5), (3, 5), 2
    attention = attention_of(volume, (2, 2, 3), 2, 4, **options)
    x = torch.randn(2, 1, 1, 24, dtype=torch.float64).expand(2, 4, prefix + 15, 24).contiguous()
    y = attention(x, grid)
    torch.testing.assert_close(y[:, :, prefix:], attention.output.bias.expand(2, 4, 15, 24), rtol=1e-12, atol=1e-12)
    read = attention.output(attention.value(x[:, :, :prefix]))
    torch.testing.assert_close(y[:, :, :prefix], read, rtol=1e-12, atol=1e-12)
    attention.points.inside = False
    assert (attention(x, grid) - y)[:, :, prefix:].abs().max() > 1e-3


@given(st.integers(0, 2**31), st.sampled_from([1e-3, 1.0, 1e4, 1e10]), st.integers(1, 9), st.integers(1, 7))
@settings(max_examples=40)
def test_points_stay_inside_whatever_the_weights(seed, size, n_t, n_s):
    torch.manual_seed(seed)
    volume = (5, 4, 6)
    points = ShiftedPoints(8, 2, volume, (n_t, n_s, n_s), norm=False, inside=True)
    with torch.no_grad():
        for parameter in points.parameters():
            parameter.normal_(std=size)
    found = points(torch.randn(2, 8, *volume))
    assert found.shape == (2, 2, n_t, n_s, n_s, 3) and (found.abs() <= 1).all()


def test_points_that_would_leave_the_clip_lie_on_its_edge():
    """The others are where they are without the option."""
    torch.manual_seed(0)
    free = ShiftedPoints(8, 2, (5, 4, 6), (5, 2, 2))
    torch.nn.init.normal_(free.project.weight, std=5.0)
    inside, queries = copy.deepcopy(free), torch.randn(2, 8, 5, 4, 6)
    inside.inside = True
    assert (free(queries).abs() > 1).any() and torch.equal(inside(queries), free(queries).clamp(-1, 1))


@pytest.mark.parametrize("density", [(2, 3, 4), (9, 5, 1)])
def test_points_at_rest_are_the_reference_points_and_learn_to_move(density):
    torch.manual_seed(0)
    at_rest = ShiftedPoints(8, 2, (5, 4, 6), density, at_rest=True)
    torch.manual_seed(0)
    shifted = ShiftedPoints(8, 2, (5, 4, 6), density)
    queries = torch.randn(2, 8, 5, 4, 6)
    assert torch.equal(at_rest(queries), reference_points(density).expand(2, 2, *density, 3))
    assert not torch.equal(shifted(queries), at_rest(queries))
    assert all(
        torch.equal(p, dict(shifted.named_parameters())[name])
        for name, p in at_rest.named_parameters()
        if name != "project.weight"
    )
    at_rest(queries).square().sum().backward()
    assert at_rest.project.weight.grad.any()


def adapter_of(time_kernel, width=64):
    torch.manual_seed(0)
    return D2STAdapter(
        8, width, volume=(4, 4, 4), densities={"spatial": (2, 2, 2)}, groups=2, heads=2, time_kernel=time_kernel
    )


def test_time_kernels_change_the_column_alone():
    kernels = {name: adapter_of(name).pos_embed for name in ("cube", "column", "difference")}
    others = torch.ones(3, 3, 3, dtype=torch.bool)
    others[:, 1, 1] = False
    for kernel in kernels.values():
        assert torch.equal(kernel.weight[:, 0, others], kernels["cube"].weight[:, 0, others])
        assert torch.equal(kernel.bias, kernels["cube"].bias)
    cube, column, difference = (kernel.weight[:, 0, :, 1, 1] for kernel in kernels.values())  # (C', 3)
    assert 0.18 < cube.abs().max() <= 27**-0.5 + 1e-6 < 0.5 < column.abs().max() <= 3**-0.5 + 1e-6
    torch.testing.assert_close(difference.sum(1), torch.full((64,), -1.0))
    expected = column - column.mean(1, keepdim=True) - torch.tensor([0.0, 1.0, 0.0])
    torch.testing.assert_close(difference, expected)


def test_of_what_does_not_change_the_difference_kernel_leaves_nothing():
    """u plus the column's part of its embedding is zero, but in the first and last frame; the other weights stay."""
    adapter = adapter_of("difference")
    still = torch.randn(2, 64, 1, 4, 4).expand(2, 64, 5, 4, 4)
    without = copy.deepcopy(adapter.pos_embed)
    with torch.no_grad():
        without.weight[:, 0, :, 1, 1] = 0
        got, expected = still + adapter.pos_embed(still), without(still)
    torch.testing.assert_close(got[:, :, 1:-1], expected[:, :, 1:-1], rtol=1e-5, atol=1e-5)
    assert (got - expected)[:, :, [0, -1]].abs().mean() > 0.05


def encoder_of(family, moved=True, frames=FRAMES, **config):
    torch.manual_seed(0)
    encoder = d2st.adapt(BACKBONES[family](), d2st.D2STLocalConfig(**config), frames=frames, image_size=SIZE)
    if moved:
        move(encoder)
    return encoder


def test_the_preset_is_d2st_with_other_defaults():
    local = d2st.D2STLocalConfig()
    assert isinstance(local, d2st.D2STConfig) and SYSTEMS["d2st-local"] is d2st.D2STLocalConfig
    assert local.label == "d2st-local" and d2st.D2STConfig().label == "d2st"
    published = {field: default for field, (default, _) in OPTIONS.items()}
    assert d2st.D2STLocalConfig(**published).label.startswith("d2st-local position_bias=none values=plain")
    own = {name: value for name, value in local.to_dict().items() if name in OPTIONS}
    assert set(own) == set(OPTIONS) and own == {field: value for field, (_, value) in OPTIONS.items()}
    others = {name: value for name, value in local.to_dict().items() if name not in (*OPTIONS, "name")}
    assert others == {name: getattr(d2st.D2STConfig(), name) for name in others} | {"fusion": "sum"}
    assert local.lr_shares == {".points.": 0.1}
    for name, value, words in (("offset_lr", -1.0, "at least 0"), ("values", "diff", "'plain' or 'difference'")):
        with pytest.raises(d2st.D2STError, match=f"D2STLocalConfig: {name}=.* {words}"):
            d2st.D2STLocalConfig(**{name: value})


def test_files_hold_every_field_and_are_read_without_the_later_ones(tmp_path):
    encoder, video = encoder_of("clip-vit"), clips()
    encoder.save_pretrained(tmp_path / "local")
    saved = json.loads((tmp_path / "local" / "adapter_config.json").read_text())
    assert saved["adapter"] == json.loads(json.dumps(encoder.config.to_dict())) and saved["adapter"].keys() >= {
        *OPTIONS
    }
    again = d2st.load(tmp_path / "local", backbone=copy.deepcopy(encoder).restore())
    assert again.config == encoder.config and torch.equal(again(video), encoder(video))

    published = d2st.adapt(BACKBONES["clip-vit"](), d2st.D2STConfig(), frames=FRAMES)
    published.save_pretrained(tmp_path / "published")
    file = tmp_path / "published" / "adapter_config.json"
    about = json.loads(file.read_text())
    for field in OPTIONS:
        del about["adapter"][field]
    file.write_text(json.dumps(about))
    again = d2st.load(tmp_path / "published", backbone=copy.deepcopy(published).restore())
    assert again.config == d2st.D2STConfig() and torch.equal(again(video), published(video))


def test_the_published_form_is_as_it_was():
    """Keys, and values drawn: those of a D²ST-Adapter that never heard of the options."""
    keys = {"conv.weight", "conv.bias", "norm.weight", "norm.bias", "project.weight"}
    keys = {f"points.{key}" for key in keys} | {
        f"{layer}.{kind}" for layer in ("query", "key", "value", "output") for kind in ("weight", "bias")
    }
    torch.manual_seed(0)
    encoder = d2st.adapt(BACKBONES["clip-vit"](), d2st.D2STConfig(), frames=FRAMES)
    for pathway in encoder.adapters["blocks_0"].pathways.values():
        assert pathway.attention.state_dict().keys() == keys
    torch.manual_seed(0)
    said = d2st.D2STConfig(**{field: default for field, (default, _) in OPTIONS.items()})
    other = d2st.adapt(BACKBONES["clip-vit"](), said, frames=FRAMES)
    assert encoder.adapters.state_dict().keys() == other.adapters.state_dict().keys()
    assert all(map(torch.equal, encoder.adapters.state_dict().values(), other.adapters.state_dict().values()))
    assert said.identity() == d2st.D2STConfig().identity() and not said.identity().keys() & OPTIONS.keys()
    assert d2st.D2STConfig(offset_lr=0.5).identity()["offset_lr"] == 0.5
    assert d2st.D2STLocalConfig().identity().keys() >= OPTIONS.keys()


@pytest.mark.parametrize("option", OPTIONS)
def test_each_option_alone(option):
    """Each changes what is computed after training, or how it trains; none the frozen features at the start."""
    config = d2st.D2STConfig(**{option: OPTIONS[option][1]})
    encoders = []
    for one in (d2st.D2STConfig(), config):
        torch.manual_seed(0)
        encoders.append(d2st.adapt(BACKBONES["clip-vit"](), one, frames=FRAMES))
    video = clips()
    assert torch.equal(*(encoder(video) for encoder in encoders))
    for encoder in encoders:
        with torch.no_grad():
            for adapter in encoder.adapters.values():
                if hasattr(adapter, "up"):
                    adapter.up.weight.copy_(torch.linspace(-1, 1, 256).view_as(adapter.up.weight))
            for name, parameter in encoder.adapters.named_parameters():
                if option == "points" and name.endswith("project.weight"):
                    parameter.copy_(torch.linspace(-9, 9, parameter.numel()).view_as(parameter))
    published, other = (encoder(video) for encoder in encoders)
    assert torch.equal(published, other) == (option == "offset_lr")
    assert (config.lr_shares == {}) == (option != "offset_lr")


@pytest.mark.parametrize("groups, heads", [(2, 4), (4, 2), (1, 8), (8, 1)])
@pytest.mark.parametrize("family", ["dinov2-registers", "swin"])
def test_groups_and_heads(family, groups, heads):
    encoder = encoder_of(family, ratio=0.5, groups=groups, heads=heads)
    got = gradients(encoder, clips(batch=1))
    assert all(gradient.isfinite().all() for gradient in got.values())
    shifts = [gradient for name, gradient in got.items() if name.endswith("bias.displacement")]
    assert shifts and all(gradient.shape == (heads, 3) for gradient in shifts)


@pytest.mark.parametrize("density", [(16, 4, 4), (9, 2, 2), (2, 9, 9), (1, 1, 1)])
def test_any_density(density):
    backbone = VisionTransformer(**VIT | {"depth": 1})
    config = d2st.D2STLocalConfig(spatial=density, temporal=density)
    encoder = d2st.adapt(backbone, config, frames=4)
    move(encoder)
    got = gradients(encoder, clips(batch=1, frames=4))
    assert all(gradient.isfinite().all() for gradient in got.values())


@pytest.mark.parametrize("pathways", ["spatial", "temporal", "uniform"])
def test_pathways_alone(pathways):
    encoder = encoder_of("resnet-basic", pathways=pathways)
    assert encoder(clips()).shape == (2, FRAMES, encoder.num_features)


@torch.no_grad()
def test_other_lengths_and_sizes_have_the_bias_of_their_own_cells():
    torch.manual_seed(0)
    volume, density = (8, 6, 6), (2, 3, 3)
    attention = attention_of(volume, density, 2, 2, position_bias="staggered", difference=True, points_inside=True)
    for frames, grid in ((5, (6, 6)), (8, (4, 9)), (13, (7, 7)), (4, (2, 2))):
        x = torch.randn(1, frames, 1 + grid[0] * grid[1], 24, dtype=torch.float64)
        torch.testing.assert_close(attention(x, grid), plainly(attention, x, grid)[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("family", ["clip-vit", "dinov2-registers", "convnext"])
def test_recomputed_gradients_are_the_plain_ones(family, monkeypatch):
    encoder, video = encoder_of(family), clips(batch=1)
    recomputed = gradients(encoder, video)
    monkeypatch.setattr("d2st.layers.checkpointed.transformed", lambda: True)
    plain = gradients(encoder, video)
    assert recomputed.keys() == plain.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient, rtol=1e-5, atol=1e-7, msg=name)


def test_gradients_of_gradients():
    torch.manual_seed(0)
    attention = attention_of((2, 3, 2), (2, 2, 2), 2, 2, channels=4, position_bias="staggered", difference=True)
    x = torch.randn(1, 2, 7, 4, dtype=torch.float64, requires_grad=True)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        attention.points.requires_grad_(False)  # PyTorch's sampling has no second derivative of its places
        with torch.no_grad():
            attention.points.project.weight.zero_()
        assert torch.autograd.gradcheck(lambda x: attention(x, (3, 2)), (x,))


def test_a_batch_of_no_clips_and_bfloat16_autocast():
    encoder = encoder_of("clip-vit").train()
    assert encoder(clips(batch=0)).shape == (0, FRAMES, encoder.num_features)
    video = clips()
    expected = encoder(video)
    with torch.autocast("cpu", torch.bfloat16):
        features = encoder(video)
        loss = features.square().mean()
    loss.backward()
    assert (features - expected).abs().max() < 0.05 * expected.abs().max()
    assert all(p.grad.isfinite().all() for p in encoder.trainable_parameters())


def test_pictures_see_the_bias():
    """A token attends to points near it, which the weights that pictures are drawn from show."""
    torch.manual_seed(0)
    config = d2st.D2STLocalConfig(position_bias="centered", positions=(1,))
    encoder = d2st.adapt(BACKBONES["vit"](), config, frames=FRAMES)
    with torch.no_grad():
        for name, parameter in encoder.adapters.named_parameters():
            if "query" in name:
                parameter.zero_()  # what is left is the bias
    for token, near in (((1, 2.0, 2.0), 0), ((6, 29.0, 29.0), 31)):
        spatial, temporal = sampled_points(encoder, clips(batch=1)[0], token=token)[0]
        assert spatial.token.argmax().item() == near and temporal.token.argmax().item() // 16 == token[0]
        assert spatial.token.sum().item() == pytest.approx(1, abs=1e-5)
