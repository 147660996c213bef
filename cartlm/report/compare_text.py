"""A comparison of two commits as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from cartlm.report import paired
from cartlm.report.commits import ParamChange
from cartlm.report.compare import ACCURACY, Change, Comparison, Verdict

SHOWN: tuple[Verdict, ...] = ("worse", "better")


def markdown(found: Comparison, everything: bool = False) -> str:
    """The whole report; `everything` lists the metrics without a change too."""
    parts = [f"# {found.old} → {found.new}: {headline(found)}", *bullets(found.notes)]
    parts += ["## Params", *param_table(found.params)]
    targets = list(dict.fromkeys([ACCURACY, *(change.target for change in found.changes)]))
    for target in targets:
        changes = [change for change in found.changes if change.target == target]
        title = "Accuracy" if target == ACCURACY else f"Hardware target {target}"
        parts += [f"## {title}", *section(changes, everything)]
    if found.against_f16:
        parts += [f"## Variants against f16, {found.new}", paired.table(found.against_f16)]
        parts += [paired.resolution(found.against_f16)]
    return "\n\n".join(parts) + "\n"


def headline(found: Comparison) -> str:
    """`no change`, or how many metrics became worse and better, and of which variants; what does not compare."""
    counted = []
    for verdict in SHOWN:
        if changes := found.having(verdict):
            names = ", ".join(dict.fromkeys(f"{change.target} {change.variant}" for change in changes))
            counted.append(f"{len(changes)} {verdict} ({names})")
    lost = len(found.having("not comparable"))
    if lost and lost + len(found.having("added")) + len(found.having("removed")) == len(found.changes):
        return "nothing is comparable"
    return "; ".join([*(counted or ["no change"]), *([f"{lost} not comparable"] if lost else [])])


def bullets(notes: Iterable[str]) -> list[str]:
    lines = [f"- {note[0].upper()}{note[1:]}" for note in notes]
    return ["\n".join(lines)] if lines else []


def param_table(params: Sequence[ParamChange]) -> list[str]:
    """What changed in params.yaml and the like."""
    if not params:
        return ["No change."]
    lines = ["| param | old | new |", "|---|---|---|"]
    for change in params:
        name = change.key if change.file == "params.yaml" else f"{change.file}: {change.key}"
        lines.append(f"| {name} | {_cell(change.old)} | {_cell(change.new)} |")
    return ["\n".join(lines)]


def _cell(value: Any) -> str:
    text = "" if value is None else str(value).replace("|", "\\|").replace("\n", "\\n")
    return text if len(text) <= 60 else f"{text[:57]}..."


def section(changes: Sequence[Change], everything: bool) -> list[str]:
    """One target: what changed as a table, then how many metrics did not, or do not compare."""
    shown = [change for change in changes if everything or change.verdict in SHOWN]
    lines = [
        "| variant | metric | old | new | change | verdict | why |",
        "|---|---|---:|---:|---:|---|---|",
    ]
    lines += [row(change) for change in shown]
    return [*(["\n".join(lines)] if shown else []), *rest(changes, shown)]


def rest(changes: Sequence[Change], shown: Sequence[Change]) -> list[str]:
    """A sentence on what the table does not show."""
    if not changes:
        return ["Nothing measured."]
    counts: dict[str, int] = {}
    for change in changes:
        if change not in shown:
            counts[change.verdict] = counts.get(change.verdict, 0) + 1
    if counts == {"no change": len(changes)}:
        return [f"No change ({len(changes)} judged)."]
    return (
        ["Not shown: " + ", ".join(f"{n} {verdict}" for verdict, n in counts.items()) + "."] if counts else []
    )


def row(change: Change) -> str:
    """One line of the table; the arrow tells where the value went, the verdict whether that is good."""
    cells = (
        change.variant,
        change.metric,
        value(change.old),
        value(change.new),
        amount(change),
        change.verdict,
        _reason(change),
    )
    return "| " + " | ".join(cells) + " |"


def _reason(change: Change) -> str:
    if change.paired is None:
        return change.why
    pairs = change.paired.pairs
    return f"{pairs.lost} rows lost, {pairs.won} won of {pairs.n:,}; {change.why}"


def value(number: float | None) -> str:
    """A value with its digits as in metrics/."""
    return "" if number is None else f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"


def amount(change: Change) -> str:
    """How much, with an arrow: percentage points of shares, else percent of the old value."""
    if change.change is None:
        return ""
    arrow = "↑ " if change.change > 0 else "↓ " if change.change < 0 else ""
    if change.paired is not None:
        return f"{arrow}{paired.points(change.paired)} points"
    if change.kind == ACCURACY:
        return f"{arrow}{paired.signed(change.change)} points"
    return f"{arrow}{paired.signed(change.change)} %"
