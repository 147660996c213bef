"""A comparison as the comment of a pull or merge request: what a reviewer needs first, long tables folded.

GitHub and GitLab render the same: tables, <details>, mermaid. GitHub takes 65,536 characters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cartlm.compare import text as compare_text
from cartlm.compare.judge import Comparison
from cartlm.compare.load import WORKSPACE
from cartlm.compare.markdown import chart, folded, words
from cartlm.compare.rules import ACCURACY, TESTED
from cartlm.evaluation import paired
from cartlm.pipeline import stale

MARKER = "<!-- cartlm: compare -->"
"""The first line, by which a workflow finds the comment that it wrote before, to rewrite it."""
LIMIT = 65_000  # characters
ROWS = 20  # of a table that is not folded
NOTE = 500  # characters
SPEED = "decode_tokens_per_s"


@dataclass(frozen=True)
class Block:
    """A part of the comment; where it does not fit, `rows` are left out from the end, or all of it."""

    head: str
    rows: list[str] = field(default_factory=list)
    tail: str = ""

    def text(self, rows: int | None = None) -> str:
        return "\n".join([self.head, *self.rows[:rows]]) + self.tail


def comment(found: Comparison) -> str:
    """The whole comment, at most LIMIT characters."""
    params, all_params = param_blocks(found)
    targets, noise = target_blocks(found)
    blocks = [
        Block(f"{MARKER}\n## {found.old} → {found.new}: {words(compare_text.headline(found)[:1000])}"),
        *notes(found.notes),
        *params,
        *targets,
        *stale_blocks(found),
        *plots(found),
        *all_params,
        *noise,
        *against_f16(found),
    ]
    names = found.old if found.new == WORKSPACE else f"{found.old} {found.new}"
    return fit(blocks, f"Cut here at {LIMIT:,} characters; all of it: `cartlm compare {names} --all`")


def fit(blocks: Sequence[Block], end: str) -> str:
    """The blocks with an empty line between them; `end` where they were cut."""
    done = ""
    room = LIMIT - len(end) - 2
    for i, block in enumerate(blocks):
        text = block.text()
        last = i == len(blocks) - 1
        if len(done) + len(text) + 2 > (LIMIT if last else room):
            kept = len(block.rows)
            while kept and len(done) + len(block.text(kept)) + 2 > room:
                kept -= 1
            return done + (f"{block.text(kept)}\n\n" if kept else "") + end + "\n"
        done += text + "\n\n"
    return done.rstrip("\n") + "\n"


def table(head: Sequence[str], rows: list[str], title: str) -> tuple[Block, list[Block]]:
    """The first ROWS rows, and all of them folded where there are more."""
    first = Block("\n".join(head), rows[:ROWS])
    if len(rows) <= ROWS:
        return first, []
    more = Block(
        "\n".join(head), rows[:ROWS], f"\n\nThe first {ROWS} of {len(rows):,}; all are folded below."
    )
    before, after = folded(f"{title}: all {len(rows):,}", head)
    return more, [Block(before, rows, after)]


def notes(said: Sequence[str]) -> list[Block]:
    """What a reader has to know before the tables."""
    lines = compare_text.bullets(
        [note if len(note) <= NOTE else f"{note[: NOTE - 3]}..." for note in said[:ROWS]]
    )
    left = len(said) - ROWS
    return [Block("\n".join([*lines, *([f"- And {left} more notes."] if left > 0 else [])]))] if lines else []


def param_blocks(found: Comparison) -> tuple[list[Block], list[Block]]:
    """What changed in params.yaml and the like, and the folded rest."""
    if not found.params:
        return [Block("### Params\n\nNo change.")], []
    rows = compare_text.param_rows(found.params)
    first, folds = table(compare_text.PARAM_HEAD, rows, "Params")
    return [Block("### Params"), first], folds


def target_blocks(found: Comparison) -> tuple[list[Block], list[Block]]:
    """A section a target: what became worse or better. Folded: what moved, and is not shown to be more than noise."""
    blocks: list[Block] = []
    folds: list[Block] = []
    for target, changes in compare_text.by_target(found):
        name = compare_text.title(target)
        blocks.append(Block(f"### {name}"))
        shown = [change for change in changes if change.verdict in compare_text.SHOWN]
        if shown:
            first, rest = table(compare_text.HEAD, [compare_text.row(change) for change in shown], name)
            blocks.append(first)
            folds += rest
        blocks += [Block(text) for text in compare_text.rest(changes, shown)]
        moved = [change for change in changes if change not in shown and change.old != change.new]
        if moved:
            title = (
                f"{name}: {len(moved):,} that moved within the noise or with the machine, or do not compare"
            )
            before, after = folded(title, compare_text.HEAD)
            folds.append(Block(before, [compare_text.row(change) for change in moved], after))
    return blocks, folds


def stale_blocks(found: Comparison) -> list[Block]:
    """Stages whose numbers are older than what they stand beside."""
    lines = compare_text.stale_lines(found.stale)
    if lines is None:
        text = f"Not asked: {found.new} is not what is checked out where this was made."
        return [Block(f"### Stale stages\n\n{text}")]
    blocks = [Block(f"### Stale stages\n\n{lines[0]}", ["", *lines[1 : ROWS + 1]] if lines[1:] else [])]
    if found.stale and (told := stale.format_elsewhere(found.stale)):
        before, after = folded("Pipelines that need hardware or servers of their own", [])
        blocks.append(Block(before, [f"- {words(line)[:NOTE]}" for line in told[:ROWS]], after))
    return blocks


def plots(found: Comparison) -> list[Block]:
    """Exact match of each variant, decode speed of each on each target; only what both sides have and compares."""
    drawn = [chart("exact match", "exact match", values(found, ACCURACY, TESTED), top=1.0)]
    for target, _ in compare_text.by_target(found):
        drawn.append(chart(f"decode on {target}", "tokens per second", values(found, target, SPEED)))
    charts = [text for text in drawn if text]
    if not charts:
        return []
    legend = f"### Plots\n\nBars are new ({found.new}), the line is old ({found.old}); variants of both sides that compare."
    return [Block(legend), *map(Block, charts)]


def values(found: Comparison, target: str, metric: str) -> list[tuple[str, float, float]]:
    """Name, old and new of one metric, in the order of params.yaml; a kernel has a name of its own."""
    rank = {variant: i for i, variant in enumerate(found.variants)}
    both = []
    for change in found.changes:
        section, _, name = change.metric.rpartition(".")
        wanted = change.metric == metric if target == ACCURACY else name == metric
        if change.target != target or not wanted or section.startswith("batch_"):
            continue
        if change.old is not None and change.new is not None and change.verdict != "not comparable":
            kernel = section.removeprefix("kernel_") if section.startswith("kernel_") else ""
            label = f"{change.variant}-{kernel}" if kernel else change.variant
            both.append((rank.get(change.variant, len(rank)), label, change.old, change.new))
    return [(label, old, new) for _, label, old, new in sorted(both)]


def against_f16(found: Comparison) -> list[Block]:
    """The new side's variants against its F16."""
    if not found.against_f16:
        return []
    head, line, *rows = paired.difference_table(found.against_f16).splitlines()
    before, after = folded(f"Variants against f16, {found.new}", [head, line])
    return [Block(before, rows, after)]
