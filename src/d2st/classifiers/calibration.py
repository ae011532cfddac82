"""From scores to answers: below which score a clip is unknown, and how likely its label is right.

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

from ..errors import D2STError
from ..utils.statistics import student_t
from .leave_one_out import HeldOut, own_scores
from .logistic import TINY, damped_newton

TEMPERATURES = torch.logspace(-2, 2, 81, dtype=torch.float64)  # in units of the logits' spread between classes


@dataclass(frozen=True, eq=False)
class Calibration:
    """What turns scores (``leave_one_out.fit_score``) into answers. Leading dimensions are episodes.

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
        """Which of the clips (..., Q) are answered "unknown"."""
        return scores < self.threshold.unsqueeze(-1)

    def confidence(self, scores: Tensor, logits: Tensor) -> Tensor:
        """How likely the likeliest class of each clip is right, (..., Q) in 0..1, from scores and logits (..., Q, way).

        As if every second clip showed none of the classes.
        """
        known = torch.sigmoid(self.slope.unsqueeze(-1) * scores + self.intercept.unsqueeze(-1))
        return known * (logits / self.temperature[..., None, None]).softmax(-1).amax(-1)


def check_rate(rate: float) -> None:
    """Refuse a reject rate that is no share."""
    if isinstance(rate, bool) or not isinstance(rate, Real) or not 0 < rate < 1:
        raise D2STError(f"The reject rate is a share above 0 and below 1, such as 0.05, not {rate!r}.")


def fit_calibration(known: Tensor, unknown: Tensor, logits: Tensor, labels: Tensor, reject_rate: float) -> Calibration:
    """Fit to clips of which it is known what they show.

    Args:
        known: (..., N) scores of clips of the classes.
        unknown: (..., M) scores of clips of other classes.
        logits: (..., N, way) of the first.
        labels: (N,) or (..., N) their classes.
        reject_rate: share of such clips that may be taken for unknown, above 0 and below 1.
    """
    slope, intercept = _logistic(known.double(), unknown.double())
    return Calibration(
        lower_bound(known.double(), reject_rate), slope, intercept, _temperature(logits.double(), labels)
    )


def fit_support(held: HeldOut, reject_rate: float) -> Calibration:
    """Fit to the clips of a support set that were held out of it."""
    known, unknown = own_scores(held)
    return fit_calibration(known, unknown, held.known, held.labels, reject_rate)


def lower_bound(values: Tensor, rate: float) -> Tensor:
    """The bound below which another value like these falls with a probability of at most ``rate``.

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
    """Slope and intercept (...) of the logistic regression on scores (..., N) and (..., M)."""
    n, m = known.shape[-1], unknown.shape[-1]
    if not n or not m:  # nothing is known of one side: even odds
        return known.new_zeros(known.shape[:-1]), known.new_zeros(known.shape[:-1])
    scores = torch.cat([known, unknown], -1)
    size = scores.abs().amax(-1, keepdim=True)
    center, spread = scores.mean(-1, keepdim=True), size * (scores / size.clamp_min(TINY)).std(-1, keepdim=True)
    alike = spread <= 1e-12 * size  # but for roundings
    spread = torch.where(alike, torch.ones_like(spread), spread)
    x = torch.where(alike, torch.zeros_like(scores), (scores - center) / spread)  # (..., N + M)
    ones = scores.new_ones
    targets = torch.cat([ones(n) * (n + 1) / (n + 2), ones(m) / (m + 2)])
    weights = torch.cat([ones(n) / n, ones(m) / m])
    slope, intercept = damped_newton(x, targets, weights)
    positive = slope > 0  # otherwise the scores say nothing: even odds
    slope, intercept = (torch.where(positive, value, 0.0) for value in (slope, intercept))
    return slope / spread.squeeze(-1), intercept - slope * (center / spread).squeeze(-1)


def _temperature(logits: Tensor, labels: Tensor) -> Tensor:
    """The temperature (...) under which logits (..., N, way) make their labels likeliest."""
    if logits.shape[-1] == 1 or not logits.shape[-2]:
        return logits.new_ones(logits.shape[:-2])
    unit = logits.std(-1).mean(-1).clamp_min(1e-9)  # (...)
    truth = labels.long().expand(logits.shape[:-1]).unsqueeze(-1)
    losses = [
        -(logits / (unit * t)[..., None, None]).log_softmax(-1).gather(-1, truth).mean((-2, -1)) for t in TEMPERATURES
    ]
    return unit * TEMPERATURES[torch.stack(losses).argmin(0)]
