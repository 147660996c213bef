"""Numbers and tables for people: no more digits than the interval supports, an empty cell for what was not measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Row = Mapping[str, Any]
HEADINGS = {
    "size_mib": "MiB",
    "croatian": "Croatian",
    "english": "English",
    "spanish": "Spanish",
    "natural_constrained": "natural, constrained",
    "natural_ensemble": "natural, ensemble",
    "truncated": "never ended",
    "false_none": "orders lost",
    "false_none_natural": "orders lost, natural",
    "over": "decode over FP16",
    "batch_decode_tokens_per_s": "decode tokens/s, largest batch",
    "latency_ms_p50": "p50 ms",
    "latency_ms_p95": "p95 ms",
    "load_peak_rss_mib": "load peak RSS MiB",
    "run_peak_rss_mib": "run peak RSS MiB",
    "peak_rss_mib": "peak RSS MiB",
    "vram_run_allocated_mib": "VRAM allocated MiB",
    "vram_run_used_mib": "used MiB",
    "energy_j_per_token": "J/token",
}
"""Key of a row -> its heading, where that has other words."""


class Interval(NamedTuple):
    """A value with its low and its high limit."""

    value: float
    low: float
    high: float

    def over(self, other: Interval) -> Interval:
        """The quotient of two medians, as far apart as their intervals allow."""
        return Interval(self.value / other.value, self.low / other.high, self.high / other.low)

    def row(self, key: str) -> dict[str, float]:
        """Keys of a row: the value, and its limits where it has some."""
        limits = {f"{key}_low": self.low, f"{key}_high": self.high} if self.low < self.high else {}
        return {key: self.value, **limits}


def number(value: float | None) -> str:
    """Three significant digits."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 99.95 else f"{value:#.3g}"


def with_interval(value: float | None, low: float | None, high: float | None, unit: str = "") -> str:
    """A value with its 95 % interval, rounded as the Particle Data Group rounds: to two digits of the interval's half
    width where these are below 35, else to one; and to three digits of the value at most.
    """
    if value is None or low is None or high is None or high <= low:
        return number(value) + unit
    half = (high - low) / 2
    places = -math.floor(math.log10(half))
    places += half * 10**places < 3.55
    places = min(places, 3 if abs(value) < 1 else max(0, 2 - math.floor(math.log10(abs(value)))))
    shown, first, last = (f"{round(each, places) + 0.0:,.{max(places, 0)}f}" for each in (value, low, high))
    return shown + unit if first == last else f"{shown}{unit} [{first}, {last}]"


def measured(row: Row, key: str) -> str:
    """The value of `key` with the limits `key_low` and `key_high`, where the row has them."""
    value = row.get(key)
    if isinstance(value, str):
        return value
    return with_interval(value, row.get(f"{key}_low"), row.get(f"{key}_high"))


def table(keys: Sequence[str], rows: Sequence[Row]) -> list[list[str]]:
    """The cells, headings first; the heading says which column has intervals."""

    def heading(key: str) -> str:
        intervals = any(f"{key}_low" in row and measured(row, key).endswith("]") for row in rows)
        # a key with spaces is a heading already, and may name a variant
        words = HEADINGS.get(key) or (key if " " in key else key.replace("_per_", "/").replace("_", " "))
        return f"{words} [95 %]" if intervals else words

    return [[heading(key) for key in keys], *([measured(row, key) for key in keys] for row in rows)]


def markdown(keys: Sequence[str], rows: Sequence[Row]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = [f"| {' | '.join(line)} |" for line in table(keys, rows)]
    return "\n".join([lines[0], "|---|" + "---:|" * (len(keys) - 1), *lines[1:]])


def aligned(keys: Sequence[str], rows: Sequence[Row]) -> str:
    """The same for a terminal, numbers to the right."""
    lines = table(keys, rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in lines)
    return "\n".join("  ".join(line).rstrip() for line in padded)
