"""A comparison of two commits as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cartlm.compare.judge import Change, Comparison, Verdict
from cartlm.compare.load import ParamChange
from cartlm.compare.markdown import cell, words
from cartlm.compare.rules import ACCURACY, ANYWHERE
from cartlm.evaluation import paired
from cartlm.pipeline import stale
from cartlm.text import few

SHOWN: tuple[Verdict, ...] = ("worse", "better")
PARAM_HEAD = ("| param | old | new |", "|---|---|---|")
HEAD = ("| variant | metric | old | new | change | verdict | why |", "|---|---|---:|---:|---:|---|---|")
WHY = 200  # characters


def markdown(found: Comparison, everything: bool = False) -> str:
    """The whole report; `everything` lists the metrics without a change too."""
    parts = [f"# {found.old} → {found.new}: {words(headline(found))}", *bullets(found.notes)]
    params = ["\n".join([*PARAM_HEAD, *param_rows(found.params)])] if found.params else ["No change."]
    parts += ["## Params", *params]
    for target, changes in by_target(found):
        parts += [f"## {title(target)}", *section(changes, everything)]
    if (lines := stale_lines(found.stale)) is not None:
        parts += ["## Stale stages", lines[0], *(["\n".join(lines[1:])] if lines[1:] else [])]
    if found.against_f16:
        parts += [f"## Variants against f16, {found.new}", paired.difference_table(found.against_f16)]
    return "\n\n".join(parts) + "\n"


def by_target(found: Comparison) -> list[tuple[str, list[Change]]]:
    """The changes of each target, accuracy first."""
    targets = dict.fromkeys([ACCURACY, *(change.target for change in found.changes)])
    return [(name, [change for change in found.changes if change.target == name]) for name in targets]


def title(target: str) -> str:
    return target.capitalize() if target in ANYWHERE else f"Hardware target {words(target)}"


def stale_lines(found: stale.Report | None) -> list[str] | None:
    """A sentence on stages whose numbers are older than what they stand beside, then a line each; None if not asked."""
    if found is None:
        return None
    if not found.stale:
        return [stale.headline(found)]
    lines = [
        f"- {words(few(names, 8))}: {words(few(why, 8))}" for names, why in stale.group_by_reason(found.stale)
    ]
    return [
        f"{stale.headline(found)}: numbers are older than what they stand beside. Next: `{found.next}`",
        *lines,
    ]


def headline(found: Comparison) -> str:
    """`no change`, or how many metrics became worse and better, and of which variants; what does not compare."""
    counted = []
    for verdict in SHOWN:
        if changes := found.having(verdict):
            names = list(dict.fromkeys(f"{change.target} {change.variant}" for change in changes))
            counted.append(f"{len(changes)} {verdict} ({few(names, 12)})")
    lost, gone = len(found.having("not comparable")), len(found.having("removed"))
    if lost and lost + len(found.having("added")) + gone == len(found.changes):
        return "nothing is comparable"
    rest = [
        f"{number} {verdict}" for number, verdict in ((lost, "not comparable"), (gone, "removed")) if number
    ]
    return "; ".join([*(counted or ["no change"]), *rest])


def bullets(notes: Iterable[str]) -> list[str]:
    lines = [f"- {note[0].upper()}{note[1:]}" for note in map(words, notes)]
    return ["\n".join(lines)] if lines else []


def param_rows(params: Sequence[ParamChange]) -> list[str]:
    """What changed in params.yaml and the like, a line each."""
    names = [
        change.key if change.file == "params.yaml" else f"{change.file}: {change.key}" for change in params
    ]
    return [
        f"| {cell(name)} | {cell(change.old)} | {cell(change.new)} |"
        for name, change in zip(names, params, strict=True)
    ]


def section(changes: Sequence[Change], everything: bool) -> list[str]:
    """One target: what changed as a table, then how many metrics did not, or do not compare."""
    shown = [change for change in changes if everything or change.verdict in SHOWN]
    lines = [*HEAD, *(row(change) for change in shown)]
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
        cell(change.variant),
        cell(change.metric),
        value(change.old),
        value(change.new),
        amount(change),
        change.verdict,
        cell(_reason(change), WHY),
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
        return f"{arrow}{paired.format_points(change.paired)} points"
    if change.kind == ACCURACY:
        return f"{arrow}{paired.signed_points(change.change)} points"
    return f"{arrow}{paired.signed_points(change.change)} %"
