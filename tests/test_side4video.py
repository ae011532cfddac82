"""Side4Video: its formulas once more in loops over clips, frames and places, in float64, and what else it promises.

No run of the authors' code is at hand: what is compared here are two readings of their formulas.
"""

import math
from functools import partial

import goldens
import pytest
import torch
from families import BACKBONES, FRAMES, SIZE, clips, gradients, move, on_meta
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import d2st
from d2st.adapters.side4video import exchange
from d2st.features.encode import encode_batch
from d2st.training.episodic import EpisodicLoss

PATCH, GRID, WIDTH = 4, (2, 3), 128  # two attention heads
IN_LOOPS = dict(img_size=(8, 12), patch_size=PATCH, embed_dim=16, depth=2, num_heads=2, num_classes=0, reg_tokens=1)


def small(norm, stem_frames=3):
    """An encoder in float64 with weights and running statistics as after some training."""
    torch.manual_seed(0)
    config = d2st.Side4VideoConfig(width=WIDTH, norm=norm, stem_frames=stem_frames)
    encoder = d2st.adapt(VisionTransformer(**IN_LOOPS), config, frames=3).double()
    move(encoder)
    with torch.no_grad():
        for name, buffer in encoder.passage.named_buffers():
            if "running" in name:
                buffer.add_(torch.rand_like(buffer))
    return encoder


def levels_of(vit, video):
    """What each block of the ViT gives: (B, T, N, C) each, by its blocks one after the other."""
    with torch.no_grad():
        x = vit.norm_pre(vit._pos_embed(vit.patch_embed(video.flatten(0, 1))))
        levels = []
        for block in vit.blocks:
            x = block(x)
            levels.append(x.unflatten(0, video.shape[:2]))
    return levels


def linear(vector, state, name):
    return state[f"{name}.weight"] @ vector + state[f"{name}.bias"]


def layer_norm(vector, state, name):
    centered = vector - vector.mean()
    return centered / (centered.square().mean() + 1e-5).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]


def norm_all(volume, state, name, norm, training, statistics):
    """A norm of every vector of {(clip, frame, row, column): vector}."""
    if norm == "layer":
        return {place: layer_norm(vector, state, name) for place, vector in volume.items()}
    mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    if training:
        count = len(volume)
        mean = sum(volume.values()) / count
        squares = sum((vector - mean) ** 2 for vector in volume.values())
        variance = squares / count
        for kept, now in (("running_mean", mean), ("running_var", squares / (count - 1))):
            statistics[f"{name}.{kept}"] = 0.9 * state[f"{name}.{kept}"] + 0.1 * now.detach()
    scale = state[f"{name}.weight"] / (variance + 1e-5).sqrt()
    return {place: (vector - mean) * scale + state[f"{name}.bias"] for place, vector in volume.items()}


def in_loops(state, levels, video, norm, training, stem_frames):
    """Features (B, T, width), maps {(clip, frame, row, column): vector}, and running statistics after the pass."""
    statistics = {}
    (batch, frames), (height, width) = video.shape[:2], GRID
    normed = partial(norm_all, state=state, norm=norm, training=training, statistics=statistics)
    x = {}
    for b in range(batch):
        for t in range(frames):
            for row in range(height):
                for column in range(width):
                    total = state["stem.bias"]
                    for k in range(stem_frames):
                        at = t + k - stem_frames // 2
                        if 0 <= at < frames:
                            place = slice(row * PATCH, (row + 1) * PATCH), slice(column * PATCH, (column + 1) * PATCH)
                            total = total + (state["stem.weight"][:, :, k] * video[(b, at, slice(None), *place)]).sum(
                                (1, 2, 3)
                            )
                    x[b, t, row, column] = total
    x = normed(x, name="stem_norm")
    for i, level in enumerate(levels):
        reduced = {}  # (clip, frame): class token, (clip, frame, row, column): patch
        for b in range(batch):
            for t in range(frames):
                for token in range(level.shape[2]):
                    register, patch = token == 1, token - 2
                    if register:
                        continue
                    place = (b, t) if token == 0 else (b, t, patch // width, patch % width)
                    reduced[place] = linear(
                        layer_norm(level[b, t, token], state, f"taps.{i}.norm"), state, f"taps.{i}.linear"
                    )
        x = {place: (vector + reduced[place]) / 2 for place, vector in x.items()}
        x = block_in_loops(x, reduced, state, f"blocks.{i}", normed, batch, frames)
    x = normed(x, name="norm")
    features = [
        [
            sum(x[b, t, row, column] for row in range(height) for column in range(width)) / (height * width)
            for t in range(frames)
        ]
        for b in range(batch)
    ]
    return torch.stack([torch.stack(each) for each in features]), x, statistics


def block_in_loops(x, class_tokens, state, name, normed, batch, frames):
    h = normed(x, name=f"{name}.norm_conv")
    h = {place: linear(vector, state, f"{name}.before") for place, vector in h.items()}
    moved = {}
    for b, t, row, column in x:
        total = state[f"{name}.conv.bias"]
        for k in range(3):
            if 0 <= t + k - 1 < frames:
                total = total + state[f"{name}.conv.weight"][:, 0, k, 0, 0] * h[b, t + k - 1, row, column]
        moved[b, t, row, column] = linear(total, state, f"{name}.after")
    x = {place: vector + moved[place] for place, vector in x.items()}

    attended = {}
    for b in range(batch):
        for t in range(frames):
            nothing = torch.zeros(WIDTH, dtype=torch.float64)
            later = class_tokens[b, t + 1] if t + 1 < frames else nothing
            earlier = class_tokens[b, t - 1] if t > 0 else nothing
            tokens = [torch.cat([later[: WIDTH // 2], earlier[WIDTH // 2 :]])]
            places = [(row, column) for row in range(GRID[0]) for column in range(GRID[1])]
            tokens += [x[(b, t, *place)] + state["positions"][place] for place in places]
            rows = [
                linear(layer_norm(token, state, f"{name}.norm_attention"), state, f"{name}.qkv") for token in tokens
            ]
            for n, place in enumerate(places, start=1):
                heads = []
                for head in range(WIDTH // 64):
                    part = slice(64 * head, 64 * head + 64)
                    queries, keys, values = ([row.split(WIDTH)[i][part] for row in rows] for i in range(3))
                    shares = torch.stack([(queries[n] * key).sum() / 8 for key in keys]).exp()
                    heads.append(sum(s * value for s, value in zip(shares / shares.sum(), values, strict=True)))
                attended[(b, t, *place)] = linear(torch.cat(heads), state, f"{name}.proj")
    x = {place: vector + attended[place] for place, vector in x.items()}

    h = normed(x, name=f"{name}.norm_mlp")
    for place, vector in h.items():
        hidden = linear(vector, state, f"{name}.fc1")
        hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
        h[place] = linear(hidden, state, f"{name}.fc2")
    return {place: vector + h[place] for place, vector in x.items()}


@pytest.mark.parametrize("stem_frames", [3, 1])
@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_values_and_gradients_are_those_of_the_formulas(norm, training, stem_frames):
    encoder = small(norm, stem_frames).train(training)
    generator = torch.Generator().manual_seed(1)
    video = torch.randn(2, 3, 3, 8, 12, dtype=torch.float64, generator=generator)
    weights = torch.randn(2, 3, WIDTH, dtype=torch.float64, generator=generator)
    named = dict(encoder.passage.named_parameters())
    state = {name: tensor.detach().clone() for name, tensor in encoder.passage.state_dict().items()}
    levels = levels_of(encoder.backbone, video)
    for name in named:
        state[name].requires_grad_()
    plain, ours = video.clone().requires_grad_(), video.clone().requires_grad_()
    expected, volume, statistics = in_loops(state, levels, plain, norm, training, stem_frames)
    (expected * weights).sum().backward()

    features, maps = encoder.features_and_maps(ours)
    (features * weights).sum().backward()
    assert goldens.relative_error(features.detach(), expected.detach()) <= 1e-9
    for (b, t, row, column), vector in volume.items():
        assert goldens.relative_error(maps[b, t, :, row, column].detach(), vector.detach()) <= 1e-9
    assert goldens.relative_error(ours.grad, plain.grad) <= 1e-9
    cancelled = ("stem.bias", "blocks.1.proj.bias", "blocks.1.fc2.bias") if norm == "batch" and training else ()
    for name, parameter in named.items():
        if name in cancelled:  # what is added everywhere goes with the batch's mean
            assert parameter.grad.abs().max() < 1e-12 and state[name].grad.abs().max() < 1e-12
        else:
            assert goldens.relative_error(parameter.grad, state[name].grad) <= 1e-9, name
    after = encoder.passage.state_dict()
    assert bool(statistics) == (norm == "batch" and training)
    for name, tensor in statistics.items():
        assert goldens.relative_error(after[name], tensor) <= 1e-9, name


def side(family="clip-vit", **options):
    torch.manual_seed(0)
    encoder = d2st.adapt(BACKBONES[family](), d2st.Side4VideoConfig(**{"width": 32} | options), frames=FRAMES)
    move(encoder)
    return encoder


def test_class_tokens_come_from_the_frames_before_and_after():
    token = torch.arange(1.0, 7).view(1, 3, 2).expand(1, 3, 2)
    assert exchange(token).tolist() == [[[3, 0], [5, 2], [0, 4]]]
    assert exchange(torch.ones(1, 1, 5)).tolist() == [[[0] * 5]]
    assert exchange(torch.ones(1, 2, 3)).tolist() == [[[1, 0, 0], [0, 1, 1]]]


def test_no_graph_is_built_in_the_backbone():
    encoder, seen = side().train(), []
    for block in encoder.backbone.blocks:
        block.register_forward_hook(lambda module, args, output: seen.append(torch.is_grad_enabled()))
    encoder(clips().requires_grad_()).sum().backward()
    assert seen == [False] * 3
    assert all(parameter.grad is None for parameter in encoder.backbone.parameters())


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_in_training_batch_norm_alone_mixes_clips(norm):
    encoder, video = side(norm=norm).train(), clips()
    other = torch.cat([video[:1], 3 * video[1:] + 1])
    with torch.no_grad():
        same = torch.allclose(encoder(video)[0], encoder(other)[0], rtol=1e-4, atol=1e-5)
        assert same == (norm == "layer")
        encoder.eval()
        torch.testing.assert_close(encoder(video)[0], encoder(other)[0], rtol=1e-4, atol=1e-5)
    assert any("running_mean" in name for name in encoder.adapter_state_dict()) == (norm == "batch")


def test_running_statistics_are_saved_with_the_adapter(tmp_path):
    encoder, video = side().train(), clips()
    for _ in range(3):
        encoder(5 + 3 * video)
    encoder.eval().save_pretrained(tmp_path)
    torch.manual_seed(0)
    again = d2st.load(tmp_path, backbone=BACKBONES["clip-vit"]())
    with torch.no_grad():
        assert torch.equal(again(video), encoder(video))
    assert not torch.equal(again.passage.norm.running_mean, torch.zeros(32))


def test_a_clip_has_any_length_and_frames_any_size_that_the_backbone_takes():
    encoder = side()
    for frames in (1, 5):
        features, maps = encoder.features_and_maps(clips(frames=frames))
        assert features.shape == (2, frames, 32) and maps.shape == (2, frames, 32, 4, 4)
        torch.testing.assert_close(features, maps.mean((3, 4)))
    vit = VisionTransformer(img_size=SIZE, patch_size=8, embed_dim=32, depth=1, num_heads=2, dynamic_img_size=True)
    encoder = d2st.adapt(vit, d2st.Side4VideoConfig(width=32), frames=2)
    features, maps = encoder.features_and_maps(clips(frames=2, size=(40, 24)))
    assert features.isfinite().all() and maps.shape == (2, 2, 32, 5, 3)
    with torch.no_grad():
        encoder.passage.positions.copy_(torch.arange(32.0).expand(4, 4, 32))
        torch.testing.assert_close(encoder.passage._positions((5, 3)), torch.arange(32.0).expand(5, 3, 32))


def test_the_classifier_is_a_layer_on_the_mean_over_time_and_places():
    encoder = side()
    model = d2st.VideoClassifier(encoder, 5).train()
    assert not any(isinstance(module, nn.Dropout) and module.p for module in model.head.modules())
    model.eval()
    with torch.no_grad():
        mean = encoder.features_and_maps(clips())[1].mean((1, 3, 4))
        torch.testing.assert_close(model(clips()), model.head.linear(mean))


def test_weights_start_as_released():
    torch.manual_seed(0)
    passage = d2st.adapt(BACKBONES["vit"](), "side4video").passage
    block, width = passage.blocks[0], 320
    stds = {
        block.qkv.weight: width**-0.5,
        block.proj.weight: (24 * width) ** -0.5,
        block.fc1.weight: (2 * width) ** -0.5,
        block.fc2.weight: (24 * width) ** -0.5,
        passage.positions: 0.01,
        block.before.weight: (3 * width) ** -0.5,  # PyTorch's own, as are those below
        block.conv.weight: 1 / 3,
        passage.stem.weight: (9 * 3 * 8 * 8) ** -0.5,
        passage.taps[0].linear.weight: (3 * 32) ** -0.5,
    }
    for weight, std in stds.items():
        assert weight.std().item() == pytest.approx(std, rel=0.05)
    assert not block.qkv.bias.any() and not block.proj.bias.any() and block.fc1.bias.any()
    pointwise = nn.Conv3d(width, width, 1).weight
    assert block.before.weight.abs().max().item() == pytest.approx(pointwise.abs().max().item(), rel=0.01)


def test_the_released_network_has_five_heads_beside_twelve_blocks():
    encoder, _ = on_meta(d2st.Side4VideoConfig())
    assert [block.heads for block in encoder.passage.blocks] == [5] * 12 and len(encoder.passage.taps) == 12
    width, vit = 320, 768
    block = 2 * width + (width**2 + width) * 2 + 4 * width + (4 * width**2 + 4 * width) + (8 * width**2 + 5 * width)
    block += 4 * width  # norms of attention and MLP
    taps = 2 * vit + vit * width + width
    expected = 12 * (block + taps) + (3 * 3 * 16 * 16 + 1) * width + 4 * width + 196 * width
    assert encoder.parameter_count()[0] == expected


def test_what_it_cannot_have_is_refused_in_a_sentence():
    with pytest.raises(d2st.D2STError, match="width=100 must be a multiple of 64"):
        d2st.Side4VideoConfig(width=100)
    with pytest.raises(d2st.D2STError, match="stem_frames=2 must be odd"):
        d2st.Side4VideoConfig(stem_frames=2)
    vit = BACKBONES["vit"]()
    vit.patch_embed.patch_size = (4, 4)  # as of a ViT behind convolutions
    for system in ("side4video", "dist"):
        with pytest.raises(d2st.D2STError, match=r"8x8 patches of its own.*VisionTransformer are 4x4"):
            d2st.adapt(vit, system)


def test_half_precision_autocast_is_finite():
    encoder = side().train()
    head = d2st.create_head("ts-dcm", encoder)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = EpisodicLoss(encoder, head, 2, 1, 1)(clips(batch=4), torch.arange(2))
    loss.backward()
    assert all(p.grad.isfinite().all() for p in (*encoder.trainable_parameters(), *head.trainable_parameters()))


def test_heads_that_need_maps_get_them():
    encoder = side()
    head = d2st.create_head("ts-dcm", encoder)
    assert encoder.num_features == encoder.map_channels == head.features == 32
    with torch.no_grad():
        features, tokens = encode_batch(encoder, clips(), [head])
        expected = head.embed(head.clips_of(*encoder.features_and_maps(clips())))
    assert torch.equal(features, encoder(clips())) and torch.equal(tokens, expected)


def test_registers_are_left_out():
    """What they hold reaches no feature; of the tokens before the patches the class token alone is read."""
    encoder = side("dinov2-registers")
    seen = []
    for tap in encoder.passage.taps:
        tap.register_forward_hook(lambda module, args, output: seen.append(output.shape[2]))
    gradients(encoder, clips())
    assert encoder.passage.prefix == 5 and seen == [17] * 3
