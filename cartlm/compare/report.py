"""A comparison as Markdown: the page for the terminal, and the comment of a pull or merge request.

In the comment, what a reviewer needs first stands first, and long tables are folded. GitHub and GitLab render the same:
tables, folded parts, mermaid. GitHub takes 65,536 characters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from cartlm.compare.comparison import Change, Comparison, Verdict
from cartlm.compare.load import PARAMS, WORKSPACE
from cartlm.compare.markdown import fold, inert, mermaid_chart, table_cell
from cartlm.compare.rules import ACCURACY, ANYWHERE, DECODING, TESTED
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
MARKER = "<!-- cartlm: compare -->"
"""The comment's first line, by which a workflow finds its earlier comment and rewrites it."""
LIMIT = 65_000  # characters
ROWS = 20  # of a table that is not folded
ROWS_TRIED = (1000, 300, 100, 30, 0)  # of a folded table, until the comment is short enough
NOTE = 500  # characters
SPEED = "decode_tokens_per_s"


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
    title = f"# {comparison.old} → {comparison.new}: {inert(headline(comparison))}"
    parts = [title, *bullets(comparison.notes)]
    for section in sections(comparison, everything):
        table = "\n".join([*section.head, *section.rows]) if section.rows else ""
        parts += [f"## {section.title}", *filter(None, [section.lead, table]), *section.below]
    if table := paired.difference_table(comparison.against_f16) if comparison.against_f16 else "":
        parts += [f"## Variants against f16, {comparison.new}", table]
    return "\n\n".join(parts) + "\n"


def format_comment(comparison: Comparison) -> str:
    """The comment, at most LIMIT characters: with fewer rows a table where it would be longer."""
    names = comparison.old if comparison.new == WORKSPACE else f"{comparison.old} {comparison.new}"
    end = f"Cut at {LIMIT:,} characters; all of it: `cartlm compare {names} --all`"
    of_comparison = sections(comparison)
    parts = comment_parts(comparison, of_comparison, ROWS_TRIED[0])
    for rows in ROWS_TRIED[1:]:
        if len("\n\n".join(parts)) >= LIMIT:
            parts = [*comment_parts(comparison, of_comparison, rows), end]
    while len("\n\n".join(parts)) >= LIMIT:
        parts = [*parts[:-2], end]
    return "\n\n".join(parts) + "\n"


def comment_parts(comparison: Comparison, of_comparison: Sequence[Section], rows: int) -> list[str]:
    """Headline, notes, sections, charts and what is folded; a folded table has at most so many rows."""
    shown: list[str] = []
    folded: list[str] = []
    for section in of_comparison:
        shown += [f"### {section.title}", *filter(None, [section.lead])]
        if section.rows:
            shown.append("\n".join([*section.head, *section.rows[:ROWS]]))
        if len(section.rows) > ROWS:
            shown.append(f"The first {ROWS} of {len(section.rows):,}.")
            folded.append(fold(section.title, section.head, section.rows, rows))
        shown += section.below
        if section.moved:
            what = "moved within the noise or with the machine, or do not compare"
            folded.append(fold(f"{section.title}: {what}", CHANGE_HEAD, section.moved, rows))
    report = comparison.stale
    if report and report.stale and (others := stale.format_elsewhere(report)):
        lines = [f"- {inert(line)[:NOTE]}" for line in others]
        shown.append(fold("Pipelines that need hardware or servers of their own", [], lines, ROWS))
    if comparison.against_f16:
        head, line, *variants = paired.difference_table(comparison.against_f16).splitlines()
        folded.append(fold(f"Variants against f16, {comparison.new}", [head, line], variants, rows))
    title = f"{comparison.old} → {comparison.new}: {inert(headline(comparison)[:1000])}"
    notes = [note if len(note) <= NOTE else f"{note[: NOTE - 3]}..." for note in comparison.notes[:ROWS]]
    if len(comparison.notes) > ROWS:
        notes.append(f"And {len(comparison.notes) - ROWS} more notes.")
    return [f"{MARKER}\n## {title}", *bullets(notes), *shown, *charts(comparison), *folded]


def charts(comparison: Comparison) -> list[str]:
    """Exact match of each variant, decode speed of each on each target; only what both sides have and compares."""
    drawn = [mermaid_chart("exact match", "exact match", chart_values(comparison, ACCURACY, TESTED), top=1.0)]
    for target in changes_by_target(comparison):
        values = chart_values(comparison, target, SPEED)
        drawn.append(mermaid_chart(f"decode on {target}", "tokens per second", values))
    legend = f"Bars are new ({comparison.new}), the line is old ({comparison.old})"
    head = f"### Plots\n\n{legend}; variants of both sides that compare."
    return [head, *filter(None, drawn)] if any(drawn) else []


def chart_values(comparison: Comparison, target: str, metric: str) -> list[tuple[str, float, float]]:
    """Name, old and new of one metric, in the order of params.yaml; a kernel has a name of its own."""
    order, both = comparison.variants, []
    for change in comparison.changes:
        section, _, name = change.metric.rpartition(".")
        wanted = change.target == target and metric in (change.metric, name)
        if not wanted or section.startswith("batch_") or change.verdict == "not comparable":
            continue
        if change.old is not None and change.new is not None:
            rank = order.index(change.variant) if change.variant in order else len(order)
            kernel = f"-{section.removeprefix('kernel_')}" if section.startswith("kernel_") else ""
            both.append((rank, f"{change.variant}{kernel}", change.old, change.new))
    return [(name, old, new) for _, name, old, new in sorted(both)]


def sections(comparison: Comparison, everything: bool = False) -> list[Section]:
    """Params, each target, stale stages."""
    params = []
    for change in comparison.params:
        name = change.key if change.file == PARAMS else f"{change.file}: {change.key}"
        params.append(table_row(*map(table_cell, (name, change.old, change.new))))
    targets = [target_section(*target, everything) for target in changes_by_target(comparison).items()]
    section = Section("Params", "" if params else "No change.", PARAM_HEAD, params)
    studies = [study_section(*study) for study in comparison.studies.items()]
    return [section, *targets, *studies, stale_section(comparison)]


def study_section(name: str, comparison: Comparison) -> Section:
    """What became worse or better of a study: each variant with its target."""
    params = [f"{change.key} was {change.old!r:.40}, is {change.new!r:.40}" for change in comparison.params]
    lead = [inert(headline(comparison)), *([inert(f"params: {few(params, 4)}")] if params else [])]
    shown = [change for change in comparison.changes if change.verdict in SHOWN]
    rows = [change_row(replace(change, variant=f"{change.target} {change.variant}")) for change in shown]
    return Section(
        f"Study {inert(name)}", f"{'; '.join(lead)}.", CHANGE_HEAD, rows, bullets(comparison.notes)
    )


def headline(comparison: Comparison) -> str:
    """`no change`, or how many metrics became worse and better, and of which variants; what does not compare."""
    counts = Counter(change.verdict for change in comparison.changes)
    studies = [
        f"study {name}: {headline(each)}" for name, each in comparison.studies.items() if each.regression
    ]
    studies += [f"study {name} is gone" for name in comparison.lost_studies]
    if counts["not comparable"] and counts.keys() <= {"not comparable", "added", "removed"}:
        return "; ".join(["nothing is comparable", *studies])
    texts = []
    for verdict in SHOWN:
        names = dict.fromkeys(f"{change.target} {change.variant}" for change in comparison.having(verdict))
        texts += [f"{counts[verdict]} {verdict} ({few([*names], 12)})"] if names else []
    unjudged = [f"{counts[name]} {name}" for name in ("not comparable", "removed") if counts[name]]
    return "; ".join([*(texts or ["no change"]), *unjudged, *studies])


def bullets(notes: Iterable[str]) -> list[str]:
    """The notes as one list."""
    lines = [f"- {note[0].upper()}{note[1:]}" for note in map(inert, notes)]
    return ["\n".join(lines)] if lines else []


def table_row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


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
    below = [f"Not shown: {', '.join(f'{n} {verdict}' for verdict, n in counts.items())}."] if counts else []
    if not changes:
        below = ["Nothing measured."]
    elif counts == {"no change": len(changes)}:
        below = [f"No change ({len(changes)} judged)."]
    title = target.capitalize() if target in (*ANYWHERE, DECODING) else f"Hardware target {inert(target)}"
    moved = [change_row(change) for change in hidden if change.old != change.new]
    return Section(title, "", CHANGE_HEAD, [change_row(change) for change in shown], below, moved)


def stale_section(comparison: Comparison) -> Section:
    """Stages whose numbers are older than their code, params or inputs."""
    title, report = "Stale stages", comparison.stale
    if report is None:
        return Section(title, f"Not asked: {comparison.new} is not checked out.")
    late = f": their numbers are out of date. Next: `{report.next}`" if report.stale else ""
    rows = [f"- {inert(few(names, 8))}: {inert(why)}" for why, names in stale.stale_by_reason(report).items()]
    return Section(title, stale.headline(report) + late, (), rows)


def change_row(change: Change) -> str:
    """One line of the table; the arrow shows where the value went, the verdict whether that is good."""
    why = change.why
    if change.paired:
        pairs = change.paired.pairs
        why = f"{pairs.lost} rows lost, {pairs.won} won of {pairs.n:,}; {why}"
    values = format_value(change.old), format_value(change.new), format_change(change)
    names = table_cell(change.variant), table_cell(change.metric)
    return table_row(*names, *values, change.verdict, table_cell(why, WHY))


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
