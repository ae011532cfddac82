"""Statistics against tables, definitions and simulations."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d2st.utils.statistics import (
    Spread,
    alike,
    auroc,
    contrast,
    over_seeds,
    pooled,
    share_interval,
    student_t,
    verdict,
)

few = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=12)


def test_intervals():
    quantiles = [student_t(0.975, n) for n in (1, 2, 9, 10, 30, 120)]
    assert np.round(quantiles, 3).tolist() == [12.706, 4.303, 2.262, 2.228, 2.042, 1.980]
    assert over_seeds([3.0]).interval is None
    assert over_seeds([1.0, 2.0, 3.0]).interval == pytest.approx(4.302653 / np.sqrt(3))
    assert pooled([[1.0], [2.0]]) is None
    spread = pooled([[1.0, 3.0], [10.0, 10.0, 10.0]])
    assert spread.freedom == 3 and spread.deviation == pytest.approx(np.sqrt(2 / 3))
    one, other = Spread(1.0, 9), Spread(2.0, 3)
    difference = contrast([(1, [5.0, 7.0], one), (-1, [1.0, 1.0], one)])
    assert difference.mean == 5 and difference.interval == pytest.approx(2.262157 * np.sqrt(1 / 2 + 1 / 2))
    # Welch and Satterthwaite: 2.5² / (0.5² / 9 + 2² / 3) = 4.6 degrees of freedom, taken as 4
    difference = contrast([(1, [5.0, 7.0], one), (-1, [1.0, 1.0], other)])
    assert difference.interval == pytest.approx(2.776445 * np.sqrt(1 / 2 + 4 / 2))
    assert [verdict(contrast([(1, [x], one), (-1, [0.0], one)])) for x in (4, 3, -4)] == [
        "holds",
        "cannot be told apart",
        "reversed",
    ]


def test_spreads_are_one_by_name_and_not_by_equal_values():
    """Two cells with spreads of their own that happen to be equal: Welch's 4 degrees of freedom, and not 2."""
    one, other = [1.0, 2.0, 3.0], [11.0, 12.0, 13.0]
    apart = contrast([(1, one, pooled([one])), (-1, other, pooled([other]))])
    assert apart.interval == pytest.approx(2.776 * np.sqrt(2 / 3), abs=1e-3)
    named = [pooled([values], name) for values, name in ((one, "a"), (other, "b"))]
    assert contrast([(1, one, named[0]), (-1, other, named[1])]).interval == apart.interval
    same = pooled([one, other], "a")
    together = contrast([(1, one, same), (-1, other, Spread(same.deviation, same.freedom, "a"))])
    assert together.interval == pytest.approx(2.776 * np.sqrt(2 / 3), abs=1e-3)


@pytest.mark.parametrize("values", [[90.0] * 3, [0.1 + 0.2, 0.3, 0.3]])
def test_no_scatter_is_not_certainty(values):
    other = [value - 0.1 for value in values]
    difference = contrast([(1, values, pooled([values])), (-1, other, pooled([other]))])
    assert difference.mean == pytest.approx(0.1) and difference.interval is None
    assert verdict(difference) == "cannot be told apart"
    assert over_seeds(values).interval is None


def test_alike_is_bartletts_test():
    rng = np.random.default_rng(0)
    assert alike([[1.0, 3.0]]) == alike([[2.0], [1.0, 3.0]]) == alike([[5.0, 5.0], [7.0, 7.0]]) == 1.0
    assert alike([[1.0, 3.0], [5.0, 5.0]]) == 0.0
    # two groups of variances 1 and 4 with 2 degrees of freedom: (4 ln 2.5 - 2 ln 4) / 1.25 = 0.714; chi² with 1
    assert alike([[1.0, 2.0, 3.0], [10.0, 12.0, 14.0]]) == pytest.approx(0.3981, abs=1e-4)
    small = [alike(rng.normal(7, 2.0, (6, 3))) < 0.05 for _ in range(600)]
    assert 14 <= sum(small) <= 46  # 30 expected
    assert np.mean([alike(rng.normal(0, [[1], [1], [20]], (3, 3))) < 0.05 for _ in range(100)]) > 0.8


def test_differences_of_equals_are_told_apart_in_one_case_of_twenty():
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(400):
        groups = rng.normal(0, 1.3, (10, 3))
        spread = pooled(groups)
        wrong += verdict(contrast([(1, groups[0], spread), (-1, groups[1], spread)])) != "cannot be told apart"
    assert 8 <= wrong <= 34  # 20 expected


@pytest.mark.parametrize(
    ("share", "dof", "value"),
    [
        (0.95, 1, 6.3138),
        (0.95, 2, 2.9200),
        (0.95, 9, 1.8331),
        (0.975, 10, 2.2281),
        (0.99, 30, 2.4573),
        (0.05, 4, -2.1318),
    ],
)
def test_student_t_is_the_table_s(share: float, dof: int, value: float) -> None:
    assert student_t(share, dof) == pytest.approx(value, abs=1e-4)


@settings(max_examples=60, deadline=None)
@given(known=few, unknown=few)
def test_auroc_is_the_rank_definition(known: list[float], unknown: list[float]) -> None:
    both = sorted(known + unknown)
    ranks = [np.mean([i + 1 for i, value in enumerate(both) if value == k]) for k in known]  # ties share theirs
    area = (sum(ranks) - len(known) * (len(known) + 1) / 2) / (len(known) * len(unknown))
    found = auroc(torch.tensor(known), torch.tensor(unknown)).item()
    assert found == pytest.approx(area)
    assert auroc(torch.tensor(unknown), torch.tensor(known)).item() == pytest.approx(1 - area)


@settings(max_examples=30, deadline=None)
@given(sizes=st.tuples(st.integers(1, 40), st.integers(1, 40)), values=st.integers(1, 30), seed=st.integers(0, 999))
def test_auroc_is_the_share_of_pairs_in_every_episode(sizes: tuple[int, int], values: int, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    known, unknown = (torch.randint(values, (2, 3, size), generator=rng).double() for size in sizes)
    known[0, 0, 0], unknown[1, 2, 0] = torch.inf, -torch.inf
    one, other = known.unsqueeze(-1), unknown.unsqueeze(-2)
    pairs = ((one > other).double() + (one == other).double() / 2).mean((-2, -1))
    torch.testing.assert_close(auroc(known, unknown), pairs, rtol=0, atol=1e-12)


def test_auroc_of_many_queries_takes_memory_of_their_number() -> None:
    rng = torch.Generator().manual_seed(0)
    known, unknown = torch.randn(200_000, generator=rng) + 1, torch.randn(300_000, generator=rng)  # as pairs 480 GB
    assert auroc(known, unknown).item() == pytest.approx(0.760, abs=2e-3)  # the normal curve at 1 / sqrt(2)


def test_intervals_stay_honest_at_the_ends():
    assert share_interval(0, 0) is None
    assert share_interval(20, 20) == pytest.approx(0.1611, abs=1e-3)  # Wilson: 83.9 to 100 %
    assert share_interval(5000, 10_000) == pytest.approx(1.96 * 0.5 / 100, rel=1e-3)
