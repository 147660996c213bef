"""Accuracy: the cliff by type of the file, the heat map by language and noise, and how sure answers are."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from cartlm.evaluation.statistics import wilson
from cartlm.report import cells, cliff, worth
from cartlm.report.models import Model
from cartlm.report.summary import read_optional
from cartlm.report_page import drawing, test_rows
from cartlm.report_page.parts import (
    Cell,
    Section,
    Sources,
    Table,
    View,
    evaluations,
    machines,
    shown_path,
    table,
)

WAYS = ("constrained", "free", "ensemble")
SLICES = {
    "language_croatian": "Croatian",
    "language_english": "English",
    "language_spanish": "Spanish",
    "noise_clean": "clean",
    "noise_noisy": "noisy",
    "phrasing_everyday": "in everyday wording",
    "novel": "novel",
}
LANGUAGES, NOISES = ("croatian", "english", "spanish"), ("clean", "noisy")


def cliff_section(sources: Sources) -> Section:
    """Exact match by type of the file, of each model."""
    views = []
    for model in sources.models:
        found = cliff.points(model)
        drawn = cliff.pictures([model], Path())
        rows = [
            {
                "type of the file": each.kind,
                "bits per weight": each.bits,
                "decoding": each.way,
                "importance matrix": "yes" if each.imatrix else "no",
                "exact_match": each.value,
                "exact_match_low": each.low,
                "exact_match_high": each.high,
            }
            for each in found
        ]
        if not rows:
            continue
        title = f"{cliff.TITLE}: {model.label}"
        keys = ("type of the file", "bits per weight", "decoding", "importance matrix", "exact_match")
        files = [shown_path(sources.root, model.metrics / folder) for folder in ("eval", "quantize")]
        images = [_image(svg, title) for svg in drawn.values()]
        views.append(
            View(
                {"model": model.name},
                machines(evaluations(model).values()),
                files,
                Markup("").join(images),
                table(title, keys, rows),
            )
        )
    return Section(
        "cliff",
        "The cliff: how few bits are too few",
        "Exact match falls where a type has too few bits for this model; constrained decoding and an importance matrix move the edge.",
        "Each file answers all test rows, greedy; bars are Wilson's 95 % intervals. Bits a weight are of the whole file.",
        "make repro",
        views,
    )


def _image(svg: str, title: str) -> Markup:
    """A picture with a style of its own: inside the page, its rules and ids would be the page's."""
    data = base64.b64encode(svg.encode("utf-8")).decode("ascii")
    return drawing.tag("img", src=f"data:image/svg+xml;base64,{data}", alt=title, class_="cliff").replace("</img>", "")  # fmt: skip


def heat_section(sources: Sources) -> Section:
    """Shares of exact answers by slice and variant, shaded."""
    views = [view for model in sources.models for view in heat_views(sources, model)]
    return Section(
        "slices",
        "Slices: language, noise and variant",
        "Each cell is the exact match of one variant on one kind of test row; the darker, the more are exact.",
        "Shares of parts of the test rows, whose number is in the heading: the fewer, the wider the interval. "
        "Noisy rows have typing errors or slang; novel ones have products and phrases that training never had. "
        "Language by noise is counted from the rows themselves, where data/test.jsonl is that of dvc.lock (dvc repro data makes it).",
        "make repro",
        views,
    )


def heat_views(sources: Sources, model: Model) -> Iterator[View]:
    """By decoding."""
    files = evaluations(model)
    tags = test_rows.tags(sources.root) if model is sources.models[0] else {}
    for way in WAYS:
        shares: dict[str, dict[str, tuple[float, int]]] = {}
        for name, values in files.items():
            part = values.get(f"{way}_slices", {}) if name != "baseline" else values.get("free_slices", {})
            cut = {
                words: (part[key], int(part[f"{key}_n"]))
                for key, words in SLICES.items()
                if f"{key}_n" in part
            }
            if cut:
                shares[name] = cut | crossed(model, name, way, tags)
        if not shares or set(shares) == {"baseline"}:
            continue
        columns = list(dict.fromkeys(words for cut in shares.values() for words in cut))
        counts = {words: next(cut[words][1] for cut in shares.values() if words in cut) for words in columns}
        title = f"Exact match by kind of row: {model.label}, {way} decoding"
        lines = [
            [
                Cell(name, name),
                *(_shaded(cut[words][0]) if words in cut else Cell("", "") for words in columns),
            ]
            for name, cut in shares.items()
        ]
        headings = ["variant", *(f"{words}, {counts[words]:,} rows" for words in columns)]
        made = Table(title, headings, lines)
        yield View(
            {"model": model.name, "decoding": way},
            machines(files[name] for name in shares),
            [shown_path(sources.root, model.metrics / "eval")],
            table=made,
        )


def _shaded(share: float) -> Cell:
    return Cell(f"{share:.2f}", share, max(0, min(9, int(20 * (share - 0.5)))))


def crossed(
    model: Model, name: str, way: str, tags: Mapping[str, tuple[str, str]]
) -> dict[str, tuple[float, int]]:
    """Language by noise, counted from the stored outcome of each row; nothing where rows or outcomes are not there."""
    right = test_rows.exact(model.metrics, name, "free" if name == "baseline" else way)
    if not tags or right.keys() != tags.keys():
        return {}
    found = {}
    for language in LANGUAGES:
        for noise in NOISES:
            marks = [right[row] for row, tag in tags.items() if tag == (language, noise)]
            if marks:
                found[f"{language.capitalize()}, {noise}"] = (sum(marks) / len(marks), len(marks))
    return found


def reliability_section(sources: Sources) -> Section:
    """Stated confidence against the share of right answers, of each variant and decoding that has one."""
    views = []
    for model in sources.models:
        found = sorted(evaluations(model).items(), key=lambda each: each[0] == "merged")  # the same as f16
        for name, values in found:
            for way in ("constrained", "ensemble"):
                bins = read_bins(values.get(f"{way}_reliability", {}))
                if bins:
                    views.append(reliability_view(sources, model, name, way, bins, values))
    return Section(
        "confidence",
        "Confidence: how sure answers are",
        "A mark on the diagonal keeps its word: of answers that claim 80 %, 80 % are right. The larger a mark, the more answers.",
        "Confidence is calibrated on validation rows and shown for test rows, in 10 bins. Calibration error: the mean distance between both, "
        "in 15 bins. Coverage: exact match of the surest answers; the others would go to a person. Vertical bars are Wilson's 95 % intervals.",
        "make repro",
        views,
    )


def read_bins(section: Mapping[str, Any]) -> list[dict[str, float]]:
    """The bins that have answers, each with n, confidence and correct."""
    numbers = sorted(int(key.split("_")[1]) for key in section if key.endswith("_n"))
    return [
        {key: section[f"bin_{number}_{key}"] for key in ("n", "confidence", "correct")} for number in numbers
    ]


def reliability_view(
    sources: Sources, model: Model, name: str, way: str, bins: Sequence[Mapping[str, float]], values: Mapping[str, Any]
) -> View:  # fmt: skip
    title = f"Confidence against the share of right answers: {model.name}, {name}, {way} decoding"
    x, y = drawing.Scale(drawing.linear_ticks(0, 1, 5), drawing.LEFT, drawing.RIGHT), drawing.Scale(drawing.linear_ticks(0, 1, 5), drawing.BOTTOM, drawing.TOP)  # fmt: skip
    parts = [drawing.axes(x, y, "stated confidence", "right", drawing.percent), drawing.line(x(0), y(0), x(1), y(1), "diagonal")]  # fmt: skip
    total = sum(each["n"] for each in bins)
    rows = []
    for each in bins:
        n = int(each["n"])
        low, high = wilson(round(each["correct"] * n), n)
        told = f"stated {each['confidence']:.2f}, right {cells.with_interval(each['correct'], low, high)}, {n:,} answers"
        at, up = x(each["confidence"]), y(each["correct"])
        parts.append(drawing.line(at, y(low), at, y(high), "bar"))
        parts.append(drawing.tag("circle", drawing.tag("title", told), class_="mark best", cx=at, cy=up, r=4 + 10 * (n / total) ** 0.5))  # fmt: skip
        rows.append({"stated confidence": each["confidence"], "right": each["correct"], "right_low": low, "right_high": high, "answers": n})  # fmt: skip
    summary = values.get(way, {})
    coverage = [f"at {part} % coverage {summary[f'accuracy_at_{part}']:.3f} exact" for part in (90, 95, 99) if f"accuracy_at_{part}" in summary]  # fmt: skip
    error = (
        f"Calibration error {summary['calibration_error']:.3f}; " if "calibration_error" in summary else ""
    )
    return View(
        {"model": model.name, "variant": name, "decoding": way},
        machines([values]),
        [shown_path(sources.root, model.metrics / "eval" / f"{name}.json")],
        drawing.picture(title, *parts),
        table(title, ("stated confidence", "right", "answers"), rows),
        f"{error}{', '.join(coverage)}." if coverage or error else "",
    )


def worth_section(sources: Sources) -> Section:
    """F16 beside the baseline by kind of message."""
    found = worth.kinds(sources.metrics)
    rows = [
        {"messages": each.messages, "rows": each.n, **each.baseline.row("baseline"), **each.f16.row("f16")}
        for each in found
    ]
    title = "Exact match by kind of message, free decoding"
    view = View(
        {},
        machines(read_optional(sources.metrics / "eval" / f"{name}.json") for name in ("baseline", "f16")),
        [shown_path(sources.root, sources.metrics / "eval" / f"{name}.json") for name in ("baseline", "f16")],
        table=table(title, ("messages", "rows", "baseline", "f16"), rows),
    )
    return Section(
        "worth",
        f"Baseline: {worth.TITLE[0].lower()}{worth.TITLE[1:]}",
        worth.sentences(sources.metrics).replace("`", ""),
        "The baseline matches the message with the catalog lines and reads number and action by weights fitted on the training rows. "
        "Intervals are Wilson's.",
        "make repro",
        [view] if rows else [],
    )
