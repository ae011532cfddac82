"""Tell clips that show none of the classes, by how the clips of the support set itself match.

Each clip of a support set is a query once, known without itself and unknown without its class (:func:`hold_out`). From
this follow scores of how well a clip fits the classes at all (:func:`fit_score`), a threshold below which a clip is
unknown, and how likely its label is right.

The label is right if the clip shows one of the classes at all and it is this one of them:
``confidence = sigmoid(slope * score + intercept) * softmax(logits / temperature)[label]``. The first factor is fitted
by logistic regression on scores of known and unknown clips that count the same together (Platt, 1999, with his
smoothed targets), the second by the likelihood of the known clips' classes (Guo et al., ICML 2017).
"""

import math
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import D2STError
from ..heads import Head
from ..utils.finite import check_logits
from ..utils.statistics import student_t

FOLDS = 50  # of more shots several are held out at a time, of more classes only so many are held out
TEMPERATURES = torch.logspace(-2, 2, 81, dtype=torch.float64)  # in units of the logits' spread between classes
TINY = torch.finfo(torch.float64).tiny


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Logits of support clips that were held out of their support set. Leading dimensions are episodes.

    Attributes:
        known: (..., N, way) of the clips whose class has others, against the support without them.
        labels: (N,) their classes, 0..way-1.
        unknown: (..., M, way) of all clips, class by class, against the support without their class, whose logit is
            -inf; M is 0 for a single class.
    """

    known: Tensor
    labels: Tensor
    unknown: Tensor

    def cpu(self) -> "HeldOut":
        """Move the logits to the CPU."""
        return HeldOut(self.known.cpu(), self.labels.cpu(), self.unknown.cpu())


@torch.no_grad()
def hold_out(head: Head, support: Tensor, labels: Tensor, way: int, text: Tensor | None = None) -> HeldOut:
    """Match the clips of a support set with the rest of it.

    Of every class that has more than one clip, one is held out at a time, of all classes together: as many matchings
    as the largest class has shots. Which ones go together follows from what they show, and not from their order.

    Args:
        head: in eval mode.
        support: (..., S, T, D) as ``head.embed`` gives them.
        labels: (S,) 0..way-1, every class at least once.
        way: number of classes.
        text: (..., way, D') features of the classes' names, for a head that uses them; (..., way, M, D') of phases.
    """
    none = support.new_empty(*support.shape[:-3], 0, way, dtype=torch.float32)
    known, order = [none], [labels.new_empty(0)]
    support = _in_order(support, labels)
    folds = _folds(labels, way)
    for fold in range(int(folds.max()) + 1):
        out = (folds == fold).nonzero().flatten()
        rest = (folds != fold).nonzero().flatten()
        known.append(head.match(support[..., rest, :, :], labels[rest], support[..., out, :, :], way, text).float())
        order.append(out)
    known = torch.cat(known, -2)
    check_logits(known, "example" if known.ndim == 2 else "support set")
    unknown = [none]
    step = math.ceil(way / FOLDS)
    for c in range(0, way, step) if way > 1 else ():
        others = [i for i in range(way) if i != c]
        out = (labels == c).nonzero().flatten()
        rest = (labels != c).nonzero().flatten()
        renumbered = labels[rest] - (labels[rest] > c).long()
        names = None if text is None else _of_classes(text, others, head)
        logits = head.match(support[..., rest, :, :], renumbered, support[..., out, :, :], way - 1, names).float()
        own = torch.full_like(logits[..., :1], -torch.inf)
        unknown.append(torch.cat([logits[..., :c], own, logits[..., c:]], -1))
    return HeldOut(known, labels[torch.cat(order)], torch.cat(unknown, -2))


def _of_classes(text: Tensor, classes: list[int], head: Head) -> Tensor:
    """Take the texts of some classes."""
    return text[..., classes, :, :] if head.needs_phases else text[..., classes, :]


def _in_order(support: Tensor, labels: Tensor) -> Tensor:
    """Sort the clips (..., S, T, D) of each class by the size of their features.

    So other names or another order of the same clips change nothing of what is held out together.
    """
    sizes = support.double().square().sum((-2, -1))  # (..., S)
    order = sizes.argsort(dim=-1, stable=True)
    order = order.gather(-1, labels[order].argsort(dim=-1, stable=True))  # class by class
    places = torch.empty_like(order)
    places[..., labels.argsort(stable=True)] = order  # a class stays where its clips were
    return support.gather(-3, places[..., None, None].expand(support.shape))


def _folds(labels: Tensor, way: int) -> Tensor:
    """Number the fold (S,) in which each clip is held out; -1 for the only clip of a class."""
    members = F.one_hot(labels.long(), way)  # (S, way)
    place = ((members.cumsum(0) - 1) * members).sum(1)  # (S,) of a clip in its class
    return (place % FOLDS).masked_fill(members.sum(0)[labels] == 1, -1)


def class_offsets(held: HeldOut) -> Tensor:
    """Measure how much more than the others a class's own clips fit it, (..., way); 0 for classes with a single clip.

    A class whose clips are much alike gives its own clips high logits and others too; the offset takes that out. It is
    the mean logit that its held-out clips have for it, less the mean of the classes, shrunk by (K - 1) / 2K for K
    shots: the whole of it helps some heads and harms others, half of it hardly any (docs/unknown.md).
    """
    sums, counts = _sums(held)
    return _offsets(sums, counts)


def fit_score(logits: Tensor, offsets: Tensor) -> Tensor:
    """Score how well clips fit the classes at all: the largest logit, less its class's offset. Larger is better known.

    Args:
        logits: (..., Q, way).
        offsets: (..., way), see :func:`class_offsets`; zeros for one shot.

    Returns:
        (..., Q).
    """
    top, best = logits.max(-1)
    return top - offsets.expand(*logits.shape[:-2], -1).gather(-1, best)


def held_out_scores(held: HeldOut) -> tuple[Tensor, Tensor]:
    """Score the held-out clips as known ones (..., N), and as unknown ones (..., M).

    A known clip is scored with offsets that have not seen it.
    """
    sums, counts = _sums(held)  # (..., way)
    member = F.one_hot(held.labels.long(), sums.shape[-1])  # (N, way)
    own = held.known * member  # (..., N, way), its logit for its own class
    without = _offsets(sums.unsqueeze(-2) - own, counts - member)  # (..., N, way)
    top, best = held.known.max(-1, keepdim=True)
    known = (top - without.gather(-1, best)).squeeze(-1)
    return known, fit_score(held.unknown, _offsets(sums, counts))


def _sums(held: HeldOut) -> tuple[Tensor, Tensor]:
    """Sum up (..., way) and count (way,) the logits that each class's held-out clips have for it."""
    member = F.one_hot(held.labels.long(), held.known.shape[-1])  # (N, way)
    return (held.known * member).sum(-2), member.sum(0)


def _offsets(sums: Tensor, counts: Tensor) -> Tensor:
    """Compute offsets from sums (..., way) of ``counts`` logits; counts have the trailing dimensions of the sums."""
    some = counts > 0
    means = sums / counts.clamp_min(1)
    center = (means * some).sum(-1, keepdim=True) / some.sum(-1, keepdim=True).clamp_min(1)
    return (means - center) * some * (counts - 1).clamp_min(0) / (2 * counts).clamp_min(1)


@dataclass(frozen=True, eq=False)
class Calibration:
    """Threshold and confidence of scores (:func:`fit_score`). Leading dimensions are episodes.

    Attributes:
        threshold: (...) a clip with a lower score is unknown.
        slope: (...) at least 0.
        intercept: (...).
        temperature: (...) above 0.
    """

    threshold: Tensor
    slope: Tensor
    intercept: Tensor
    temperature: Tensor

    def unknown(self, scores: Tensor) -> Tensor:
        """Tell which of the clips (..., Q) show none of the classes."""
        return scores < self.threshold.unsqueeze(-1)

    def confidence(self, scores: Tensor, logits: Tensor) -> Tensor:
        """Estimate how likely the likeliest class is right, (..., Q), from scores (..., Q) and logits (..., Q, way).

        As if every second clip showed none of the classes.
        """
        known = torch.sigmoid(self.slope.unsqueeze(-1) * scores + self.intercept.unsqueeze(-1))
        return known * (logits / self.temperature[..., None, None]).softmax(-1).amax(-1)


def check_rate(rate: float) -> None:
    """Refuse a reject rate that is no share."""
    if isinstance(rate, bool) or not isinstance(rate, Real) or not 0 < rate < 1:
        raise D2STError(f"The reject rate is a share above 0 and below 1, such as 0.05, not {rate!r}.")


def fit_calibration(known: Tensor, unknown: Tensor, logits: Tensor, labels: Tensor, reject_rate: float) -> Calibration:
    """Fit threshold and confidence to clips of which it is known what they show.

    Args:
        known: (..., N) scores of clips of the classes.
        unknown: (..., M) scores of clips of other classes.
        logits: (..., N, way) of the first.
        labels: (N,) or (..., N) their classes.
        reject_rate: share of such clips that may be taken for unknown, above 0 and below 1.
    """
    known, unknown = known.double(), unknown.double()
    slope, intercept = _logistic(known, unknown)
    temperature = _temperature(logits.double(), labels)
    return Calibration(lower_bound(known, reject_rate), slope, intercept, temperature)


def fit_held_out(held: HeldOut, reject_rate: float) -> Calibration:
    """Fit threshold and confidence to the clips of a support set that were held out of it."""
    known, unknown = held_out_scores(held)
    return fit_calibration(known, unknown, held.known, held.labels, reject_rate)


def lower_bound(values: Tensor, rate: float) -> Tensor:
    """Find the value below which another one like these falls with a probability of at most ``rate``.

    From 1 / rate - 1 values on it is the k-th smallest of n, k = floor(rate (n + 1)), whatever their distribution
    (Vovk et al., 2005). Fewer cannot promise that: then it is the one-sided prediction bound of normal values, but not
    above the smallest.

    Args:
        values: (..., n); -inf for n = 0, and for n = 1, of which the spread is not known.
        rate: above 0 and below 1.

    Returns:
        (...).
    """
    n = values.shape[-1]
    if n < 2:
        return values.new_full(values.shape[:-1], -torch.inf)
    k = math.floor(rate * (n + 1) + 1e-9)
    if k > 0:
        return values.kthvalue(k, dim=-1).values
    width = student_t(1 - rate, n - 1) * math.sqrt(1 + 1 / n)
    return torch.minimum(values.amin(-1), values.mean(-1) - width * values.std(-1))


def _logistic(known: Tensor, unknown: Tensor) -> tuple[Tensor, Tensor]:
    """Fit slope and intercept (...) of the logistic regression on scores (..., N) and (..., M)."""
    n, m = known.shape[-1], unknown.shape[-1]
    if not n or not m:  # nothing is known of one side: even odds
        return known.new_zeros(known.shape[:-1]), known.new_zeros(known.shape[:-1])
    scores = torch.cat([known, unknown], -1)
    size = scores.abs().amax(-1, keepdim=True)
    center = scores.mean(-1, keepdim=True)
    spread = size * (scores / size.clamp_min(TINY)).std(-1, keepdim=True)
    alike = spread <= 1e-12 * size  # but for roundings
    spread = torch.where(alike, torch.ones_like(spread), spread)
    x = torch.where(alike, torch.zeros_like(scores), (scores - center) / spread)  # (..., N + M)
    ones = scores.new_ones
    targets = torch.cat([ones(n) * (n + 1) / (n + 2), ones(m) / (m + 2)])
    weights = torch.cat([ones(n) / n, ones(m) / m])
    slope, intercept = damped_newton(x, targets, weights)
    positive = slope > 0  # otherwise the scores say nothing: even odds
    slope = torch.where(positive, slope, 0.0)
    intercept = torch.where(positive, intercept, 0.0)
    return slope / spread.squeeze(-1), intercept - slope * (center / spread).squeeze(-1)


def _temperature(logits: Tensor, labels: Tensor) -> Tensor:
    """Find the temperature (...) under which logits (..., N, way) make their labels likeliest."""
    if logits.shape[-1] == 1 or not logits.shape[-2]:
        return logits.new_ones(logits.shape[:-2])
    unit = logits.std(-1).mean(-1).clamp_min(1e-9)  # (...)
    truth = labels.long().expand(logits.shape[:-1]).unsqueeze(-1)
    losses = []
    for temperature in TEMPERATURES:
        scaled = (logits / (unit * temperature)[..., None, None]).log_softmax(-1)
        losses.append(-scaled.gather(-1, truth).mean((-2, -1)))
    return unit * TEMPERATURES[torch.stack(losses).argmin(0)]


def damped_newton(x: Tensor, targets: Tensor, weights: Tensor, steps: int = 200) -> tuple[Tensor, Tensor]:
    """Fit slope and intercept (...) that make ``targets`` likeliest under ``sigmoid(slope * x + intercept)``.

    Newton's steps are halved until the loss falls as it should. The loss is convex, so they end at its least from
    anywhere; whole steps leap away from it where the two sides differ much in number or a few values lie far off.

    Args:
        x: (..., N) float64, of about unit size.
        targets: (N,) above 0 and below 1, so that there is a least loss.
        weights: (N,) above 0.
        steps: at most; ten are usual.
    """

    def loss(slope: Tensor, intercept: Tensor) -> Tensor:
        z = slope.unsqueeze(-1) * x + intercept.unsqueeze(-1)
        return (weights * (targets * F.softplus(-z) + (1 - targets) * F.softplus(z))).sum(-1)

    share = (weights * targets).sum() / weights.sum()
    slope = x.new_zeros(x.shape[:-1])
    intercept = torch.logit(share).expand_as(slope).clone()  # the best of slope 0
    now = loss(slope, intercept)
    for _ in range(steps):
        z = slope.unsqueeze(-1) * x + intercept.unsqueeze(-1)
        p, q = torch.sigmoid(z), torch.sigmoid(-z)
        error = weights * ((1 - targets) * p - targets * q)
        curve = weights * p * q
        total = curve.sum(-1).clamp_min(TINY)
        middle = (curve * x).sum(-1) / total
        away = x - middle.unsqueeze(-1)  # as if x were centered, so that no digits cancel
        down = (curve * away.square()).sum(-1)
        by_slope = (error * away).sum(-1)
        by_shift = error.sum(-1)
        move = torch.where(down > 0, -by_slope / down.clamp_min(TINY), torch.zeros_like(down))
        shift = -by_shift / total - move * middle
        gain = -(by_slope * move - by_shift.square() / total)  # twice what the step promises, 0 or more
        if not bool((gain > 1e-22).any()):
            break
        size = torch.ones_like(gain)
        for _ in range(60):
            new = loss(slope + size * move, intercept + size * shift)
            fits = new <= now - 1e-4 * size * gain + 1e-14 * now
            if bool(fits.all()):
                break
            size = torch.where(fits, size, size / 2)
        size = torch.where(fits, size, torch.zeros_like(size))
        slope = slope + size * move
        intercept = intercept + size * shift
        now = torch.where(fits, new, now)
    return slope, intercept
