"""Bi-MHM and OTAM against the authors' numbers, per-episode loops, and their own definitions."""

import math
from pathlib import Path

import goldens
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from d2st import heads
from d2st.errors import D2STError


def load(case: str) -> dict[str, torch.Tensor]:
    return load_file(Path(__file__).parent / "golden" / f"{case}.safetensors")


@pytest.mark.parametrize("case", ["match_2x5x4x4", "match_3x5x8x8", "match_2x5x8x16"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_distance_and_gradient_are_the_reference_s(case: str, dtype: torch.dtype, tolerance: float) -> None:
    golden = load(case)
    distances = golden["d"].to(dtype).requires_grad_()
    value = heads.bi_mhm(distances)
    (value * golden["c"].to(dtype)).sum().backward()
    torch.testing.assert_close(value.detach().double(), golden["bimhm"], rtol=0, atol=tolerance)
    torch.testing.assert_close(distances.grad.double(), golden["g_bimhm"], rtol=0, atol=tolerance)


@pytest.mark.parametrize("case", goldens.find("match_*"))
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_otam_is_the_reference_s(case: str, dtype: torch.dtype, tolerance: float) -> None:
    """One direction with both smoothings, both directions with their gradient."""
    _, golden = goldens.read(case)
    distances = golden["d"].to(dtype).requires_grad_()
    for smoothing, key in ((0.5, "otam_l50"), (0.1, "otam_l10")):
        value = heads.otam(distances, smoothing).detach()
        assert value.isfinite().all()
        assert goldens.relative_error(value, golden[key]) <= tolerance
    both = heads.otam(distances) + heads.otam(distances.transpose(-1, -2))
    (both * golden["c"].to(dtype)).sum().backward()
    assert goldens.relative_error(both, golden["otam_bi_l50"]) <= tolerance
    assert goldens.relative_error(distances.grad, golden["g_otam_bi_l50"]) <= tolerance


def test_otam_where_the_reference_overflows() -> None:
    """Long clips of far frames: exp of the costs is 0 in float32, and its gradient not a number."""
    distances = (torch.rand(4, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.4 + 0.9).requires_grad_()
    value = heads.otam(distances, 0.1)
    value.sum().backward()
    exact = heads.otam(distances.detach().double(), 0.1)
    torch.testing.assert_close(value.detach().double(), exact, rtol=1e-5, atol=0)
    assert distances.grad.isfinite().all() and distances.grad.abs().sum() > 0


@pytest.mark.parametrize("case", goldens.find("otam_fn_*"))
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-4)])
def test_otam_functions_of_three_releases(case: str, dtype: torch.dtype, tolerance: float) -> None:
    """Recorded in float32: single and both directions, both smoothings; where theirs overflows ours is finite."""
    _, golden = goldens.read(case)
    for name, smoothing in (("v1", 0.1), ("v2", 0.5), ("d2st", 0.5)):
        for directions, compute in (("single", heads.otam), ("bi", heads.otam_both)):
            distances = golden["in/dists"].to(dtype, copy=True).requires_grad_()
            value = compute(distances, smoothing)
            (value * golden["in/probe"]).sum().backward()
            assert value.isfinite().all() and distances.grad.isfinite().all()
            theirs, gradient = golden[f"out/{name}_{directions}"], golden[f"gi/{name}_{directions}"]
            if theirs.isfinite().all():
                assert goldens.relative_error(value, theirs) <= tolerance
            if gradient.isfinite().all():
                assert goldens.relative_error(distances.grad, gradient) <= tolerance


def test_both_directions_of_clips_with_different_numbers_of_frames() -> None:
    distances = torch.rand(3, 5, 7, dtype=torch.float64)
    expected = heads.otam(distances) + heads.otam(distances.transpose(-1, -2))
    torch.testing.assert_close(heads.otam_both(distances), expected, rtol=0, atol=1e-12)
    square = distances[..., :5]
    expected = heads.otam(square) + heads.otam(square.transpose(-1, -2))
    torch.testing.assert_close(heads.otam_both(square), expected, rtol=0, atol=1e-12)


def otam_by_entries(distances: list[list[float]], s: float) -> float:
    """The table of the reference, entry by entry, with a free column left and right."""
    rows, columns = len(distances), len(distances[0]) + 2
    padded = [[0.0, *row, 0.0] for row in distances]
    table = [[0.0] * columns for _ in range(rows)]
    for m in range(1, columns):
        table[0][m] = table[0][m - 1] + padded[0][m]
    for r in range(1, rows):
        for m in range(1, columns):
            came = [table[r - 1][m - 1], table[r][m - 1]]
            if m == 1:
                came = [table[r - 1][0], table[r - 1][1], table[r][0]]
            elif m == columns - 1:
                came = [table[r - 1][m - 1], table[r - 1][m], table[r][m - 1]]
            table[r][m] = padded[r][m] - s * math.log(sum(math.exp(-cost / s) for cost in came))
    return table[-1][-1]


@settings(max_examples=40, deadline=None)
@given(
    distances=st.tuples(st.integers(1, 5), st.integers(1, 5)).flatmap(
        lambda size: st.lists(st.lists(st.floats(0, 2), min_size=size[1], max_size=size[1]), min_size=size[0],
                              max_size=size[0])
    ),
    smoothing=st.sampled_from([0.1, 0.5, 2.0]),
)  # fmt: skip
def test_otam_is_the_table_filled_entry_by_entry(distances, smoothing) -> None:
    value = heads.otam(torch.tensor(distances, dtype=torch.float64), smoothing).item()
    assert value == pytest.approx(otam_by_entries(distances, smoothing), abs=1e-9)


EPISODES = {
    "otam_head_v1_*": ("otam", {"cosine": "eps", "smoothing": 0.1, "shots": "distance"}),
    "otam_d2st_*": ("otam", {}),
    "bimhm_d2st_*": ("bi-mhm", {}),
}


@pytest.mark.parametrize(
    ("case", "name", "options"),
    [
        pytest.param(*getattr(found, "values", (found,)), name, options, marks=getattr(found, "marks", ()))
        for pattern, (name, options) in EPISODES.items()
        for found in goldens.find(pattern)
    ],
)
def test_episodes_of_three_releases(case: str, name: str, options: dict) -> None:
    """Features to logits, losses and gradients, with shuffled labels and the K-shot rule of each release."""
    _, golden = goldens.read(case)
    support, query = golden["in/support_feats"].requires_grad_(), golden["in/query_feats"].requires_grad_()
    logits = heads.build(name, **options)(support, golden["in/support_labels"], query)
    assert goldens.relative_error(logits, golden["out/logits"]) <= 1e-5
    loss = torch.nn.functional.cross_entropy(logits, golden["in/query_labels"].long())
    assert goldens.relative_error(loss, golden.get("loss/ce", golden.get("loss/ce_mean"))) <= 1e-5
    if "loss/class_ce" in golden:  # D2ST: and the class loss on the clips' mean features, weighted 2
        clips = torch.cat([support, query]).mean(1)
        layer = golden["w/classification_layer.weight"], golden["w/classification_layer.bias"]
        truth = torch.cat([golden["in/real_support_labels"], golden["in/real_query_labels"]]).long()
        loss = loss + 2 * torch.nn.functional.cross_entropy(torch.nn.functional.linear(clips, *layer), truth)
    else:
        loss = loss + (logits * golden["in/probe_logits"]).sum()
    assert goldens.relative_error(loss, golden["loss/total"]) <= 1e-5
    loss.backward()
    assert goldens.relative_error(support.grad, golden["gi/support_feats"]) <= 1e-4
    assert goldens.relative_error(query.grad, golden["gi/query_feats"]) <= 1e-4


@pytest.mark.parametrize("case", goldens.find("cos_sim"))
def test_both_cosines_are_the_reference_s(case: str) -> None:
    _, golden = goldens.read(case)
    x, y = golden["in/x"].requires_grad_(), golden["in/y"].requires_grad_()
    assert goldens.relative_error(heads.cosines(x, y, "norm"), golden["out/normalized"]) <= 1e-5
    value = heads.cosines(x, y, "eps")
    assert goldens.relative_error(value, golden["out/cos_sim"]) <= 1e-5
    (value * golden["in/probe"]).sum().backward()
    assert goldens.relative_error(x.grad, golden["gi/x"]) <= 1e-4
    assert goldens.relative_error(y.grad, golden["gi/y"]) <= 1e-4
    zero = torch.zeros(2, x.shape[1])
    assert torch.equal(heads.cosines(zero, y, "eps"), golden["out/zero_rows"])
    assert torch.equal(heads.cosines(zero, y, "norm"), golden["out/zero_rows"])


def test_otam_knows_the_order_and_bi_mhm_does_not() -> None:
    clip = torch.eye(6)[None]  # six different frames
    support, labels = torch.cat([clip, clip.flip(1)]), torch.tensor([0, 1])
    assert heads.build("otam")(support, labels, clip)[0].diff() < -1
    assert heads.build("bi-mhm")(support, labels, clip)[0].diff() == 0


def test_head_on_an_episode_of_the_reference() -> None:
    """Features to logits and gradients: prototypes of five shots, shuffled labels, episode and class loss."""
    golden = load("bimhm_d2st_5w5s")
    support = golden["in/support_feats"].requires_grad_()
    query = golden["in/query_feats"].requires_grad_()
    logits = heads.build("bi-mhm")(support, golden["in/support_labels"], query)
    torch.testing.assert_close(logits.detach(), golden["out/logits"], rtol=1e-5, atol=1e-5)
    loss = torch.nn.functional.cross_entropy(logits, golden["in/query_labels"].long())
    torch.testing.assert_close(loss.detach(), golden["loss/ce"], rtol=1e-5, atol=1e-6)


def test_ties_send_the_gradient_to_the_first_frame() -> None:
    distances = torch.zeros(3, 4, requires_grad=True)  # a clip shorter than T: all its frames are the same
    heads.bi_mhm(distances).backward()
    expected = torch.zeros(3, 4)
    expected[:, 0] += 1  # nearest query frame of each support frame
    expected[0, :] += 1  # nearest support frame of each query frame
    assert torch.equal(distances.grad, expected)


@settings(max_examples=25, deadline=None)
@given(
    shots=st.lists(st.integers(1, 3), min_size=2, max_size=4),
    queries=st.integers(1, 3),
    frames=st.integers(1, 4),
    cosine=st.sampled_from(["norm", "eps"]),
    seed=st.integers(0, 1000),
)
def test_any_way_unequal_shots_shuffled_labels(shots, queries, frames, cosine, seed) -> None:
    """The batched head equals the definition written as loops."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.cat([torch.full((n,), c) for c, n in enumerate(shots)])
    labels = labels[torch.randperm(len(labels), generator=rng)]
    support = torch.randn(2, len(labels), frames, 5, generator=rng, dtype=torch.float64)
    query = torch.randn(2, queries, frames + 1, 5, generator=rng, dtype=torch.float64)
    head = heads.build("bi-mhm", cosine=cosine)
    logits = head(support, labels, query)
    assert logits.shape == (2, queries, len(shots))
    for e in range(2):
        for c in range(len(shots)):
            prototype = support[e][labels == c].mean(0)
            for q in range(queries):
                norms = prototype.norm(dim=-1)[:, None] * query[e, q].norm(dim=-1)
                cos = prototype @ query[e, q].T / (norms if cosine == "norm" else norms + 0.01)
                expected = -((1 - cos).amin(1).sum() + (1 - cos).amin(0).sum())
                torch.testing.assert_close(logits[e, q, c], expected, rtol=0, atol=1e-10)
    one = head(support[1], labels, query[1], way=len(shots))
    torch.testing.assert_close(one, logits[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("shots", ["prototype", "distance"])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_prototype_is_the_mean_over_time_and_shots(metric: str, shots: str) -> None:
    """Unequal shots; the order of frames does not matter."""
    rng, labels = torch.Generator().manual_seed(0), torch.tensor([1, 0, 1])
    support, query = (torch.randn(n, 4, 5, generator=rng, dtype=torch.float64) for n in (3, 2))
    head = heads.build("prototype", metric=metric, shots=shots, scale=2)
    logits = head(support, labels, query)
    for q in range(2):
        for c in range(2):
            clips = support[labels == c].mean(1)  # (K, D)
            against, clip = (clips.mean(0, keepdim=True) if shots == "prototype" else clips), query[q].mean(0)
            if metric == "cosine":
                alike = torch.nn.functional.cosine_similarity(against, clip[None])
            else:
                alike = -(against - clip).square().sum(1)
            torch.testing.assert_close(logits[q, c], 2 * alike.mean())
    torch.testing.assert_close(head(support.flip(1), labels, query), logits)


def test_a_zero_feature_is_at_distance_one() -> None:
    for cosine in ("norm", "eps"):
        d = heads.frame_distances(torch.zeros(1, 2, 3), torch.ones(1, 2, 3), cosine)
        assert torch.equal(d, torch.ones(1, 1, 2, 2))


def test_the_released_constant_of_the_eps_cosine() -> None:
    d = heads.frame_distances(torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[0.0, 2.0]]]), "eps")
    torch.testing.assert_close(d.item(), 1 - 8 / (10 + 0.01), rtol=0, atol=1e-6)


def test_a_head_that_no_memory_holds_is_refused_before_it_takes_any():
    state = torch.get_rng_state()
    for options in ({"features": 16_384, "width": 16_384, "cardinalities": (64,)}, {"width": 10**9}):
        with pytest.raises(D2STError, match=r"34,359,803,904 parameters|width=1000000000 must be"):
            heads.build("trx", **options)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("bi_mhm", {}, "no head named 'bi_mhm'; choose one of: bi-mhm, "),
        ("bi-mhm", {"temperature": 2}, "no option temperature; its options are: cosine, shots, tuples, direction"),
        ("bi-mhm", {"cosine": "dot"}, "cosine='dot' must be 'norm' or 'eps'"),
        ("otam", {"cosine": "dot"}, "cosine='dot' must be 'norm' or 'eps'"),
        ("otam", {"smoothing": 0}, "smoothing=0 must be a number above 0"),
        ("prototype", {"metric": "dot"}, "metric='dot' must be 'cosine' or 'euclidean'"),
        ("prototype", {"scale": 0}, "scale=0 must be a number above 0"),
        ("ridge", {"penalty": 0}, "penalty=0 must be a number of at least 0.0001"),
        ("ridge", {"scale": 0}, "scale=0 must be a number above 0"),
        ("logistic", {"penalty": 0}, "penalty=0 must be a number of at least 0.0001"),
        ("otam", {"directions": "up"}, "directions='up' must be 'both' or 'single'"),
        ("bi-mhm", {"shots": "mean"}, "shots='mean' must be 'prototype', 'distance' or 'joint'"),
    ],
)
def test_wrong_names_are_refused_with_a_sentence(name: str, options: dict, said: str) -> None:
    with pytest.raises(D2STError, match=said):
        heads.build(name, **options)


def test_wrong_support_sets_are_refused_with_a_sentence() -> None:
    head = heads.build("bi-mhm")
    support, query = torch.randn(3, 2, 4), torch.randn(1, 2, 4)
    with pytest.raises(D2STError, match=r"one label for each of the S clips.*3 clips and labels \(2,\)"):
        head(support, torch.tensor([0, 1]), query)
    with pytest.raises(D2STError, match=r"\[1\] have none"):
        head(support, torch.tensor([0, 2, 2]), query)
    with pytest.raises(D2STError, match="width 4, query features 5"):
        head(support, torch.tensor([0, 1, 1]), torch.randn(1, 2, 5))
