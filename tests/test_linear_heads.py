"""The heads ``ridge`` and ``logistic`` against the problems that they solve, written out for every clip."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from d2st import D2STError, heads

BOTH = pytest.mark.parametrize("name", ["ridge", "logistic"])
LABELS = torch.tensor([2, 0, 1, 1, 0, 1, 2, 1])  # two, four and two shots


def clips(count: int, frames: int = 3, features: int = 6, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(count, frames, features, generator=rng, dtype=torch.float64)


def centered(support: Tensor, labels: Tensor, query: Tensor, order: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Support (S, F) and queries (Q, F) as the docs have them, and the weights (S,) of the support clips."""

    def vector(clip: Tensor) -> Tensor:
        frames = torch.stack([frame / frame.norm() for frame in clip])
        return frames.flatten() if order else frames.mean(0)

    support, query = (torch.stack([vector(clip) for clip in part]) for part in (support, query))
    classes = labels.unique()
    center = torch.stack([support[labels == c].mean(0) for c in classes]).mean(0)
    squares = (support - center).square().sum(1)
    scale = torch.stack([squares[labels == c].mean() for c in classes]).mean().sqrt()
    weights = torch.stack([1 / ((labels == c).double().sum() * len(classes)) for c in labels])
    return (support - center) / scale, (query - center) / scale, weights


@pytest.mark.parametrize("order", [False, True])
@pytest.mark.parametrize("penalty", [1e-4, 0.01, 2.0])
def test_ridge_is_the_least_squares_solution(penalty: float, order: bool) -> None:
    """Of rows that are weighted, a column of ones without penalty, and a row for each penalized weight."""
    support, query = clips(8), clips(4, seed=1)
    x, queries, weights = centered(support, LABELS, query, order)
    root, width = weights.sqrt()[:, None], x.shape[1]
    rows = torch.cat(
        [root * torch.cat([x, torch.ones(8, 1)], 1), penalty**0.5 * torch.eye(width, width + 1, dtype=x.dtype)]
    )
    right = torch.cat([root * F.one_hot(LABELS), torch.zeros(width, 3)])
    solution = torch.linalg.lstsq(rows, right, driver="gelsd").solution
    expected = 7 * (queries @ solution[:-1] + solution[-1])
    head = heads.build("ridge", order=order, penalty=penalty, scale=7)
    torch.testing.assert_close(head(support, LABELS, query), expected, rtol=1e-9, atol=1e-9)
    single = head(support.float(), LABELS, query.float()).double()
    assert (single - expected).abs().max() <= max(1e-4, 1e-7 / penalty) * expected.abs().max()


@pytest.mark.parametrize("order", [False, True])
@pytest.mark.parametrize("penalty", [1e-4, 1e-3, 1.0])
def test_logistic_regression_ends_where_its_gradient_is_zero(penalty: float, order: bool) -> None:
    """The classifier is read off its logits, which are linear in the queries."""
    support, query = clips(8), clips(40, seed=1)
    x, queries, weights = centered(support, LABELS, query, order)
    head = heads.build("logistic", order=order, penalty=penalty)
    logits = head(support, LABELS, query)
    classifier = torch.linalg.lstsq(queries, logits, driver="gelsd").solution.requires_grad_()
    torch.testing.assert_close(queries @ classifier, logits, rtol=1e-9, atol=1e-9)
    losses = F.cross_entropy(x @ classifier, LABELS, reduction="none")
    ((weights * losses).sum() + penalty / 2 * classifier.square().sum()).backward()
    assert classifier.grad.abs().max() <= 1e-3 * penalty
    single = head(support.float(), LABELS, query.float()).double()
    assert (single - logits).abs().max() <= 1e-4 * logits.abs().max()


@BOTH
def test_gradients_are_those_of_the_solution(name: str) -> None:
    head = heads.build(name, penalty=0.05)
    support, query = clips(4, 2, 3).requires_grad_(), clips(2, 2, 3, seed=1).requires_grad_()
    labels = torch.tensor([0, 1, 0, 2])
    assert torch.autograd.gradcheck(lambda s, q: head(s, labels, q), (support, query))


@BOTH
def test_classes_count_alike_whatever_their_shots(name: str) -> None:
    """Clips that are there twice change nothing when all of their class are."""
    head, support, query = heads.build(name), clips(8), clips(4, seed=1)
    twice = torch.cat([support, support[LABELS == 1]])
    labels = torch.cat([LABELS, LABELS[LABELS == 1]])
    torch.testing.assert_close(head(twice, labels, query), head(support, LABELS, query), rtol=1e-9, atol=1e-9)


@BOTH
def test_the_penalty_means_the_same_for_features_of_any_spread(name: str) -> None:
    """Of a backbone whose clips are all much alike, and of one whose clips differ."""
    head, support, query = heads.build(name), clips(8), clips(4, seed=1)
    logits = head.match(support, LABELS, query)
    near = head.match(5 + 0.01 * support, LABELS, 5 + 0.01 * query)
    torch.testing.assert_close(near, logits, rtol=1e-9, atol=1e-9)


@BOTH
def test_support_clips_that_are_all_the_same_tell_nothing(name: str) -> None:
    head, query = heads.build(name), clips(4, seed=1).float()
    support = clips(1).float().repeat(6, 1, 1).requires_grad_()
    alone = head(support[:1], torch.tensor([0]), query)
    assert torch.equal(alone, torch.full((4, 1), 10.0 if name == "ridge" else 0.0))
    logits = head(support, torch.tensor([0, 1, 1, 0, 1, 0]), query)
    torch.testing.assert_close(logits, logits[:, :1].expand(4, 2))
    logits.sum().backward()
    assert support.grad.isfinite().all()


@BOTH
@pytest.mark.parametrize("shots", [2, 3, 10])
def test_a_single_class_tells_no_clip_from_another(name: str, shots: int) -> None:
    """Roundings that grow with a clip's distance would pass for a perfect way to tell unknown clips."""
    rng = torch.Generator().manual_seed(0)
    own = 3 * torch.randn(64, generator=rng) + torch.randn(shots + 5, 8, 64, generator=rng)
    query = torch.cat([own[shots:], torch.randn(5, 8, 64, generator=rng)])
    logits = heads.build(name)(own[:shots], torch.zeros(shots, dtype=torch.long), query, 1)
    torch.testing.assert_close(logits, torch.full((10, 1), 10.0 if name == "ridge" else 0.0), rtol=1e-5, atol=0)


def test_ridge_regression_of_wide_features_is_exact_in_float32() -> None:
    head = heads.build("ridge", penalty=1e-4)
    support, query = 4 + clips(10, 1, 768, seed=2), 4 + clips(6, 1, 768, seed=3)
    labels = torch.arange(5).repeat(2)
    exact, found = head(support, labels, query), head(support.float(), labels, query.float())
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-6 * exact.abs().max().item())


@BOTH
def test_a_classifier_separates_what_the_means_of_classes_do_not(name: str) -> None:
    """Class 1 lies at both sides of class 0 along a wide axis, and beside it along a narrow one."""
    points = torch.tensor([[0.0, 0], [4, 0], [-3, 0], [3.9, 0.5], [-3.9, 0.5], [3, 0.5]], dtype=torch.float64)
    support = torch.cat([points, torch.full((6, 1), 10.0)], 1)[:, None]  # (S, 1, 3), almost parallel
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    assert (heads.build(name, penalty=1e-4)(support, labels, support).argmax(1) == labels).all()
    assert not (heads.build("prototype")(support, labels, support).argmax(1) == labels).all()


@BOTH
def test_order_counts_where_it_is_asked_for(name: str) -> None:
    support, query = clips(2, 5), clips(3, 5, seed=1)
    labels = torch.tensor([0, 1])
    blind, knowing = heads.build(name, order=False), heads.build(name, order=True)
    torch.testing.assert_close(blind(support, labels, query.flip(1)), blind(support, labels, query))
    assert not torch.allclose(knowing(support, labels, query.flip(1)), knowing(support, labels, query))
    there_and_back = torch.cat([support[:1], support[:1].flip(1)])
    assert (knowing(there_and_back, labels, there_and_back).argmax(1) == labels).all()
    assert blind(there_and_back, labels, query).diff().abs().max() < 1e-9


@BOTH
def test_clips_that_do_not_fit_together_are_refused_in_a_sentence(name: str) -> None:
    support, labels = clips(2, 5), torch.tensor([0, 1])
    blind, knowing = heads.build(name, order=False), heads.build(name, order=True)
    assert blind(support, labels, clips(3, 4)).shape == (3, 2)
    with pytest.raises(D2STError, match="the support's have 5, the queries' 4"):
        knowing(support, labels, clips(3, 4))
    with pytest.raises(D2STError, match="width 6, query features 7"):
        knowing(support, labels, clips(3, 5, 7))
    with pytest.raises(D2STError, match="support is a single one"):
        knowing(support[0], labels, support)


@BOTH
def test_many_near_copies_stay_exact_in_float32(name: str) -> None:
    """A matrix of products that is singular but for the penalty: 200 clips around three."""
    head, rng = heads.build(name, penalty=1e-4), torch.Generator().manual_seed(0)
    support = clips(3).repeat(67, 1, 1)[:200]
    support = support + 1e-3 * torch.randn(support.shape, generator=rng, dtype=torch.float64)
    labels, query = torch.arange(200) % 3, clips(4, seed=1)
    expected = head(support.float().double(), labels, query.float().double())
    single = head(support.float(), labels, query.float()).double()
    assert (single - expected).abs().max() <= 1e-2 * expected.abs().max()
