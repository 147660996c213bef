"""Trends: a metric of each variant over the commits that touched metrics/, with changes of the machine marked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from cartlm.compare.load import flatten
from cartlm.errors import UserError
from cartlm.metrics import parse_metrics
from cartlm.pipeline.repository import Tree, run_git
from cartlm.report_page import drawing
from cartlm.report_page.parts import Section, Sources, View, table

ACCURACIES = {
    "free.exact_match": "exact match, free decoding",
    "constrained.exact_match": "exact match, constrained decoding",
    "natural.exact_match": "exact match, natural messages",
}
COSTS = {
    "latency_ms_p95": "p95 latency, ms",
    "latency_ms_p50": "median latency, ms",
    "decode_tokens_per_s": "decode, tokens/s",
    "peak_rss_mib": "peak memory, MiB",
    "size_mib": "file, MiB",
    "energy_j_per_query": "energy, J per query",
}
ANYWHERE = "accuracy (any machine)"


@dataclass(frozen=True)
class Commit:
    """The numbers of one commit: metrics file -> dotted key -> value; paths are below metrics/."""

    name: str
    date: str
    subject: str
    files: Mapping[str, Mapping[str, Any]]

    def machine(self, target: str) -> tuple[str, str]:
        """Hash and name of the machine that measured a target; empty where it was not."""
        for path, values in self.files.items():
            if path.startswith(f"bench/{target}/") and "machine.hash" in values:
                return str(values["machine.hash"]), str(values.get("machine.name", ""))
        return "", ""


def history(root: Path, most: int) -> list[Commit]:
    """The last commits that touched metrics/, oldest first; none outside of a git repository."""
    done = run_git(root, "log", f"-n{most}", "--format=%H%x00%cs%x00%s", "--", "metrics")
    if done.returncode:
        return []
    lines = [line.split("\0", 2) for line in reversed(done.stdout.split("\n")) if line]
    found = [Commit(sha[:8], date, subject, read(Tree(root, sha, "metrics"))) for sha, date, subject in lines]
    if run_git(root, "status", "--porcelain", "--", "metrics").stdout.strip():
        found.append(Commit("workspace", "now", "not committed yet", read(Tree(root, None, "metrics"))))
    return [each for each in found if each.files]


def read(tree: Tree) -> dict[str, dict[str, Any]]:
    """What is drawn of a commit's metrics; a file that is no JSON is left out: nobody can fix a commit."""
    found = {}
    for folder in ("eval", "bench"):
        for path in (each for each in tree.find(folder) if each.endswith(".json")):
            try:
                found[path] = flatten(parse_metrics(tree.read(path) or b"", path, ""))
            except UserError:
                continue
    return found


def section(sources: Sources) -> Section:
    """By target and metric."""
    commits = history(sources.root, sources.commits)
    views = [*views_of(commits, sources)] if len(commits) > 1 else []
    return Section(
        "trends",
        "Trends",
        f"The same metric over the last {len(commits)} commits that touched metrics/, oldest first. Rows, models and code may have "
        "changed in between: the commit says how. A dotted vertical line marks a change of the machine: speeds on its two sides do not "
        "compare.",
        "Read from git, commit by commit, as committed then.",
        "git log -- metrics",
        views,
        "This checkout has fewer than two such commits; git fetch --unshallow completes a shallow clone.",
    )


def views_of(commits: Sequence[Commit], sources: Sources) -> Iterator[View]:
    """Accuracies, then the costs of each target; not of the base model, which answers in another format."""
    variants = [name for name in sources.variants if name != "base"]
    for key, words in ACCURACIES.items():
        yield from _view(commits, ANYWHERE, words, {name: (f"eval/{name}.json", key) for name in variants})
    targets = sorted(
        {path.split("/")[1] for each in commits for path in each.files if path.startswith("bench/")}
    )
    for target in targets:
        names = sorted({Path(path).stem for each in commits for path in each.files if path.startswith(f"bench/{target}/")} - {"machine", "reference"}, key=lambda name: (variants.index(name) if name in variants else len(variants), name))  # fmt: skip
        for key, words in COSTS.items():
            section = (
                "energy" if key.startswith("energy") else "gpu" if not target.startswith("cpu") else "cpu"
            )
            yield from _view(
                commits,
                target,
                words,
                {name: (f"bench/{target}/{name}.json", f"{section}.{key}") for name in names},
            )


def _view(
    commits: Sequence[Commit], target: str, words: str, where: Mapping[str, tuple[str, str]]
) -> Iterator[View]:
    every = {
        name: [_number(each.files.get(path, {}).get(key)) for each in commits]
        for name, (path, key) in where.items()
    }
    series = {
        name: values for name, values in every.items() if sum(value is not None for value in values) > 1
    }
    if not series:
        return
    hashes = [each.machine(target) for each in commits]
    title = f"{words} of each variant, {target}"
    rows = [
        {"commit": each.name, "date": each.date, "what it did": each.subject, **({"machine": hashes[number][1]} if target != ANYWHERE else {}),
         **{name: values[number] for name, values in series.items()}}
        for number, each in reversed(list(enumerate(commits)))
    ]  # fmt: skip
    keys = ["commit", "date", *series, *(["machine"] if target != ANYWHERE else []), "what it did"]
    names = list(dict.fromkeys(name for _, name in hashes if name))
    yield View(
        {"target": target, "metric": words}, names, [f"metrics/{'eval' if target == ANYWHERE else f'bench/{target}'}, from git"],
        draw(title, words, commits, series, [mark for mark, _ in hashes] if target != ANYWHERE else []), table(title, keys, rows),
    )  # fmt: skip


def _number(value: Any) -> float | None:
    """None for what cannot be drawn: nobody can fix a commit."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value if is_number else None


def draw(
    title: str, words: str, commits: Sequence[Commit], series: Mapping[str, Sequence[Any]], hashes: Sequence[str]
) -> Markup:  # fmt: skip
    """A line a variant, named at its right end."""
    right = drawing.RIGHT - 16 - drawing.CHARACTER * max(map(len, series))
    step = (right - drawing.LEFT) / max(1, len(commits) - 1)
    numbers = [value for values in series.values() for value in values if value is not None]
    log = min(numbers) > 0 and max(numbers) > 20 * min(numbers)
    share = "exact match" in words
    y = drawing.upwards(numbers, log)
    parts = [
        drawing.axes(None, y, "commit", words, drawing.percent if share else lambda value: f"{value:,g}")
    ]
    every = max(1, round(len(commits) / 9))
    for number, commit in enumerate(commits):
        x = drawing.LEFT + step * number
        if number % every == 0:
            parts.append(drawing.text(x, drawing.BOTTOM + 18, commit.date[5:], "middle"))
        before = next((each for each in reversed(hashes[:number]) if each), "")
        if hashes and before and hashes[number] and hashes[number] != before:
            parts.append(drawing.line(x - step / 2, drawing.TOP, x - step / 2, drawing.BOTTOM, "machine"))
    ends = []
    for number, (name, values) in enumerate(series.items()):
        colour = f"s{number % drawing.SERIES}{' again' if number >= drawing.SERIES else ''}"
        own = [
            (drawing.LEFT + step * at, y(value), commits[at], value)
            for at, value in enumerate(values)
            if value is not None
        ]
        parts.append(
            drawing.tag(
                "polyline",
                class_=f"curve {colour}",
                points=" ".join(f"{a:.1f},{b:.1f}" for a, b, _, _ in own),
            )
        )
        for a, b, commit, value in own:
            told = f"{name}, {commit.name} of {commit.date}: {value:,.4g}. {commit.subject}"
            parts.append(
                drawing.tag("circle", drawing.tag("title", told), class_=f"fill {colour}", cx=a, cy=b, r=3.5)
            )
        ends.append((own[-1][1], name, colour))
    placed = -99.0
    for place, name, colour in sorted(ends):  # names are at least a line apart
        placed = max(place, placed + 13)
        parts.append(drawing.line(right, place, right + 14, placed, "pointer"))
        parts.append(drawing.text(right + 16, placed + 4, name, class_=f"text name {colour}"))
    return drawing.picture(title, *parts)
