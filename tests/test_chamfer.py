"""Chamfer++ as options of Bi-MHM: the authors' numbers, and its definition written as loops."""

from itertools import combinations

import goldens
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from d2st import heads
from d2st.errors import D2STError
from d2st.heads.matching import MOST_TUPLES, tuple_distances

DIRECTIONS = {"chamfer": "both", "chamfer-query": "query", "chamfer-support": "support"}
SHOTS = {"joint": "joint", "average": "distance"}


def side_by_side(clips: torch.Tensor, size: int) -> torch.Tensor:
    """(..., T, D) -> (..., n, size * D): the tuples of a clip, formed."""
    index = torch.tensor(list(combinations(range(clips.shape[-2]), size)))
    return clips[..., index, :].flatten(-2)


def projected(clips: torch.Tensor, weights: dict[str, torch.Tensor], size: int) -> torch.Tensor:
    """What their learned layers make of the tuples; a golden without them has frames."""
    if "fc.weight" not in weights:
        assert size == 1
        return clips
    tuples = F.linear(side_by_side(clips, size), weights["fc.weight"], weights["fc.bias"])
    return F.layer_norm(tuples, tuples.shape[-1:], weights["layer_norm.weight"], weights["layer_norm.bias"])


@pytest.mark.parametrize("case", goldens.find("chamfer*"))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_logits_losses_and_gradients_are_the_authors(case: str, dtype: torch.dtype) -> None:
    """Behind their projection, which is no part of the head, and with their means and scale; labels shuffled too."""
    about, golden = goldens.read(case)
    args, exact = about["args"], golden["out/logits"].dtype == dtype == torch.float64
    weights = goldens.weights(golden, None)
    weights = {key: weights[key].to(dtype).requires_grad_() for key in about["trainable"]}
    support, query = (golden[f"in/{side}"].to(dtype).requires_grad_() for side in ("support", "query"))
    direction = DIRECTIONS[args["matching_function"]]
    head = heads.build("bi-mhm", cosine="eps", shots=SHOTS[args["video_to_class_matching"]], direction=direction)
    ours, theirs = (projected(clips, weights, args["clip_tuple_length"]) for clips in (support, query))
    order = golden["in/perm"]
    for clips, labels in (
        (ours[order], golden["in/support_labels"][order]),
        (ours, golden["in/support_labels"]),
    ):
        mean = head(clips, labels, theirs) / ours.shape[-2] / (2 if direction == "both" else 1)
        logits = args["matching_global_temperature"] * weights["temperature_weight"] * (1 + mean)
        assert goldens.relative_error(logits, golden["out/logits"]) <= (1e-9 if exact else 1e-4)
    loss = F.cross_entropy(logits, golden["in/query_labels"])
    assert goldens.relative_error(loss, golden["out/loss_ce"]) <= (1e-9 if exact else 1e-4)
    total = (logits * golden["c/logits"]).sum() + (loss * golden["c/loss_ce"]).sum()
    assert goldens.relative_error(total, golden["loss"]) <= (1e-9 if exact else 1e-4)
    total.backward()
    for name, tensor, gradient in (
        ("support", support, golden["gin/support"]),
        ("query", query, golden["gin/query"]),
        *((name, weight, golden[f"g/{name}"]) for name, weight in weights.items()),
    ):
        assert goldens.relative_error(tensor.grad, gradient) <= (1e-9 if exact else 1e-4), name


@pytest.mark.parametrize("cosine", ["norm", "eps"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_distances_of_tuples_are_those_of_features_side_by_side(cosine: str, size: int) -> None:
    """Values and gradients, clips of different lengths, and a batch of episodes."""
    rng = torch.Generator().manual_seed(0)
    clips = [torch.randn(2, n, t, 5, generator=rng, dtype=torch.float64).requires_grad_() for n, t in ((4, 6), (3, 5))]
    formed = [clip.detach().clone().requires_grad_() for clip in clips]
    distances = tuple_distances(*clips, size, cosine)
    expected = heads.frame_distances(*(side_by_side(clip, size) for clip in formed), cosine)
    assert distances.shape == expected.shape == (2, 3, 4, *(len(list(combinations(range(t), size))) for t in (6, 5)))
    torch.testing.assert_close(distances, expected, rtol=0, atol=1e-12)
    weight = torch.randn(distances.shape, generator=rng, dtype=torch.float64)
    for value in (distances, expected):
        (value * weight).sum().backward()
    for ours, theirs in zip(clips, formed, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    shots=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    frames=st.integers(3, 5),
    rule=st.sampled_from(["joint", "distance", "prototype"]),
    size=st.integers(1, 3),
    direction=st.sampled_from(["both", "query", "support"]),
    cosine=st.sampled_from(["norm", "eps"]),
    seed=st.integers(0, 1000),
)
def test_any_options_unequal_shots_shuffled_labels(shots, frames, rule, size, direction, cosine, seed) -> None:
    """The definition, a query and a class at a time, for two episodes whose labels differ."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(shots)).repeat_interleave(torch.tensor(shots))
    labels = torch.stack([labels[torch.randperm(len(labels), generator=rng)] for _ in range(2)])
    support = torch.randn(2, labels.shape[1], frames, 4, generator=rng, dtype=torch.float64)
    query = torch.randn(2, 2, frames + 1, 4, generator=rng, dtype=torch.float64)
    head = heads.build("bi-mhm", cosine=cosine, shots=rule, tuples=size, direction=direction)
    logits = head(support, labels, query)
    for e in range(2):
        for c in range(len(shots)):
            clips = side_by_side(support[e][labels[e] == c], size)  # (K, n, l D)
            if rule == "prototype":
                clips = clips.mean(0, keepdim=True)
            for q in range(2):
                clip = side_by_side(query[e, q], size)  # (n', l D)
                norms = clips.norm(dim=-1)[..., None] * clip.norm(dim=-1)
                d = 1 - clips @ clip.T / (norms if cosine == "norm" else norms + 0.01)  # (K, n, n')
                to_query = frames * d.amin(2).mean()
                to_support = (frames + 1) * (d.amin((0, 1)).mean() if rule == "joint" else d.amin(1).mean())
                expected = -{"both": to_query + to_support, "query": to_support, "support": to_query}[direction]
                torch.testing.assert_close(logits[e, q, c], expected, rtol=0, atol=1e-10)


def test_rules_are_the_same_where_they_must_be() -> None:
    """For one shot all; in the direction of the support joint and the mean of distances for any."""
    rng = torch.Generator().manual_seed(0)
    for shots, direction, rules in (
        (1, "both", ("joint", "distance", "prototype")),
        (3, "support", ("joint", "distance")),
    ):
        support, query = torch.randn(2 * shots, 4, 6, generator=rng), torch.randn(3, 4, 6, generator=rng)
        built = [heads.build("bi-mhm", shots=rule, tuples=2, direction=direction) for rule in rules]
        first, *others = [head(support, torch.arange(2 * shots) % 2, query) for head in built]
        for other in others:
            torch.testing.assert_close(other, first)


@pytest.mark.parametrize("rule", ["joint", "distance", "prototype"])
def test_a_shot_that_is_there_twice(rule: str) -> None:
    """It counts neither for nor against its class."""
    rng = torch.Generator().manual_seed(0)
    support, query = torch.randn(2, 4, 6, generator=rng), torch.randn(3, 4, 6, generator=rng)
    head = heads.build("bi-mhm", shots=rule, tuples=2)
    twice = head(support[[0, 1, 1]], torch.tensor([0, 1, 1]), query)
    torch.testing.assert_close(twice, head(support, torch.tensor([0, 1]), query))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [0.0, 0.01, 100.0])
def test_half_precision_is_widened_and_gradients_are_finite(dtype: torch.dtype, scale: float) -> None:
    """For frames of any size, zero and repeated ones among them, and under autocast."""
    rng = torch.Generator().manual_seed(0)
    clips = torch.randn(5, 4, 8, generator=rng) * scale
    clips[1:3, 1:] = clips[1:3, :1]
    for rule in ("joint", "prototype"):
        support, query = (part.to(dtype).clone().requires_grad_() for part in (clips[:3], clips[3:]))
        head = heads.build("bi-mhm", shots=rule, tuples=3)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = head(support, torch.tensor([1, 0, 1]), query)
        wide = head(support.detach().float(), torch.tensor([1, 0, 1]), query.detach().float())
        torch.testing.assert_close(logits, wide, rtol=0, atol=1e-6)
        F.cross_entropy(logits, torch.tensor([0, 1])).backward()
        assert logits.isfinite().all() and support.grad.isfinite().all() and query.grad.isfinite().all()


def test_equally_near_shots_send_the_gradient_to_the_first() -> None:
    """Whatever their order: of two copies in one class the first one given learns of the query's frames."""
    clip, query = torch.eye(3)[None], torch.eye(3)[None] + 0.1
    support = torch.cat([clip, -clip, clip]).requires_grad_()
    head = heads.build("bi-mhm", shots="joint", direction="query")
    head(support, torch.tensor([1, 0, 1]), query)[0, 1].backward()
    assert support.grad[0].any() and not support.grad[1:].any()


def test_what_is_impossible_is_a_sentence() -> None:
    labels = torch.tensor([0, 1])
    for shots in ("joint", "prototype"):
        head = heads.build("bi-mhm", shots=shots, tuples=3)
        with pytest.raises(D2STError, match="tuples of 3 frames was given clips of 2; take more frames or shorter"):
            head(torch.randn(2, 4, 5), labels, torch.randn(1, 2, 5))
        with pytest.raises(D2STError, match="width 5, query features 6"):
            head(torch.randn(2, 4, 5), labels, torch.randn(1, 4, 6))
    with pytest.raises(D2STError, match=f"64 frames have 41,664 tuples of 3 frames; {MOST_TUPLES:,} are the most"):
        head(torch.randn(2, 64, 5), labels, torch.randn(1, 64, 5))
    with pytest.raises(D2STError, match="tuples=0 must be"):
        heads.build("bi-mhm", tuples=0)
    with pytest.raises(D2STError, match="direction='up' must be 'both', 'query' or 'support'"):
        heads.build("bi-mhm", direction="up")


def test_episode_bytes_know_of_the_tuples() -> None:
    clip = torch.zeros(8, 16)
    for options, pairs in (
        ({}, 10 * 5 * 8**2),
        ({"shots": "joint"}, 10 * 25 * 8**2),
        ({"shots": "joint", "tuples": 3}, 10 * 25 * 56**2),
        ({"tuples": 3}, 10 * 5 * 56**2),
    ):
        head = heads.build("bi-mhm", **options)
        assert head.episode_bytes(clip, 25, 10, 5) == (25 + 10) * clip.nbytes + 3 * 4 * pairs
