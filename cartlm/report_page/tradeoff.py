"""The trade-off: accuracy against latency, memory, size or energy, with the Pareto front of the two."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

from cartlm.evaluation.paired import BASELINE
from cartlm.metrics import read_metrics
from cartlm.recommend.answer import ROWS
from cartlm.recommend.measured import ACCURACY, RANDOM, dominates, interval, section_name
from cartlm.report import cells
from cartlm.report.cells import Interval
from cartlm.report.models import Model
from cartlm.report_page import drawing
from cartlm.report_page.parts import Section, Sources, View, benches, evaluations, machines, shown_path, table

ID = "trade-off"
COSTS = {
    "latency_ms_p95": "p95 latency, ms",
    "latency_ms_p50": "median latency, ms",
    "peak_rss_mib": "peak memory, MiB",
    "size_mib": "file, MiB",
    "energy_j_per_query": "energy, J per query",
    "vram_run_used_mib": "VRAM, MiB",
}
"""Key -> title of the axis; less is better."""
DECODINGS = ("constrained", "free", "ensemble")
FILES, WITH_BASELINE = "model files", f"{BASELINE} too"
NOWHERE = "files (any machine)"
"""The target of what needs no machine: a file's size."""


@dataclass(frozen=True)
class Mark:
    """A variant at its place."""

    name: str
    cost: Interval
    accuracy: Interval
    on_front: bool = False

    @property
    def losses(self) -> tuple[float, float]:
        """Both values, turned so that less is better."""
        return -self.accuracy.value, self.cost.value


def section(sources: Sources) -> Section:
    """All combinations that were measured, the recommended one first."""
    views = [view for model in sources.models for view in model_views(sources, model)]
    return Section(
        ID,
        "Trade-off: accuracy against what it costs",
        "Up and to the left is better. The line joins the variants that no other beats in both quantities shown; grey ones are beaten. "
        "Select a mark to go to its row.",
        "Exact match of all rows by the decoding chosen, Wilson's 95 % interval. Latency, memory and energy: one query at a time, free "
        "decoding, medians across rounds with a 95 % interval. The front takes the values as they are; whether two variants can be "
        "told apart is above, under the recommendation.",
        "make repro (accuracy), make bench (speed, memory and energy)",
        views,
    )


def model_views(sources: Sources, model: Model) -> Iterator[View]:
    """By target, decoding, rows and quantity."""
    evaluated = {name: values for name, values in evaluations(model).items() if name != "base"}
    for target, costs in measured_costs(model).items():
        for rows, words in ROWS.items():
            for decoding in DECODINGS:
                for key in COSTS:
                    marks = [
                        Mark(name, cost, share)
                        for name, evaluation in evaluated.items()
                        if (share := accuracy(evaluation, name, decoding, rows))
                        and (cost := interval(costs.get(name, {}).get("speed", {}), key))
                    ]
                    files = [each for each in marks if each.name != BASELINE]
                    choice = {"model": model.name, "target": target, "decoding": decoding, "rows": words}
                    for shown, kept in ((FILES, files), (WITH_BASELINE, marks if marks != files else [])):
                        if len(files) > 1 and kept:
                            whole = {**choice, "show": shown, "against": COSTS[key]}
                            yield view(sources, model, whole, key, with_front(kept), evaluated, costs)


def accuracy(evaluation: Mapping[str, Any], name: str, decoding: str, rows: str) -> Interval | None:
    """The exact match of a variant; the baseline answers alike by every decoding."""
    wanted = section_name(name, decoding, rows)  # type: ignore[arg-type]
    return interval(evaluation.get(wanted, {}), ACCURACY)


def measured_costs(model: Model) -> dict[str, dict[str, dict[str, Any]]]:
    """Target -> variant -> its file, with its costs as `speed`; a model without a benchmark has the sizes of its files."""
    found = {
        target: {
            name: {**file, "speed": {**file["speed"], **file.get("energy", {})}}
            for name, file in files.items()
        }
        for target, files in benches(model).items()
        if not target.startswith(RANDOM)
    }
    sizes = {name: {"speed": {"size_mib": made["size_mib"]}} for name, made in model.quantized.items() if "size_mib" in made}  # fmt: skip
    merge = model.metrics / "merge.json"
    if "merged" in model.variants and merge.exists() and "size_mib" in (values := read_metrics(merge)):
        sizes["merged"] = {"speed": {"size_mib": values["size_mib"]}}
    return {**found, NOWHERE: sizes} if sizes else found


def with_front(marks: Sequence[Mark]) -> list[Mark]:
    """The same, dearest last, with those that no other beats in accuracy and cost."""

    def beaten(one: Mark) -> bool:
        return any(dominates(other.losses, one.losses) for other in marks)

    ordered = sorted(marks, key=lambda each: (each.cost.value, -each.accuracy.value))
    return [replace(each, on_front=not beaten(each)) for each in ordered]


def view(
    sources: Sources, model: Model, choice: Mapping[str, str], key: str, marks: Sequence[Mark],
    evaluated: Mapping[str, Mapping[str, Any]], costs: Mapping[str, Mapping[str, Any]],
) -> View:  # fmt: skip
    """One combination."""
    prefix = "-".join(
        [
            "row",
            model.name,
            choice["target"].split()[0],
            choice["decoding"],
            choice["rows"].split()[0],
            choice["show"].split()[0],
            key,
        ]
    )
    ids = [f"{prefix}-{mark.name}" for mark in marks]
    rows = [
        {"variant": each.name, **each.accuracy.row(ACCURACY), **each.cost.row(key), "on the front": "yes" if each.on_front else ""}
        for each in marks
    ]  # fmt: skip
    title = f"Exact match against {COSTS[key]}: {', '.join(list(choice.values())[:-1])}"
    names = [mark.name for mark in marks]
    files = [model.metrics / "eval" / f"{name}.json" for name in names]
    if choice["target"] == NOWHERE:
        files += [model.metrics / "quantize"]
    else:
        files += [model.metrics / "bench" / choice["target"]]
    about = [evaluated[name] for name in names] + [costs[name] for name in names]
    return View(
        choice, machines(about), [shown_path(sources.root, each) for each in files],
        draw(title, COSTS[key], marks, ids),
        table(title, ("variant", ACCURACY, key, "on the front"), rows, ids),
    )  # fmt: skip


def draw(title: str, cost: str, marks: Sequence[Mark], ids: Sequence[str]) -> Markup:
    """Marks with both intervals, their names where there is room, and the front as steps."""
    lows, highs = ([getattr(mark.cost, end) for mark in marks] for end in ("low", "high"))
    x = drawing.across([*lows, *highs], log=max(highs) > 3 * min(lows))
    y = drawing.upwards([each for mark in marks for each in (mark.accuracy.low, mark.accuracy.high)])
    parts, labels = (
        [drawing.axes(x, y, cost, "exact match, 95 % interval", drawing.percent)],
        drawing.Labels(),
    )
    front = [mark for mark in marks if mark.on_front]
    path = [f"M{x(front[0].cost.value):.1f} {drawing.BOTTOM}"]
    for mark in front:
        path.append(f"H{x(mark.cost.value):.1f}V{y(mark.accuracy.value):.1f}")
    parts.append(drawing.tag("path", class_="front", d="".join([*path, f"H{drawing.RIGHT}"])))
    for mark in marks:
        labels.keep_free(x(mark.cost.value), y(mark.accuracy.value))
    for mark, target in zip(marks, ids, strict=True):
        at, high = x(mark.cost.value), y(mark.accuracy.value)
        told = f"{mark.name}: exact match {cells.with_interval(*mark.accuracy)}, {cost} {cells.with_interval(*mark.cost)}"
        half = 6.0
        box = {"class_": "mark", "x": at - half, "y": high - half, "width": 2 * half, "height": 2 * half}
        inside = [
            drawing.tag("title", told),
            drawing.line(at, y(mark.accuracy.low), at, y(mark.accuracy.high), "bar"),
            drawing.line(x(mark.cost.low), high, x(mark.cost.high), high, "bar"),
            drawing.tag("rect", **box, rx=0 if mark.name == BASELINE else half),
        ]
        parts.append(
            drawing.tag(
                "a",
                *inside,
                href=f"#{target}",
                class_="point" if mark.on_front else "point beaten",
                aria_label=told,
            )
        )
    for mark in marks:  # over all bars
        name = labels.place(x(mark.cost.value), y(mark.accuracy.value), mark.name)
        parts.append(drawing.tag("g", name, class_="label" if mark.on_front else "label beaten"))
    return drawing.picture(title, *parts)
