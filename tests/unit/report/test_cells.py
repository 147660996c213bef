"""Numbers for people."""

from __future__ import annotations

import pytest

from cartlm.report import cells


@pytest.mark.parametrize(
    ("value", "shown"),
    [(65.0, "65.0"), (4.287, "4.29"), (99.96, "100"), (1684.0, "1,684"), (0.0471, "0.0471"), (None, "")],
)
def test_a_number_without_interval_has_three_digits(value: float | None, shown: str) -> None:
    assert cells.number(value) == shown


@pytest.mark.parametrize(
    ("value", "low", "high", "shown"),
    [
        (0.921, 0.9026, 0.9362, "0.921 [0.903, 0.936]"),
        (0.6264, 0.5756, 0.6744, "0.63 [0.58, 0.67]"),
        (0.0, 0.0, 0.0038, "0.000 [0.000, 0.004]"),
        (1254.0, 1049.0, 1367.0, "1,250 [1,050, 1,370]"),
        (9887.0, 9621.0, 12420.0, "9,900 [9,600, 12,400]"),
        (43.34, 39.9, 49.51, "43 [40, 50]"),
        (63.29, 63.24, 63.39, "63.3 [63.2, 63.4]"),
        (472.1, 472.0, 472.2, "472"),
        (5.0, None, None, "5.00"),
        (5.0, 5.0, 5.0, "5.00"),
        (None, 1.0, 2.0, ""),
    ],
)
def test_no_more_digits_than_the_interval_supports(
    value: float | None, low: float | None, high: float | None, shown: str
) -> None:
    assert cells.with_interval(value, low, high) == shown


def test_tables() -> None:
    rows = [
        {"variant": "x", "load_s": 1.0, "load_s_low": 0.5, "load_s_high": 1.5},
        {"variant": "long", "load_s": None},
    ]
    keys = ("variant", "load_s")
    assert cells.markdown(keys, rows).splitlines() == [
        "| variant | load s [95 %] |", "|---|---:|", "| x | 1.0 [0.5, 1.5] |", "| long |  |",
    ]  # fmt: skip
    assert cells.aligned(keys, rows).splitlines() == [
        "variant   load s [95 %]",
        "x        1.0 [0.5, 1.5]",
        "long",
    ]


def test_a_heading_promises_no_interval_where_none_is_shown() -> None:
    rows = [{"variant": "x", "load_s": 1.0, "load_s_low": 1.0, "load_s_high": 1.0}]
    assert cells.markdown(("variant", "load_s"), rows).startswith("| variant | load s |")
