"""Measure how well known and unknown clips are separated, on episodes with queries of classes that are not in them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..classifiers.open_set import Calibration, class_offsets, fit_held_out, fit_score, hold_out
from ..data.episodes import EpisodeSampler
from ..heads import Head
from ..utils.finite import check_logits
from ..utils.statistics import auroc, calibration_error, estimate
from .episodes import batches


@dataclass(frozen=True, eq=False)
class OpenScores:
    """Hold scores and logits of the queries of E episodes: Q of their classes, U of others.

    Attributes:
        known: (E, Q) scores (``open_set.fit_score``) of the queries of known classes.
        unknown: (E, U) of the others.
        known_logits: (E, Q, way).
        unknown_logits: (E, U, way).
        labels: (Q,) 0..way-1.
        support: fitted to each episode's own support set, (E); None for one shot.
    """

    known: Tensor
    unknown: Tensor
    known_logits: Tensor
    unknown_logits: Tensor
    labels: Tensor
    support: Calibration | None

    @property
    def right(self) -> Tensor:
        """Tell whether the likeliest class is the true one, (E, Q)."""
        return self.known_logits.argmax(-1) == self.labels


def unseen_classes(way: int, classes: int) -> int:
    """Count the classes beside an episode's own that have queries in it: as many as its own, or as there are."""
    return max(1, min(way, classes - way))


@torch.no_grad()
def score_open(
    clips: Tensor,
    sampler: EpisodeSampler,
    head: Head,
    episodes: int,
    device: torch.device | str = "cpu",
    text: Tensor | None = None,
    reject_rate: float = 0.05,
) -> OpenScores:
    """Run episodes ``0..episodes-1`` of a sampler that draws unseen classes.

    Args:
        clips, sampler, head, episodes, device, text: as for ``episodes.score``.
        reject_rate: for the thresholds that are fitted to the support sets.
    """
    scores, logits, fitted = [], [], []
    for part, _, (support, labels, query, way, names) in batches(clips, sampler, head, episodes, device, text):
        own = head.match(support, labels, query, way, names).float().cpu()  # (E, Q + U, way)
        check_logits(own, "episode", first=part.start)
        offsets = own.new_zeros(len(own), way)
        if sampler.shot > 1:
            held = hold_out(head, support, labels, way, names).cpu()
            offsets = class_offsets(held)
            found = fit_held_out(held, reject_rate)
            fitted.append([found.threshold, found.slope, found.intercept, found.temperature])
        scores.append(fit_score(own, offsets))
        logits.append(own)
    count = len(sampler.query_labels)
    known, unknown = torch.cat(scores).double().tensor_split([count], 1)  # (E, Q), (E, U)
    known_logits, unknown_logits = torch.cat(logits).double().tensor_split([count], 1)
    support = Calibration(*map(torch.cat, zip(*fitted, strict=True))) if fitted else None
    return OpenScores(known, unknown, known_logits, unknown_logits, torch.from_numpy(sampler.query_labels), support)


def summarize_open(scores: OpenScores, reject_rate: float, saved: Calibration | None = None) -> dict:
    """Summarize scores as JSON can hold it.

    Args:
        scores: of the episodes.
        reject_rate: share of the queries of known classes that may be taken for unknown.
        saved: a calibration that was fitted elsewhere.

    Returns:
        AUROC by episode, and for each threshold what becomes of the queries, see :func:`rates`: ``fixed`` takes it
        from these very queries, so that exactly that share is rejected, ``support`` fits one to each support set (two
        shots or more), ``calibration`` takes the saved one.
    """
    areas = auroc(scores.known, scores.unknown)  # (E,)
    fixed = torch.quantile(scores.known.flatten(), reject_rate)
    result = {
        "queries": scores.known.shape[1],
        "unseen_queries": scores.unknown.shape[1],
        "auroc": estimate(areas),
        "reject_rate": reject_rate,
        "fixed": rates(scores, fixed.expand(len(areas))),
    }
    for name, found in {"support": scores.support, "calibration": saved}.items():
        if found is not None:
            threshold = found.threshold.expand(len(areas))
            result[name] = rates(scores, threshold) | reliability(scores, found)
    return result


def rates(scores: OpenScores, threshold: Tensor) -> dict:
    """Count what becomes of the queries with thresholds (E,): shares of 0..1 with their intervals over the episodes.

    ``kept``: of the known classes' queries, those not answered "unknown"; ``right``: those that got their own class;
    ``rejected``: of the others, those answered "unknown"; ``accuracy``: the mean of ``right`` and ``rejected``.
    ``kept_low`` is what is kept in a bad episode: nine of ten keep at least as much.
    """
    kept = scores.known >= threshold.unsqueeze(-1)
    right = (kept & scores.right).double().mean(1)
    rejected = (scores.unknown < threshold.unsqueeze(-1)).double().mean(1)
    kept = kept.double().mean(1)
    shares = {"kept": kept, "right": right, "rejected": rejected, "accuracy": (right + rejected) / 2}
    return {name: estimate(share) for name, share in shares.items()} | {"kept_low": kept.quantile(0.1).item()}


def reliability(scores: OpenScores, found: Calibration) -> dict:
    """Compare the confidence with how often the label is right, see :func:`~d2st.utils.statistics.calibration_error`.

    Known and unknown queries count the same together, and a label is never right for the unknown ones.
    """
    known = found.confidence(scores.known, scores.known_logits).flatten()
    unknown = found.confidence(scores.unknown, scores.unknown_logits).flatten()
    right = torch.cat([scores.right.double().flatten(), torch.zeros_like(unknown)])
    weight = torch.cat([torch.full_like(part, 0.5 / len(part)) for part in (known, unknown)])
    return calibration_error(torch.cat([known, unknown]), right, weight)
