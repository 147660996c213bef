"""Variants against F16 on the same rows: pairing by id, direction, Holm over the variants, the table."""

from __future__ import annotations

import pytest

from cartlm.evaluation import paired
from cartlm.evaluation.statistics import Pairs, mcnemar
from cartlm.metrics import Outcome


def outcomes(right: str, start: int = 0) -> list[Outcome]:
    """One row a character: 1 is exact."""
    return [
        Outcome(f"test-{start + i:05}", "exact" if each == "1" else "wrong", "a" * 12)
        for i, each in enumerate(right)
    ]


def test_rows_are_paired_by_id_not_by_place() -> None:
    first, second = outcomes("1101"), outcomes("1010")
    assert paired.pair_outcomes(first, second) == Pairs(both=1, lost=2, won=1, neither=0)
    assert paired.pair_outcomes(first, second[::-1]) == paired.pair_outcomes(first, second)


@pytest.mark.parametrize("other", [outcomes("1", 1), outcomes("11"), [], [*outcomes("1"), *outcomes("1")]])
def test_other_or_repeated_rows_are_not_paired(other: list[Outcome]) -> None:
    with pytest.raises(ValueError, match="row"):
        paired.pair_outcomes(outcomes("1"), other)
    with pytest.raises(ValueError, match="row"):
        paired.pair_outcomes(other, outcomes("1"))


def test_only_exact_is_right() -> None:
    second = [Outcome("test-00000", name, "") for name in ("parsed_equal",)]
    assert paired.pair_outcomes(outcomes("1"), second) == Pairs(0, 1, 0, 0)


def test_quantized_variants_are_compared_with_f16_and_holm_counts_them() -> None:
    found = paired.against_f16(
        {
            "base": outcomes("0" * 100),
            "merged": outcomes("1" * 100),
            "f16": outcomes("1" * 100),
            "q8_0": outcomes("1" * 99 + "0"),
            "q2_k": outcomes("1" * 93 + "0" * 7),
            "other_rows": outcomes("1" * 100, start=50),
        }
    )
    assert [each.variant for each in found] == ["q8_0", "q2_k"]
    q2 = found[1]
    assert q2.pairs == Pairs(93, 7, 0, 0)
    assert q2.pairs.difference == pytest.approx(-0.07)
    assert q2.low < -0.07 < q2.high < 0
    assert q2.p == pytest.approx(mcnemar(q2.pairs))
    assert q2.p_adjusted == pytest.approx(2 * q2.p)


def test_without_f16_nothing_is_compared() -> None:
    assert paired.against_f16({"q8_0": outcomes("10")}) == []


def test_the_table_has_points_with_interval_counts_and_p() -> None:
    found = paired.against_f16({"f16": outcomes("1" * 1000), "q2_k": outcomes("1" * 930 + "0" * 70)})
    line = paired.difference_table(found).splitlines()[-1]
    assert line.startswith("| q2_k | −7.0 [−8.")
    assert line.endswith("| 70 | 0 | <0.0001 |")


@pytest.mark.parametrize(
    ("share", "said"), [(0.0, "0.0"), (-0.0001, "0.0"), (0.012, "+1.2"), (-0.012, "−1.2")]
)
def test_signed_points(share: float, said: str) -> None:
    assert paired.signed_points(share) == said


@pytest.mark.parametrize(
    ("p", "said"), [(1e-9, "<0.0001"), (0.0031, "0.0031"), (0.0494, "0.049"), (0.5, "0.50")]
)
def test_p_values_show_on_which_side_of_the_level_they_are(p: float, said: str) -> None:
    assert paired.format_p(p) == said
