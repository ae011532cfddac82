"""Logistic regression on one number, for many episodes at once."""

import torch
from torch import Tensor
from torch.nn import functional as F

TINY = torch.finfo(torch.float64).tiny


def damped_newton(x: Tensor, targets: Tensor, weights: Tensor, steps: int = 200) -> tuple[Tensor, Tensor]:
    """Slope and intercept (...) that make ``targets`` likeliest under ``sigmoid(slope * x + intercept)``.

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
        error, curve = weights * ((1 - targets) * p - targets * q), weights * p * q
        total = curve.sum(-1).clamp_min(TINY)
        middle = (curve * x).sum(-1) / total
        away = x - middle.unsqueeze(-1)  # as if x were centered, so that no digits cancel
        down = (curve * away.square()).sum(-1)
        by_slope, by_shift = (error * away).sum(-1), error.sum(-1)
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
        slope, intercept, now = slope + size * move, intercept + size * shift, torch.where(fits, new, now)
    return slope, intercept
