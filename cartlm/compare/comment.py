"""A comparison as the comment of a pull or merge request: what a reviewer needs first, long tables folded.

GitHub and GitLab render the same: tables, <details>, mermaid. GitHub takes 65,536 characters.
"""

from __future__ import annotations

from collections.abc import Sequence

from cartlm.compare.comparison import Comparison
from cartlm.compare.load import WORKSPACE
from cartlm.compare.markdown import fold, inert, mermaid_chart
from cartlm.compare.report import CHANGE_HEAD, Section, bullets, changes_by_target, headline, sections
from cartlm.compare.rules import ACCURACY, TESTED
from cartlm.evaluation import paired
from cartlm.pipeline import stale

MARKER = "<!-- cartlm: compare -->"
"""The first line, by which a workflow finds its earlier comment and rewrites it."""
LIMIT = 65_000  # characters
ROWS = 20  # of a table that is not folded
ROWS_TRIED = (1000, 300, 100, 30, 0)  # of a folded table, until the comment is short enough
NOTE = 500  # characters
SPEED = "decode_tokens_per_s"


def format_comment(comparison: Comparison) -> str:
    """The whole comment, at most LIMIT characters: with fewer rows a table where it would be longer."""
    names = comparison.old if comparison.new == WORKSPACE else f"{comparison.old} {comparison.new}"
    end = [f"Cut at {LIMIT:,} characters; all of it: `cartlm compare {names} --all`"]
    of_comparison = sections(comparison)
    parts: list[str] = []
    for rows in ROWS_TRIED:
        parts = comment_parts(comparison, of_comparison, rows) + (end if rows < ROWS_TRIED[0] else [])
        if len("\n\n".join(parts)) < LIMIT:
            break
    while len("\n\n".join(parts)) >= LIMIT:
        parts = parts[:-2] + end
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
    drawn = [chart for chart in drawn if chart]
    legend = f"Bars are new ({comparison.new}), the line is old ({comparison.old})"
    return [f"### Plots\n\n{legend}; variants of both sides that compare.", *drawn] if drawn else []


def chart_values(comparison: Comparison, target: str, metric: str) -> list[tuple[str, float, float]]:
    """Name, old and new of one metric, in the order of params.yaml; a kernel has a name of its own."""
    rank = {variant: i for i, variant in enumerate(comparison.variants)}
    both = []
    for change in comparison.changes:
        section, _, name = change.metric.rpartition(".")
        is_metric = change.metric == metric if target == ACCURACY else name == metric
        if change.target != target or not is_metric or section.startswith("batch_"):
            continue
        if change.old is not None and change.new is not None and change.verdict != "not comparable":
            kernel = section.removeprefix("kernel_") if section.startswith("kernel_") else ""
            label = f"{change.variant}-{kernel}" if kernel else change.variant
            both.append((rank.get(change.variant, len(rank)), label, change.old, change.new))
    return [(label, old, new) for _, label, old, new in sorted(both)]
