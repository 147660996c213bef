"""A comparison as Markdown: the sections that the terminal and a pull request's comment share, and the terminal's page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from cartlm.compare.comparison import Change, Comparison, Verdict
from cartlm.compare.load import ParamChange
from cartlm.compare.markdown import inert, table_cell
from cartlm.compare.rules import ACCURACY, ANYWHERE
from cartlm.evaluation import paired
from cartlm.pipeline import stale
from cartlm.text import few

SHOWN: tuple[Verdict, ...] = ("worse", "better")
PARAM_HEAD = ("| param | old | new |", "|---|---|---|")
CHANGE_HEAD = (
    "| variant | metric | old | new | change | verdict | why |",
    "|---|---|---:|---:|---:|---|---|",
)
WHY = 200  # characters


@dataclass(frozen=True)
class Section:
    """A part of the page: a sentence, a table or list, and sentences below."""

    title: str
    lead: str = ""
    head: tuple[str, ...] = ()  # of the table; a list has none
    rows: list[str] = field(default_factory=list)
    below: list[str] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)  # rows of what moved, but is not shown to have changed


def format_report(comparison: Comparison, everything: bool = False) -> str:
    """The page for the terminal; `everything` lists the metrics without a change too."""
    parts = [
        f"# {comparison.old} → {comparison.new}: {inert(headline(comparison))}",
        *bullets(comparison.notes),
    ]
    for section in sections(comparison, everything):
        table = "\n".join([*section.head, *section.rows]) if section.rows else ""
        parts += [f"## {section.title}", *filter(None, [section.lead, table]), *section.below]
    if comparison.against_f16:
        parts += [
            f"## Variants against f16, {comparison.new}",
            paired.difference_table(comparison.against_f16),
        ]
    return "\n\n".join(parts) + "\n"


def sections(comparison: Comparison, everything: bool = False) -> list[Section]:
    """Params, each target, stale stages."""
    params = [param_row(change) for change in comparison.params]
    targets = [target_section(*target, everything) for target in changes_by_target(comparison).items()]
    lead = "" if params else "No change."
    return [Section("Params", lead, PARAM_HEAD, params), *targets, stale_section(comparison)]


def headline(comparison: Comparison) -> str:
    """`no change`, or how many metrics became worse and better, and of which variants; what does not compare."""
    texts = []
    for verdict in SHOWN:
        if changes := comparison.having(verdict):
            names = list(dict.fromkeys(f"{change.target} {change.variant}" for change in changes))
            texts.append(f"{len(changes)} {verdict} ({few(names, 12)})")
    counts = Counter(change.verdict for change in comparison.changes)
    if counts["not comparable"] and counts.keys() <= {"not comparable", "added", "removed"}:
        return "nothing is comparable"
    unjudged = [f"{counts[name]} {name}" for name in ("not comparable", "removed") if counts[name]]
    return "; ".join([*(texts or ["no change"]), *unjudged])


def bullets(notes: Iterable[str]) -> list[str]:
    """The notes as one list."""
    lines = [f"- {note[0].upper()}{note[1:]}" for note in map(inert, notes)]
    return ["\n".join(lines)] if lines else []


def param_row(change: ParamChange) -> str:
    name = change.key if change.file == "params.yaml" else f"{change.file}: {change.key}"
    return f"| {table_cell(name)} | {table_cell(change.old)} | {table_cell(change.new)} |"


def changes_by_target(comparison: Comparison) -> dict[str, list[Change]]:
    """The changes of each target, accuracy first."""
    targets: dict[str, list[Change]] = {ACCURACY: []}
    for change in comparison.changes:
        targets.setdefault(change.target, []).append(change)
    return targets


def target_section(target: str, changes: Sequence[Change], everything: bool) -> Section:
    """What changed of one target as a table, and how many metrics did not, or do not compare."""
    shown = [change for change in changes if everything or change.verdict in SHOWN]
    hidden = [change for change in changes if not everything and change.verdict not in SHOWN]
    counts = Counter(change.verdict for change in hidden)
    if not changes:
        below = ["Nothing measured."]
    elif counts == {"no change": len(changes)}:
        below = [f"No change ({len(changes)} judged)."]
    else:
        texts = [f"{number} {verdict}" for verdict, number in counts.items()]
        below = [f"Not shown: {', '.join(texts)}."] if texts else []
    title = target.capitalize() if target in ANYWHERE else f"Hardware target {inert(target)}"
    moved = [change_row(change) for change in hidden if change.old != change.new]
    return Section(title, "", CHANGE_HEAD, [change_row(change) for change in shown], below, moved)


def stale_section(comparison: Comparison) -> Section:
    """Stages whose numbers are older than their code, params or inputs."""
    title, report = "Stale stages", comparison.stale
    if report is None:
        return Section(title, f"Not asked: {comparison.new} is not checked out.")
    if not report.stale:
        return Section(title, stale.headline(report))
    lead = f"{stale.headline(report)}: their numbers are out of date. Next: `{report.next}`"
    rows = [
        f"- {inert(few(names, 8))}: {inert(few(why, 8))}"
        for names, why in stale.group_by_reason(report.stale)
    ]
    return Section(title, lead, (), rows)


def change_row(change: Change) -> str:
    """One line of the table; the arrow shows where the value went, the verdict whether that is good."""
    why = change.why
    if change.paired:
        pairs = change.paired.pairs
        why = f"{pairs.lost} rows lost, {pairs.won} won of {pairs.n:,}; {why}"
    cells = (
        table_cell(change.variant),
        table_cell(change.metric),
        format_value(change.old),
        format_value(change.new),
        format_change(change),
        change.verdict,
        table_cell(why, WHY),
    )
    return "| " + " | ".join(cells) + " |"


def format_value(number: float | None) -> str:
    """A value with its digits as in metrics/."""
    return "" if number is None else f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"


def format_change(change: Change) -> str:
    """How much, with an arrow: percentage points of shares, else percent of the old value."""
    if change.change is None:
        return ""
    arrow = "↑ " if change.change > 0 else "↓ " if change.change < 0 else ""
    if change.paired:
        return f"{arrow}{paired.format_points(change.paired)} points"
    return f"{arrow}{paired.signed_points(change.change)} {'points' if change.kind == ACCURACY else '%'}"
