"""Schedules against the released code's own rates, and their limits."""

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import d2st
from d2st.errors import D2STError
from d2st.training import optim
from d2st.training.options import OptimizerOptions

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


class Pair(nn.Module):
    """An adapter with a part of its own, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.adapter = nn.ModuleDict({"points": nn.Linear(2, 2), "norm": nn.LayerNorm(2)})
        self.head = nn.Linear(2, 1)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def shares(**options) -> dict[str, float]:
    """Share of the learning rate of every parameter that trains, by name."""
    model = Pair()
    adapter_shares = options.pop("adapter_shares", {})
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = optim.parameter_groups(model, OptimizerOptions(**options), adapter_shares)
    return {names[parameter]: group["lr_share"] for group in groups for parameter in group["params"]}


def test_shares_of_the_learning_rate_go_by_name_and_multiply() -> None:
    found = shares(lr_shares=(".points.=0.1", "bias=0.5", "head.=2"), head_lr=0.5, adapter_shares={"adapter.": 0.25})
    assert found == {
        "adapter.points.weight": 0.1 * 0.25,
        "adapter.points.bias": pytest.approx(0.1 * 0.25 * 0.5),
        "adapter.norm.weight": 0.25,
        "adapter.norm.bias": 0.125,
        "head.weight": 1.0,
        "head.bias": 0.5,
    }
    assert set(shares().values()) == {1.0}


def test_parameters_of_one_decay_and_share_are_one_group_in_the_order_of_the_model() -> None:
    model = Pair()
    weights, spared = optim.parameter_groups(model, OptimizerOptions())
    assert [weights["weight_decay"], spared["weight_decay"]] == [2.5e-4, 0.0]
    assert [id(one) for one in spared["params"]] == [id(one) for one in model.adapter["norm"].parameters()]
    groups = optim.parameter_groups(model, OptimizerOptions(weight_decay=0.0, lr_shares=("points=0.5", "head=0.5")))
    assert [(group["lr_share"], len(group["params"])) for group in groups] == [(0.5, 4), (1.0, 2)]


@pytest.mark.parametrize("entry", ["points", "points=", "=0.1", "points=fast", "points=-0.1", "points=nan", "up=inf"])
def test_a_share_that_is_none_is_refused_with_a_sentence(entry: str) -> None:
    with pytest.raises(D2STError, match=r"lr_shares: .* must be a word of the parameters' names, an equals sign, and"):
        OptimizerOptions(lr_shares=(entry,))


def test_a_word_in_no_name_is_refused_with_names_that_there_are() -> None:
    with pytest.raises(D2STError, match=r"no parameter that trains has 'point_s' in its name.*adapter\.points\.weight"):
        shares(lr_shares=("point_s=0.1",))
    with pytest.raises(D2STError, match="has 'frozen' in its name"):
        shares(lr_shares=("frozen=0.1",))


def test_adapters_say_their_own_shares() -> None:
    assert d2st.D2STConfig().lr_shares == d2st.STConfig().lr_shares == {}
    assert d2st.D2STConfig(offset_lr=0.1).lr_shares == {".points.": 0.1}
