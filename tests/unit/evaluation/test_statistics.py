"""Intervals and paired tests against figures from the literature and definitions."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cartlm.evaluation.statistics import (
    Pairs,
    holm,
    mcnemar,
    newcombe,
    wilson,
)


def test_the_interval_that_paper_md_cites() -> None:
    low, high = wilson(297, 300)
    assert (round(low, 3), round(high, 3)) == (0.971, 0.997)


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (10, 10), (5, 10), (1, 1)])
def test_it_holds_the_share_and_stays_inside_0_and_1(successes: int, n: int) -> None:
    low, high = wilson(successes, n)
    assert 0 <= low <= successes / n <= high <= 1
    assert high > low


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (2, 1), (-1, 3)])
def test_impossible_counts_are_refused(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match=r"must be|k"):
        wilson(successes, n)


# Fagerland, Lydersen, Laake: Statistical Analysis of Contingency Tables (2017), chapter 8: complete response before
# and after consolidation therapy (Cavo et al. 2012); limits and p-value as its R package contingencytables prints.
CAVO = Pairs(both=59, lost=6, won=16, neither=80)


def test_newcombe_is_the_published_example() -> None:
    low, high = newcombe(CAVO)
    assert (round(low, 4), round(high, 4)) == (0.0046, 0.1186)
    assert CAVO.difference == pytest.approx(10 / 161)


def test_mcnemar_is_the_published_example() -> None:
    assert mcnemar(CAVO) == pytest.approx(0.052479, abs=1e-6)


def test_swapping_the_two_turns_difference_and_interval_over() -> None:
    swapped = Pairs(CAVO.both, CAVO.won, CAVO.lost, CAVO.neither)
    low, high = newcombe(CAVO)
    assert newcombe(swapped) == pytest.approx((-high, -low))
    assert swapped.difference == -CAVO.difference
    assert mcnemar(swapped) == mcnemar(CAVO)


def test_newcombe_without_the_correction_of_phi_would_be_narrower() -> None:
    """Method 8 of the paper; 10 lessens a positive correlation."""
    low, high = newcombe(CAVO)
    first, second = wilson(65, 161), wilson(75, 161)
    phi = (59 * 80 - 6 * 16) / (65 * 96 * 75 * 86) ** 0.5
    below = (75 / 161 - second[0], first[1] - 65 / 161)
    width = (below[0] ** 2 - 2 * phi * below[0] * below[1] + below[1] ** 2) ** 0.5
    assert CAVO.difference - low > width
    assert high - low < 2 * sum(below)


@given(*[st.integers(0, 40)] * 4)
def test_newcombe_holds_the_difference_and_stays_inside(both: int, lost: int, won: int, neither: int) -> None:
    pairs = Pairs(both, lost, won, neither)
    assume(pairs.n > 0)
    low, high = newcombe(pairs)
    assert -1 <= low <= pairs.difference + 1e-12
    assert pairs.difference - 1e-12 <= high <= 1


def test_newcombe_needs_rows() -> None:
    with pytest.raises((ValueError, ZeroDivisionError)):
        newcombe(Pairs(0, 0, 0, 0))


@pytest.mark.parametrize(
    ("lost", "won", "p"), [(0, 0, 1.0), (5, 5, 1.0), (30, 0, 2 * 0.5**30), (0, 1, 1.0), (1, 9, 22 / 1024)]
)
def test_mcnemar_is_the_sign_test_of_the_discordant_rows(lost: int, won: int, p: float) -> None:
    assert mcnemar(Pairs(900, lost, won, 70)) == pytest.approx(p)
    assert mcnemar(Pairs(3, lost, won, 0)) == pytest.approx(p)


def test_the_difference_is_of_all_rows() -> None:
    pairs = Pairs(both=4, lost=3, won=2, neither=1)
    assert (pairs.n, pairs.difference) == (10, -0.1)


def test_holm_is_the_step_down_of_its_definition() -> None:
    """Holm 1979: the smallest p times m, the next times m - 1, ..., never falling, at most 1."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
