"""Numbers and tables for people: no more digits than the interval supports, an empty cell for what was not measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def number(value: float | None) -> str:
    """Three significant digits."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 99.95 else f"{value:#.3g}"


def with_interval(value: float | None, low: float | None, high: float | None) -> str:
    """A value with its 95 % interval, rounded as the Particle Data Group rounds: to two digits of the interval's half
    width where these are below 35, else to one; and to three digits of the value at most.
    """
    if value is None or low is None or high is None or high <= low:
        return number(value)
    half = (high - low) / 2
    places = -math.floor(math.log10(half))
    places += half * 10**places < 3.55
    places = min(places, 3 if abs(value) < 1 else max(0, 2 - math.floor(math.log10(abs(value)))))
    shown, first, last = (f"{round(each, places) + 0.0:,.{max(places, 0)}f}" for each in (value, low, high))
    return shown if first == last else f"{shown} [{first}, {last}]"


def measured(row: Row, key: str) -> str:
    """The value of `key` with the limits `key_low` and `key_high`, where the row has them."""
    value = row.get(key)
    return (
        value
        if isinstance(value, str)
        else with_interval(value, row.get(f"{key}_low"), row.get(f"{key}_high"))
    )


def markdown(headings: Mapping[str, str], rows: Sequence[Row]) -> str:
    """A Markdown table: key of a row -> heading; the first column is text, the others are numbers."""
    lines = ["| " + " | ".join(headings.values()) + " |", "|---|" + "---:|" * (len(headings) - 1)]
    lines += ["| " + " | ".join(measured(row, key) for key in headings) + " |" for row in rows]
    return "\n".join(lines)


def aligned(headings: Mapping[str, str], rows: Sequence[Row]) -> str:
    """The same for a terminal, numbers to the right."""
    cells = [list(headings.values()), *([measured(row, key) for key in headings] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))]
        )
        for line in cells
    ]
    return "\n".join(line.rstrip() for line in lines)
