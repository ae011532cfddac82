"""Schedules against the released code's own rates, and their limits."""

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2st.errors import D2STError
from d2st.training import optim

# (recipe, nominal episodes, rate at the start, rate after the warm-up, decay_at, decay)
RECIPES = [
    ("ssv2_small_ViT", 40_000, 2e-4, 1e-3, (0.4, 0.6, 0.8), (0.1, 0.05, 0.01)),
    ("kinetics100_ViT", 3_000, 1e-4, 5e-4, (0.4, 0.6, 0.8), (0.1, 0.05, 0.01)),
    ("hmdb51_ViT", 3_000, 2e-4, 1e-3, (0.5, 0.7, 0.9), (0.5, 0.1, 0.05)),
    ("ucf101_ViT", 2_400, 1e-4, 5e-4, (0.5, 0.7, 0.9), (0.1, 0.05, 0.01)),
]


@pytest.mark.parametrize(("recipe", "episodes", "warmup_lr", "lr", "decay_at", "decay"), RECIPES)
def test_step_is_the_released_schedule(recipe, episodes, warmup_lr, lr, decay_at, decay) -> None:
    rate = optim.step_schedule(lr, episodes, 0.1, warmup_lr, decay_at, decay)
    with (Path(__file__).parent / "golden" / f"lr_{recipe}.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 60
    for row in rows:
        assert rate(int(row["nominal_episode_2gpu"])) == pytest.approx(float(row["lr"]), rel=1e-12, abs=0), row


@given(lr=st.floats(1e-6, 1), episodes=st.integers(1, 10**6), warmup=st.floats(0, 0.9), last=st.floats(0, 1))
def test_cosine_starts_peaks_and_ends_where_it_says(lr, episodes, warmup, last) -> None:
    rate = optim.cosine_schedule(lr, episodes, warmup, warmup_lr=lr / 10, last_lr=lr * last)
    assert rate(0) == pytest.approx(lr / 10 if warmup else lr)
    assert rate(episodes) == pytest.approx(lr * last)
    rates = [rate(episodes * i // 50) for i in range(51)]
    peak = rates.index(max(rates))
    assert rates[:peak] == sorted(rates[:peak]) and max(rates) <= lr * (1 + 1e-12)
    assert all(a >= b - 1e-12 * lr for a, b in zip(rates[peak:], rates[peak + 1 :], strict=False))


def test_wrong_settings_are_refused_with_a_sentence() -> None:
    with pytest.raises(D2STError, match="rising fractions"):
        optim.step_schedule(1e-3, 100, decay_at=(0.5, 0.4), decay=(0.1, 0.1))
    with pytest.raises(D2STError, match="one factor each"):
        optim.step_schedule(1e-3, 100, decay_at=(0.5,), decay=(0.1, 0.1))
    for schedule in (optim.step_schedule, optim.cosine_schedule):
        with pytest.raises(D2STError, match="at least one episode"):
            schedule(1e-3, 0)
        with pytest.raises(D2STError, match="warm-up fraction"):
            schedule(1e-3, 10, warmup=1.0)
