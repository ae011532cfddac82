"""Held-out support clips, thresholds and confidences."""

import json
import math

import heads_small
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from d2st import heads
from d2st.classifiers.open_set import (
    _in_order,
    class_offsets,
    fit_calibration,
    fit_held_out,
    fit_score,
    held_out_scores,
    hold_out,
    lower_bound,
)
from d2st.classifiers.rejector import RATES, CalibrationFile, Entry, fit_rejector
from d2st.errors import D2STError
from d2st.features.fingerprint import Origin


def clips(shots: tuple[int, ...], seed: int = 0, spread: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Support clips (S, T, D) around a center for each class, and their labels, class by class."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(shots)).repeat_interleave(torch.tensor(shots))
    centers = torch.randn(len(shots), 4, 16, generator=rng)
    return centers[labels] + spread * torch.randn(len(labels), 4, 16, generator=rng), labels


@pytest.mark.parametrize("name", heads.HEADS)
def test_every_head_holds_out_as_one_by_one(name: str) -> None:
    """Folds against one matching a clip, on unequal shots and for episodes at once."""
    head, shots = heads_small.build(name), (3, 1, 2)
    episode = heads_small.episode(head, shots, lead=(2,))
    support, text = head.embed(episode.support), heads_small.text_of(episode)
    support = _in_order(support, episode.labels)  # as it sorts them itself
    text = None if text is None else text.expand(2, *text.shape)
    held = hold_out(head, support, episode.labels, 3, text)
    assert held.known.shape == (2, 5, 3) and held.unknown.shape == (2, 6, 3)
    assert sorted(held.labels.tolist()) == [0, 0, 0, 2, 2]
    place = episode.labels.argsort(stable=True).argsort()
    for s, own in enumerate(episode.labels.tolist()):
        left = episode.labels != own
        others = [c for c in range(3) if c != own]
        renamed = episode.labels[left] - (episode.labels[left] > own).long()
        names = None if text is None else text[:, others]
        one = head.match(support[:, left], renamed, support[:, s : s + 1], 2, names)[:, 0]
        torch.testing.assert_close(held.unknown[:, place[s], others], one, rtol=1e-4, atol=1e-4)
        assert (held.unknown[:, place[s], own] == -math.inf).all()
    # The third clip of class 0 is alone in its fold: the rest is the support set without it.
    last = int((episode.labels == 0).nonzero()[2])
    left = [i for i in range(6) if i != last]
    one = head.match(support[:, left], episode.labels[left], support[:, [last]], 3, text)[:, 0]
    torch.testing.assert_close(held.known[:, -1], one, rtol=1e-4, atol=1e-4)


def test_many_classes_and_shots_are_held_out_in_part() -> None:
    support, labels = clips((1,) * 119 + (60,))
    held = hold_out(heads.build("prototype"), support.mean(1, keepdim=True), labels, 120)
    assert held.known.shape == (60, 120) and sorted(held.labels.tolist()) == [119] * 60
    assert len(held.unknown) == 40  # every third class
    assert (held.unknown == -math.inf).sum(1).tolist() == [1] * 40


@settings(max_examples=25, deadline=None)
@given(shots=st.lists(st.integers(1, 4), min_size=1, max_size=5), seed=st.integers(0, 999))
def test_order_of_classes_and_clips_does_not_matter(shots: list[int], seed: int) -> None:
    support, labels = clips(tuple(shots), seed)
    head, way, rng = heads.build("bi-mhm"), len(shots), np.random.default_rng(seed)
    names, query = torch.from_numpy(rng.permutation(way)), torch.randn(3, 4, 16)
    rejector = fit_rejector(head, support, labels, None, 0.1, None)
    found = rejector(head.match(support, labels, query, way))
    order = torch.cat([(names[labels] == c).nonzero().flatten() for c in range(way)])  # class by class, as a classifier
    renamed = names[labels][order]
    again = fit_rejector(head, support[order], renamed, None, 0.1, None)(
        head.match(support[order], renamed, query, way)
    )
    torch.testing.assert_close(found[0], again[0], rtol=1e-4, atol=1e-5)
    assert torch.equal(found[1], again[1])


def test_offsets_are_shrunk_means_and_do_not_see_the_clip_they_score() -> None:
    support, labels = clips((4, 3, 1))
    held = hold_out(heads.build("bi-mhm"), support, labels, 3)
    means = [held.known[held.labels == c, c].mean().item() for c in (0, 1)]
    center = sum(means) / 2
    expected = [3 / 8 * (means[0] - center), 2 / 6 * (means[1] - center), 0]
    assert class_offsets(held).tolist() == pytest.approx(expected, abs=1e-5)
    assert fit_score(torch.tensor([[5.0, 1, 1], [0, 1, 3]]), class_offsets(held)).tolist() == pytest.approx(
        [5 - expected[0], 3], abs=1e-5
    )
    known, _ = held_out_scores(held)
    j = int((held.labels == 1).nonzero()[0])
    others = [i for i in (held.labels == 1).nonzero().flatten().tolist() if i != j]
    without = held.known[others, 1].mean()
    best = int(held.known[j].argmax())
    middle = (torch.tensor(means[0]) + without) / 2
    offset = {0: 3 / 8 * (means[0] - middle), 1: 1 / 4 * (without - middle), 2: 0}[best]
    assert known[j].item() == pytest.approx(float(held.known[j].max() - offset), abs=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(-50, 50), min_size=2, max_size=40),
    rates=st.tuples(st.floats(0.01, 0.99), st.floats(0.01, 0.99)),
)
def test_a_higher_reject_rate_never_keeps_more(values: list[float], rates: tuple[float, float]) -> None:
    low, high = (lower_bound(torch.tensor(values, dtype=torch.float64), rate).item() for rate in sorted(rates))
    assert low <= high <= max(values)


@pytest.mark.parametrize("n", [4, 10, 25, 60])
def test_the_bound_keeps_what_it_promises(n: int) -> None:
    values = torch.randn(20000, n + 1, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    below = (values[:, -1] < lower_bound(values[:, :-1], 0.05)).double().mean().item()
    assert below < 0.05 + 0.005
    assert n < 19 or below > 0.03, "an order statistic that promises 5 % and rejects almost nothing is wasted"


def test_confidence_is_fitted_where_it_can_be() -> None:
    """Logits that are the log odds themselves: the fit finds the slope, the offset and the temperature again."""
    rng = torch.Generator().manual_seed(0)
    known, unknown = (torch.randn(40000, generator=rng).double() + at for at in (1, -1))  # log odds are 2 s
    logits = torch.randn(40000, 4, generator=rng).double()
    labels = torch.distributions.Categorical(logits=logits / 0.5).sample()
    found = fit_calibration(known, unknown, logits, labels, 0.05)
    assert found.slope.item() == pytest.approx(2, abs=0.05) and found.intercept.item() == pytest.approx(0, abs=0.05)
    assert found.temperature.item() == pytest.approx(0.5, rel=0.13)  # of a grid
    assert (known < found.threshold).double().mean().item() == pytest.approx(0.05, abs=1e-3)
    turned = fit_calibration(unknown, known, logits, labels, 0.05)  # scores that say the opposite say nothing
    assert turned.slope.item() == 0 and turned.intercept.item() == 0
    apart = fit_calibration(known[:20].abs() + 5, -unknown[:20].abs() - 5, logits[:20], labels[:20], 0.05)
    assert torch.isfinite(apart.slope) and apart.confidence(torch.tensor([50.0]), torch.zeros(1, 1)).item() > 0.9


def draw_scores(rng: torch.Generator, count: int, tail: str) -> torch.Tensor:
    scores = torch.randn(count, generator=rng, dtype=torch.float64)
    if tail == "student":
        scores /= torch.rand(count, generator=rng, dtype=torch.float64).clamp_min(1e-9).sqrt()
    elif tail == "cauchy":
        scores = torch.tan(math.pi * (torch.rand(count, generator=rng, dtype=torch.float64) - 0.5))
    elif tail == "outlier":
        scores[0] *= 1e5
    elif tail == "ties":
        scores = scores.round()
    return scores


def confidence_loss(known: torch.Tensor, unknown: torch.Tensor, slope: torch.Tensor, intercept: torch.Tensor):
    """Platt's, with his smoothed targets, where both sides count the same."""
    n, m = len(known), len(unknown)
    sides = zip((known, unknown), ((n + 1) / (n + 2), 1 / (m + 2)), strict=True)
    odds = [(slope * scores + intercept, target) for scores, target in sides]
    return sum(-(t * F.logsigmoid(z) + (1 - t) * F.logsigmoid(-z)).mean() for z, t in odds)


sizes = st.integers(0, 30).map(lambda x: round(10 ** (x / 10)))  # 1 to 1000


@settings(max_examples=150, deadline=None)
@given(
    n=sizes,
    m=sizes,
    tail=st.sampled_from(["normal", "student", "cauchy", "outlier", "ties"]),
    gap=st.floats(-1, 30),
    unit=st.sampled_from([1e-3, 1.0, 1e4]),
    seed=st.integers(0, 9999),
)
def test_the_fit_of_the_confidence_ends_at_the_least_loss(n, m, tail, gap, unit, seed) -> None:
    """Any sizes, tails and outliers: better than no slope, and no direction leads further down."""
    rng = torch.Generator().manual_seed(seed)
    known, unknown = ((draw_scores(rng, count, tail) + at) * unit for count, at in ((n, gap), (m, 0.0)))
    found = fit_calibration(known, unknown, torch.zeros(n, 1), torch.zeros(n), 0.05)
    if found.slope == 0:  # scores that say nothing, or the opposite: that is where the loss falls
        at = torch.zeros((), dtype=torch.float64, requires_grad=True)
        share = ((n + 1) / (n + 2) + 1 / (m + 2)) / 2
        even = torch.tensor(math.log(share / (1 - share)), dtype=torch.float64)
        confidence_loss(known, unknown, at, even).backward()
        assert found.intercept == 0 and at.grad.item() >= -1e-9 * torch.cat([known, unknown]).abs().max()
        return
    scores = torch.cat([known, unknown])
    x = scores.std()
    slope, shift = (found.slope * x).requires_grad_(), (found.intercept + found.slope * scores.mean()).requires_grad_()
    loss = confidence_loss((known - scores.mean()) / x, (unknown - scores.mean()) / x, slope, shift)
    loss.backward()
    assert found.slope > 0 and abs(slope.grad.item()) < 1e-6 and abs(shift.grad.item()) < 1e-6
    grid = torch.linspace(-6, 6, 49, dtype=torch.float64)
    flat = min(confidence_loss(known, unknown, torch.zeros(()), at).item() for at in grid)
    assert loss.item() <= flat + 1e-9


@pytest.mark.parametrize(("n", "m", "gap"), [(2, 22, 10.0), (2, 30, 10.0), (10, 10, 3.0), (1, 1000, 5.0)])
def test_confidence_of_few_and_many_is_fitted(n: int, m: int, gap: float) -> None:
    """Sides of very different numbers, 50 episodes at once, against a long descent with small steps."""
    rng = torch.Generator().manual_seed(n + m)
    known, unknown = (torch.randn(50, count, generator=rng, dtype=torch.float64) for count in (n, m))
    known = known + gap
    found = fit_calibration(known, unknown, torch.zeros(50, n, 1), torch.zeros(n), 0.05)
    for i in range(0, 50, 7):
        slope, intercept = found.slope[i], found.intercept[i]
        assert 0 < slope < 20
        least = confidence_loss(known[i], unknown[i], slope, intercept).item()
        start = torch.tensor([0.1, -0.1], dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([start], 1.0, 500, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

        def closure(i=i, start=start, optimizer=optimizer):
            optimizer.zero_grad()
            value = confidence_loss(known[i], unknown[i], start[0], start[1])
            value.backward()
            return value

        optimizer.step(closure)
        assert least <= closure().item() + 1e-7


def test_a_single_pair_of_clips_beside_many_classes_of_one_keeps_a_confidence() -> None:
    head = heads.build("bi-mhm")
    for seed in range(5):
        support, labels = clips((2, *(1,) * 20), seed, spread=0.3)
        found = fit_held_out(hold_out(head, support, labels, 21), 0.05)
        assert 0 <= found.slope < 1e3 and torch.isfinite(found.intercept)


def test_equal_scores_say_nothing() -> None:
    known, unknown = torch.full((5,), -3.7), torch.full((7,), -3.7)
    found = fit_calibration(known, unknown, torch.zeros(5, 2), torch.zeros(5), 0.05)
    assert found.slope == 0 and found.intercept == 0


def test_judges_by_what_there_is() -> None:
    head = heads.build("bi-mhm")
    entry = Entry(5, 1, 9, slope=1.0, intercept=0.0, temperature=1.0, quantiles=tuple(-7.0 + r for r in RATES))
    saved = CalibrationFile(Origin("b", "a", "h", "f"), (entry,))
    for shots, without, with_file in (
        ((1, 1, 1), None, "file"),
        ((3, 3, 3), "support", "file"),  # nine clips can be held out
        ((4, 3, 3), "support", "support"),
        ((5, 5), "support", "file"),
        ((12,), "support", "file"),
        ((1,), None, "file"),
    ):
        support, labels = clips(shots)
        for file, expected in ((None, without), (saved, with_file)):
            found = fit_rejector(head, support, labels, None, 0.05, file).calibration
            held = hold_out(head, support, labels, len(shots))
            own = fit_held_out(held, 0.05).threshold.item() if expected == "support" else -6.95
            assert (found is None) if expected is None else found.threshold.item() == pytest.approx(own)
    support, labels = clips((3, 3, 3), spread=0.5)
    logits = head.match(support, labels, torch.cat([support[:1], torch.randn(1, 4, 16)]), 3)
    confidence, unknown = fit_rejector(head, support, labels, None, 0.05, None)(logits)
    assert unknown.tolist() == [False, True] and confidence[0] > 0.6 > 0.2 > confidence[1]
    confidence, unknown = fit_rejector(head, support[::3], labels[::3], None, 0.05, None)(logits)
    assert not unknown.any() and torch.allclose(confidence, logits.double().softmax(-1).amax(-1))


@given(st.permutations(range(9)), st.sampled_from(["bi-mhm", "otam", "ridge"]))
@settings(max_examples=30, deadline=None)
def test_the_order_of_the_examples_says_nothing_of_what_is_unknown(order, name):
    head = heads.build(name)
    support, labels = clips((4, 3, 2), spread=0.5)
    logits = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    found = fit_rejector(head, support, labels, None, 0.05, None)(logits)
    other = fit_rejector(head, support[order], labels[order], None, 0.05, None)(logits)
    torch.testing.assert_close(found, other, rtol=1e-4, atol=1e-5)
    for episode, mixed in zip(
        _in_order(support.expand(2, -1, -1, -1), labels), torch.stack([support] * 2), strict=True
    ):
        assert sorted(episode.sum((1, 2)).tolist()) == sorted(mixed.sum((1, 2)).tolist())


@pytest.mark.parametrize("name", ["bi-mhm", "ridge"])
def test_a_clip_that_is_there_twice_is_held_out_once(name: str) -> None:
    head = heads.build(name)
    support, labels = clips((3, 1, 2), spread=0.5)
    copies = support[[0, 3, 4, 4]] * (1 + 1e-6)  # of another batch
    twice, of = torch.cat([copies, support]), torch.cat([labels[[0, 3, 4, 4]], labels])
    logits = head.match(support, labels, clips((5, 5, 5), spread=0.5)[0], 3)
    found = fit_rejector(head, support, labels, None, 0.05, None)(logits)
    for one, other in zip(found, fit_rejector(head, twice, of, None, 0.05, None)(logits), strict=True):
        torch.testing.assert_close(one.double(), other.double(), rtol=1e-3, atol=1e-4)
    one_each, of = clips((1, 1))
    assert fit_rejector(head, one_each.repeat(2, 1, 1), of.repeat(2), None, 0.05, None).calibration is None


def test_calibration_files(tmp_path) -> None:
    origin = Origin("vit", "d2st", "otam", "abc")
    rng = torch.Generator().manual_seed(1)
    known, unknown, logits = (torch.randn(50, *size, generator=rng).double() for size in ((4,), (6,), (4, 2)))
    one, five = (Entry.fit(known + k, unknown, logits, torch.tensor([0, 0, 1, 1]), k) for k in (1, 5))
    file = CalibrationFile(origin, (one, five))
    assert file.write(tmp_path) == tmp_path / "calibration.json"
    assert CalibrationFile.read(tmp_path) == CalibrationFile.read(tmp_path / "calibration.json") == file
    assert [file.nearest(k).shot for k in (1, 2, 3, 20)] == [1, 1, 5, 5]
    for rate in (0.02, 0.05, 0.333):
        assert (known + 1 < one.at(rate).threshold).double().mean().item() == pytest.approx(rate, abs=0.011)
    assert file.check_model(origin) is file
    with pytest.raises(D2STError, match="fitted for adapter d2st on vit with the head otam; this is"):
        file.check_model(Origin("vit", "d2st", "trx", "abc"))
    content = json.loads((tmp_path / "calibration.json").read_text())
    for broken in ("{", "[]", json.dumps(content | {"format": 9}), json.dumps(content | {"entries": []})):
        (tmp_path / "calibration.json").write_text(broken)
        with pytest.raises(D2STError, match=r"The calibration '.*json' .*; d2st eval .* writes one"):
            CalibrationFile.read(tmp_path)
    with pytest.raises(D2STError, match="There is no calibration"):
        CalibrationFile.read(tmp_path / "gone.json")
