"""Bi-MHM and OTAM against the authors' numbers, per-episode loops, and their own definitions."""

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


def test_a_zero_feature_is_at_distance_one() -> None:
    for cosine in ("norm", "eps"):
        d = heads.frame_distances(torch.zeros(1, 2, 3), torch.ones(1, 2, 3), cosine)
        assert torch.equal(d, torch.ones(1, 1, 2, 2))


def test_the_released_constant_of_the_eps_cosine() -> None:
    d = heads.frame_distances(torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[0.0, 2.0]]]), "eps")
    torch.testing.assert_close(d.item(), 1 - 8 / (10 + 0.01), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("bi_mhm", {}, "no head named 'bi_mhm'; choose one of: bi-mhm, "),
        ("bi-mhm", {"temperature": 2}, "no option temperature; its options are: cosine, shots"),
        ("bi-mhm", {"cosine": "dot"}, "'norm' or 'eps', not 'dot'"),
        ("otam", {"cosine": "dot"}, "'norm' or 'eps', not 'dot'"),
        ("otam", {"smoothing": 0}, "above 0, not 0"),
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
