"""The Wilson interval against figures from the literature."""

from __future__ import annotations

import pytest

from cartlm.statistics import wilson


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
