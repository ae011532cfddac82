"""TA2N against the authors' numbers, and against a second implementation that makes every pair's maps."""

import math
import zlib

import goldens
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from families import BACKBONES

import d2st
from d2st import heads
from d2st.errors import D2STError
from d2st.heads import ta2n
from d2st.heads.ta2n import interpolation, window

WIDTH, SIDE = 6, 5


def made(name, shape):
    """A weight that a golden does not store, by its ``big_weights_rule``."""
    h = np.arange(math.prod(shape), dtype=np.uint64) * 2654435761 + zlib.crc32(name.encode()) & 0xFFFFFFFF
    h ^= h >> np.uint64(15)
    h = h * 2246822519 & 0xFFFFFFFF
    h ^= h >> np.uint64(13)
    values = (2 * h.astype(float) / 2**32 - 1) * math.sqrt(3 / math.prod(shape[1:]))
    return torch.from_numpy(values.astype(np.float32)).view(shape)


def spread(values, shape):
    """A gradient of which every 101st number is known."""
    whole = torch.full((math.prod(shape),), torch.nan)
    whole[::101] = values
    return whole.view(shape)


def of_release(tensors):
    return {f"align.{name}": tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize("name", goldens.find("ta2n*"))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_logits_losses_and_gradients_are_the_reference_s(name, dtype, monkeypatch):
    monkeypatch.setattr(ta2n, "SHIFTS", torch.tensor(ta2n.SHIFTS).tolist())  # float32 numbers, whatever the rest is
    about, golden = goldens.read(name)
    args, big, exact = about["args"], about["big_weights"], dtype == torch.float64
    shots = "first" if args["shot"] > 1 else "prototype"
    head = heads.build("ta2n", features=args["dim"][0], dropout=0.0, shots=shots).to(dtype)
    state = goldens.weights(golden, dtype) | {key: made(key, shape).to(dtype) for key, shape in big.items()}
    spare = d2st.official.load(head, of_release(state), "ta2n")
    assert len(spare) == (0 if shots == "first" else 3) and all("multi" in key for key in spare)
    head.train(about["mode"].startswith("train"))
    support, query = (golden[f"in/{side}_maps"].to(dtype).requires_grad_() for side in ("support", "query"))
    labels, targets = golden["in/support_labels"], golden["in/query_labels"]

    offsets = []
    head.offsets.register_forward_hook(lambda module, inputs, out: offsets.append(out))
    logits = head(support, labels, query)
    loss = F.cross_entropy(logits, targets, reduction="sum")
    assert goldens.relative_error(logits, golden["out64/logits"]) <= (1e-12 if exact else 1e-5)
    assert goldens.relative_error(loss, golden["loss64/ce_sum"]) <= (1e-12 if exact else 1e-5)
    assert goldens.relative_error(offsets[0], golden["out/offsets"]) <= 1e-4

    (loss + (logits * golden["in/probe_logits"].to(dtype)).sum()).backward()
    for side, x in (("support", support), ("query", query)):
        assert goldens.relative_error(x.grad, golden[f"gi/{side}_maps"]) <= 1e-4, side
    theirs = goldens.weights(golden, dtype, "g/")
    theirs |= {key: spread(golden[f"gs/{key}"], shape) for key, shape in big.items()}
    gradients = d2st.official.translate(head, of_release(theirs), "ta2n")
    assert gradients.keys() == dict(head.named_parameters()).keys()
    for key, gradient in gradients.items():
        if goldens.largest(gradient) < 1e-4:  # of what BatchNorm takes off again, zero but for rounding
            assert head.get_parameter(key).grad.abs().max() < 1e-4, key
        else:
            assert goldens.relative_error(head.get_parameter(key).grad, gradient) <= 1e-4, key


def small(**options):
    """A head in float64 whose layers that begin at zero have weights."""
    torch.manual_seed(0)
    head = heads.build("ta2n", features=WIDTH, **{"dropout": 0.0} | options).double().eval()
    with torch.no_grad():
        for network in (head.warp, head.offsets):
            network.readout[2].weight.normal_(std=0.3)
            network.readout[2].bias.normal_(std=0.3)
            for norm in (network.trunk[0], network.trunk[4]):
                norm.running_mean.normal_(std=0.1)
                norm.running_var.uniform_(0.5, 1.5)
    return head


def draw(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network_loop(network, x, pool):
    """What follows on a network's first convolution."""
    norm1, _, _, conv, norm2, _, _ = network.trunk
    for step, norm in ((lambda x: x, norm1), (lambda x: F.conv3d(x, conv.weight, conv.bias, padding=1), norm2)):
        x = step(x)
        if network.training:
            mean, variance = x.mean((0, 2, 3, 4)), x.var((0, 2, 3, 4), correction=0)
        else:
            mean, variance = norm.running_mean, norm.running_var
        mean, variance, gain, shift = (
            tensor[:, None, None, None] for tensor in (mean, variance, norm.weight, norm.bias)
        )
        x = F.relu(F.max_pool3d((x - mean) / (variance + 1e-5).sqrt() * gain + shift, pool))
    return x


def read_loop(network, x):
    layer, _, last, _ = network.readout
    return torch.tanh(F.relu(x @ layer.weight.T + layer.bias) @ last.weight.T + last.bias)


def warp_loop(head, clips):
    """Clips (N, T, D, H, W) of one call, warped by PyTorch's sampler of pictures."""
    x = clips.transpose(1, 2)
    seen = network_loop(head.warp, F.conv3d(x, head.warp.first.weight, head.warp.first.bias, padding=1), 2)
    warped = []
    for clip, (stretch, shift) in zip(x, read_loop(head.warp, seen.amax((2, 3, 4))), strict=True):
        times = torch.linspace(-1, 1, clip.shape[1], dtype=clip.dtype) * stretch + shift
        row = clip.permute(0, 2, 3, 1).reshape(1, -1, 1, clip.shape[1])  # a picture of one row of T pixels
        grid = torch.stack([times, torch.zeros_like(times)], -1)[None, None]
        row = F.grid_sample(row, grid, align_corners=True).view(*clip.shape[:1], *clip.shape[2:], -1)
        warped.append(row.permute(3, 0, 1, 2))
    return torch.stack(warped)


def class_loop(head, clips):
    """A class's map (T, D, H, W), of its warped clips."""
    if head.shots == "prototype":
        return sum(clips) / len(clips)
    layers, found = head.shot_attention, []
    for clip in clips:
        keys, queries = (x.mean((2, 3)) @ w.T for x, w in ((clip, layers.key.weight), (clips[0], layers.query.weight)))
        weights = torch.softmax(keys @ queries.T / math.sqrt(WIDTH), 0)
        values = torch.einsum("ed,tdhw->tehw", layers.value.weight, clip)
        found.append(torch.einsum("xy,xdhw->ydhw", weights, values))
    return sum(found) / len(found)


def mask_loop(offset):
    """(SIDE, SIDE), the mean of nine windows around an offset (x, y)."""
    masks = []
    for up in (-0.2, 0.0, 0.2):
        for right in (-0.2, 0.0, 0.2):
            sides = []
            for d in (offset[1] + up, offset[0] + right):
                g = (torch.linspace(-1, 1, SIDE, dtype=offset.dtype) + d).abs()
                sides.append(torch.where(g < 1, torch.ones_like(g), F.relu(1 - (g - 1) * (SIDE - 1) / 2)))
            mask = sides[0][:, None] * sides[1]
            masks.append(mask / mask.sum())
    return sum(masks) / 9


def episode_loop(head, support, labels, query):
    """Logits (Q, way) of one episode, with the maps of every pair."""
    support, query = warp_loop(head, support), warp_loop(head, query)
    way, offsets, layers = int(labels.max()) + 1, head.offsets, head.pair_attention
    if head.shots == "first":
        query_maps = torch.einsum("ed,qtdhw->qtehw", head.shot_attention.value.weight, query)
    else:
        query_maps = query
    pairs = []
    for c in range(way):
        ours = class_loop(head, [clip for clip, label in zip(support, labels, strict=True) if label == c])
        frames = ours.mean((2, 3))
        for theirs in query_maps:
            others = theirs.mean((2, 3))
            scores = (frames @ layers.key.weight.T) @ (others @ layers.query.weight.T).T / math.sqrt(WIDTH)
            found = torch.softmax(scores, 1) @ (others @ layers.value.weight.T)
            own = frames @ layers.value.weight.T
            pairs.append((ours + own[:, :, None, None], theirs + found[:, :, None, None]))
    x = torch.stack([torch.cat(pair, 1).transpose(0, 1) for pair in pairs])  # (way Q, 2 D, T, H, W)
    weight = torch.cat([offsets.of_class.weight, offsets.of_query.weight], 1)
    x = network_loop(offsets, F.conv3d(x, weight, offsets.of_class.bias, padding=1), (1, 2, 2))
    moved = 0.75 * read_loop(offsets, x.amax((3, 4)).transpose(1, 2))  # (way Q, T, 2)
    logits = []
    for pair, offset in zip(pairs, moved, strict=True):
        distance = 0.0
        for t in range(len(offset)):
            ours, theirs = (
                (mask_loop(sign * offset[t]) * maps[t]).sum((1, 2)) for sign, maps in zip((1, -1), pair, strict=True)
            )
            distance = distance + 1 - F.cosine_similarity(ours, theirs, 0, 1e-12)
        logits.append(-distance)
    return torch.stack(logits).view(way, -1).T


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shots", ["prototype", "first"])
def test_it_is_what_a_loop_over_episodes_classes_and_queries_gives(shots, training):
    """Unequal shots, shuffled labels, two episodes at once; BatchNorm sees one of them at a time."""
    head = small(shots=shots).train(training)
    labels = torch.tensor([[2, 0, 1, 0, 0, 2], [0, 1, 2, 2, 1, 1]])
    support, query = (draw(2, n, 4, WIDTH, SIDE, SIDE, seed=n).requires_grad_() for n in (6, 3))
    logits = head(support, labels, query)
    expected = torch.stack([episode_loop(head, *one) for one in zip(support, labels, query, strict=True)])
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-11)
    parameters, probe = dict(head.named_parameters()) | {"support": support, "query": query}, draw(2, 3, 3)
    ours, theirs = (
        torch.autograd.grad((values * probe).sum(), list(parameters.values())) for values in (logits, expected)
    )
    for name, x, y in zip(parameters, ours, theirs, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-10, msg=name)


def test_training_counts_statistics_episode_by_episode():
    support, query, labels = draw(2, 3, 4, WIDTH, SIDE, SIDE), draw(2, 2, 4, WIDTH, SIDE, SIDE), torch.tensor([1, 0, 2])
    together, alone = small().train(), small().train()
    logits = together(support, labels, query)
    one_by_one = torch.stack([alone(s, labels, q) for s, q in zip(support, query, strict=True)])
    torch.testing.assert_close(logits, one_by_one, rtol=0, atol=1e-11)
    assert together.offsets.trunk[0].num_batches_tracked == 2  # of pairs; the warp sees support and query apart
    assert together.warp.trunk[0].num_batches_tracked == 4
    for key, value in alone.offsets.state_dict().items():
        torch.testing.assert_close(together.offsets.state_dict()[key], value)


def test_the_first_clip_of_a_class_counts_with_first_alone():
    support, query = draw(4, 4, WIDTH, SIDE, SIDE), draw(2, 4, WIDTH, SIDE, SIDE, seed=2)
    labels, within, between = torch.tensor([0, 1, 0, 1]), [2, 1, 0, 3], [1, 0, 3, 2]
    for shots, counts in (("prototype", False), ("first", True)):
        head = small(shots=shots)
        logits = head(support, labels, query)
        assert torch.allclose(head(support[between], labels[between], query), logits)
        assert torch.allclose(head(support[within], labels[within], query), logits) is not counts


def test_it_begins_nearly_as_a_comparison_of_pooled_frames():
    """The warp leaves clips nearly as they are, windows are centered: the release's start."""
    head = heads.build("ta2n", features=WIDTH).double().eval()
    maps = draw(3, 4, WIDTH, SIDE, SIDE)
    torch.testing.assert_close(head.warp(maps.transpose(1, 2)), torch.tensor([[math.tanh(2), 0.0]] * 3).double())
    assert not head.offsets(draw(2, ta2n.HIDDEN, 4, SIDE, SIDE)).any()
    embedded = head.embed(maps).unflatten(-1, (WIDTH + 2 * ta2n.HIDDEN, SIDE, SIDE))[..., :WIDTH, :, :]
    assert (embedded - maps).abs().max() < 0.1 * maps.abs().max()
    assert not torch.equal(head.train().embed(maps), head.embed(maps)), "drop-out"
    bound = 1 / math.sqrt(2 * WIDTH * 27)  # one convolution of both maps, side by side
    for conv in (head.offsets.of_class, head.offsets.of_query):
        assert 0.9 * bound < conv.weight.abs().max() <= bound


def test_clips_are_read_between_frames_and_are_zero_outside():
    where = torch.tensor([[1.0, 0.0], [0.5, 0.5], [-1.0, 0.0], [1.0, 2 / 3]])
    rows = interpolation(where, 4) @ torch.tensor([1.0, 2.0, 3.0, 4.0])
    expected = [[1, 2, 3, 4], [2.5, 3, 3.5, 4], [4, 3, 2, 1], [2, 3, 4, 0]]
    torch.testing.assert_close(rows, torch.tensor(expected, dtype=torch.float32))
    shift = torch.zeros(2, requires_grad=True)  # every frame at the center, as the release differentiates there
    (interpolation(shift, 5) @ torch.arange(5.0)).sum().backward()
    assert shift.grad.tolist() == [0.0, 10.0]


def test_windows_weigh_what_they_cover():
    offsets = torch.tensor([0.0, 0.4, -0.4, 0.75])
    weights = window(offsets, 7)
    torch.testing.assert_close(weights.sum(-1), torch.ones(4))
    torch.testing.assert_close(weights[1], weights[2].flip(-1))
    assert (weights[0] - weights[0].flip(-1)).abs().max() < 1e-6 and weights[3, -1] == 0
    assert weights[1].argmax() < 3 and (weights[0, 2:5] == weights[0].max()).all()


def test_evaluation_plans_for_pairs():
    clip = small().embed(draw(8, WIDTH, SIDE, SIDE)).float()
    of_pair = 8 * (3 * 128 * SIDE**2 + 27 * 128 + 12 * WIDTH) * 4
    assert small().episode_bytes(clip, 25, 10, 5) == 35 * clip.nbytes + 50 * of_pair


def test_no_pair_has_a_map_of_all_channels():
    """The largest tensor of 30 pairs that a layer sees has the 128 channels of what is convolved."""
    sizes = []

    def count(module, inputs, output):
        sizes.extend(tensor.numel() for tensor in (*inputs, output))

    head = heads.build("ta2n", features=512).eval()
    for module in head.modules():
        module.register_forward_hook(count)
    with torch.no_grad():
        head(torch.randn(6, 4, 512, 6, 6), torch.arange(6), torch.randn(5, 4, 512, 6, 6))
    assert max(sizes) == 30 * 4 * ta2n.HIDDEN * 6 * 6


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((3, 4, 7, 5, 5), r"square maps \(..., T, 6, H, H\); these are \(3, 4, 7, 5, 5\)"),
        ((3, 4, 6, 5, 4), r"square maps .* these are \(3, 4, 6, 5, 4\)"),
        ((3, 4, 6), r"square maps .* these are \(3, 4, 6\)"),
        ((3, 3, 6, 5, 5), "4 frames and maps of 4 x 4 cells or more, not 3 frames of 5 x 5"),
        ((3, 4, 6, 3, 3), "or more, not 4 frames of 3 x 3"),
    ],
)
def test_maps_that_do_not_fit_are_refused_with_a_sentence(shape, said):
    with pytest.raises(D2STError, match=said):
        small().embed(draw(*shape))


def test_other_refusals_are_sentences():
    support, query, labels = draw(2, 4, WIDTH, SIDE, SIDE), draw(1, 5, WIDTH, SIDE, SIDE), torch.tensor([0, 1])
    with pytest.raises(D2STError, match=r"4 frames of 150 numbers and the queries 5 of 150\. Sample all clips alike"):
        small(shots="first")(support, labels, query)
    episode = heads.EncodedEpisode(support, labels, query, torch.tensor([0]), torch.arange(2))
    for shots in ("prototype", "first"):
        with pytest.raises(
            D2STError, match=r"4 frames of 150 numbers and the queries 5 of 150\. Sample all clips alike"
        ):
            small(shots=shots).loss(episode)
    with pytest.raises(D2STError, match=r"these clips have 150 numbers a frame\. What an earlier d2st kept"):
        small().match(support.flatten(-3), labels, support.flatten(-3))
    with pytest.raises(D2STError, match="one label for each of the S clips"):
        small(shots="first")(support, labels[:1], support)
    with pytest.raises(D2STError, match="shots='mean' must be 'prototype' or 'first'"):
        small(shots="mean")
    with pytest.raises(D2STError, match="dropout=1 must be a number of at least 0 and below 1"):
        small(dropout=1)


@pytest.mark.parametrize("prefix", ["resnet.", "resnet.module."])
def test_a_checkpoint_of_the_release_goes_into_encoder_and_head(prefix):
    """On one GPU and on several; its ResNet has torchvision's names."""
    encoder = d2st.adapt(BACKBONES["resnet-basic"](), d2st.FullConfig(), frames=4, image_size=32)
    head = heads.build("ta2n", features=64, shots="first")
    state = {prefix + key: torch.full_like(tensor, 2) for key, tensor in encoder.backbone.state_dict().items()}
    norm = {"weight": 0, "bias": 0, "running_mean": 0, "running_var": 0, "num_batches_tracked": None}
    for network, (width, hidden, inputs) in {
        "firststage.locnet": (64, 32, 64),
        "secondstage.mvnet": (128, 64, 128),
    }.items():
        shapes = {"0.weight": (width, inputs, 3, 3, 3), "0.bias": (width,)}
        shapes |= {"4.weight": (128, width, 3, 3, 3), "4.bias": (128,)}
        shapes |= {f"1.{key}": () if axis is None else (width,) for key, axis in norm.items()}
        shapes |= {f"5.{key}": () if axis is None else (128,) for key, axis in norm.items()}
        one = (1,) if "second" in network else ()  # a convolution over frames
        shapes |= {"10.weight": (hidden, 128, *one), "10.bias": (hidden,), "12.weight": (2, hidden, *one)}
        shapes |= {"12.bias": (2,)}
        state |= {f"align.{network}.{key}": torch.full(shape, 3) for key, shape in shapes.items()}
    for key in ("{}net_multi", "secondstage.{}net"):
        for part in ("key", "query", "value"):
            state[f"align.{key.format(part)}.weight"] = torch.full((64, 64, 1), 3.0)
    state |= {"protypicalNet.norm_layer.weight": torch.ones(5), "protypicalNet.norm_layer.bias": torch.ones(5)}
    spare = d2st.official.load(encoder, state, "ta2n")
    assert not any(key.startswith("resnet") for key in spare)
    assert all((parameter == 2).all() for parameter in encoder.parameters())
    spare = d2st.official.load(head, state, "ta2n")
    assert {key.split(".")[0] for key in spare} == {"resnet", "protypicalNet"}
    assert all((tensor == 3).all() for tensor in head.state_dict().values())
    del state["align.secondstage.mvnet.0.weight"]
    with pytest.raises(D2STError, match=r"missing keys \['offsets.of_class.weight', 'offsets.of_query.weight'\]"):
        d2st.official.load(head, state, "ta2n")


@pytest.mark.parametrize("grid", [(2, 2), (4, 5), (7, 7)])
def test_frames_are_convolved_as_the_maps_that_they_fill(grid):
    conv, frames = torch.nn.Conv3d(6, 5, 3, padding=1).double(), draw(2, 4, 6)
    weights = draw(2, 3, 4, seed=2)
    maps = (weights @ frames)[..., None, None].expand(2, 3, 6, *grid)
    expected = F.conv3d(maps.transpose(1, 2), conv.weight, padding=1)
    torch.testing.assert_close(ta2n.convolve_frames(conv, frames, weights, grid), expected)


def test_training_and_test_give_the_same_logits():
    """In training maps are convolved for what they are, in a test for both."""
    head = small()
    support, query, labels = (
        draw(3, 4, WIDTH, SIDE, SIDE),
        draw(2, 4, WIDTH, SIDE, SIDE, seed=2),
        torch.tensor([1, 0, 2]),
    )
    _, logits = head.loss(heads.EncodedEpisode(support, labels, query, torch.tensor([0, 1]), torch.arange(3)))
    torch.testing.assert_close(logits, head(support, labels, query), rtol=1e-12, atol=1e-12)
