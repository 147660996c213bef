"""A comparison as the comment of a pull or merge request: what a reviewer needs first, long tables folded.

GitHub and GitLab render the same: tables, <details>, mermaid. GitHub takes 65,536 characters.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from cartlm.compare.comparison import Comparison
from cartlm.compare.load import WORKSPACE
from cartlm.compare.markdown import fold, inert, mermaid_chart
from cartlm.compare.report import CHANGE_HEAD, bullets, changes_by_target, headline, sections
from cartlm.compare.rules import ACCURACY, TESTED
from cartlm.evaluation import paired
from cartlm.pipeline import stale

MARKER = "<!-- cartlm: compare -->"
"""The first line, by which a workflow finds its earlier comment and rewrites it."""
LIMIT = 65_000  # characters
ROWS = 20  # of a table that is not folded
NOTE = 500  # characters
SPEED = "decode_tokens_per_s"


@dataclass(frozen=True)
class Block:
    """A part of the comment; if it does not fit, `rows` are left out from the end, or all of it."""

    head: str
    rows: list[str] = field(default_factory=list)
    tail: str = ""

    def render(self, rows: int | None = None) -> str:
        return "\n".join([self.head, *self.rows[:rows]]) + self.tail


def format_comment(comparison: Comparison) -> str:
    """The whole comment, at most LIMIT characters."""
    shown, folded = section_blocks(comparison)
    title = f"{comparison.old} → {comparison.new}: {inert(headline(comparison)[:1000])}"
    blocks = [
        Block(f"{MARKER}\n## {title}"),
        *note_blocks(comparison.notes),
        *shown,
        *chart_blocks(comparison),
    ]
    blocks += folded
    if comparison.against_f16:
        head, line, *rows = paired.difference_table(comparison.against_f16).splitlines()
        blocks.append(folded_block(f"Variants against f16, {comparison.new}", [head, line], rows))
    names = comparison.old if comparison.new == WORKSPACE else f"{comparison.old} {comparison.new}"
    return join_within_limit(
        blocks, f"Cut here at {LIMIT:,} characters; all of it: `cartlm compare {names} --all`"
    )


def join_within_limit(blocks: Sequence[Block], end: str) -> str:
    """The blocks with an empty line between them; where they are cut, `end`."""
    text = ""
    room = LIMIT - len(end) - 2
    for i, block in enumerate(blocks):
        whole = block.render()
        last = i == len(blocks) - 1
        if len(text) + len(whole) + 2 > (LIMIT if last else room):
            lengths = accumulate(len(row) + 1 for row in block.rows)
            kept = bisect_right(list(lengths), room - len(text) - len(block.render(0)) - 2)
            return text + (f"{block.render(kept)}\n\n" if kept else "") + end + "\n"
        text += whole + "\n\n"
    return text.rstrip("\n") + "\n"


def folded_block(summary: str, head: Sequence[str], rows: list[str]) -> Block:
    before, after = fold(summary, head)
    return Block(before, rows, after)


def note_blocks(notes: Sequence[str]) -> list[Block]:
    """The first notes, each cut to a length."""
    lines = bullets([note if len(note) <= NOTE else f"{note[: NOTE - 3]}..." for note in notes[:ROWS]])
    left = len(notes) - ROWS
    return [Block("\n".join([*lines, *([f"- And {left} more notes."] if left > 0 else [])]))] if lines else []


def section_blocks(comparison: Comparison) -> tuple[list[Block], list[Block]]:
    """Each section with at most ROWS rows. Folded: longer tables as a whole, and what moved without a verdict."""
    shown: list[Block] = []
    folded: list[Block] = []
    for section in sections(comparison):
        shown.append(Block("\n\n".join(filter(None, [f"### {section.title}", section.lead]))))
        if section.rows:
            cut = len(section.rows) > ROWS and section.head
            count = f"\n\nThe first {ROWS} of {len(section.rows):,}; all are folded below." if cut else ""
            lines = [*section.head, *section.rows[:ROWS]]
            shown.append(Block(lines[0], lines[1:], count))
            if cut:
                title = f"{section.title}: all {len(section.rows):,}"
                folded.append(folded_block(title, section.head, section.rows))
        shown += map(Block, section.below)
        if section.moved:
            what = "that moved within the noise or with the machine, or do not compare"
            title = f"{section.title}: {len(section.moved):,} {what}"
            folded.append(folded_block(title, CHANGE_HEAD, section.moved))
    report = comparison.stale
    if report and report.stale and (others := stale.format_elsewhere(report)):
        lines = [f"- {inert(line)[:NOTE]}" for line in others[:ROWS]]
        shown.append(folded_block("Pipelines that need hardware or servers of their own", [], lines))
    return shown, folded


def chart_blocks(comparison: Comparison) -> list[Block]:
    """Exact match of each variant, decode speed of each on each target; only what both sides have and compares."""
    charts = [
        mermaid_chart("exact match", "exact match", chart_values(comparison, ACCURACY, TESTED), top=1.0)
    ]
    for target in changes_by_target(comparison):
        values = chart_values(comparison, target, SPEED)
        charts.append(mermaid_chart(f"decode on {target}", "tokens per second", values))
    blocks = [Block(chart) for chart in charts if chart]
    if not blocks:
        return []
    legend = f"Bars are new ({comparison.new}), the line is old ({comparison.old})"
    return [Block(f"### Plots\n\n{legend}; variants of both sides that compare."), *blocks]


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
