"""The paper claim by claim, with our interval and verdict."""

from __future__ import annotations

from cartlm.report import paper
from cartlm.report.summary import read_optional
from cartlm.report_page.parts import Section, Sources, View, machines, shown_path, table

MARKS = {"reproduced": "✓ reproduced", "better": "✓ better", "not reproduced": "✗ not reproduced", "not testable": "– not testable"}  # fmt: skip
"""A verdict as the table shows it: never by colour alone."""


def section(sources: Sources) -> Section:
    """All figures of cartlm/report/paper.yaml."""
    model = sources.models[0]
    measured = paper.measured_model(sources.metrics, str(model.base.get("name", model.name)), sources.dataset)
    published, figures = paper.figures()
    rows = [paper.row(figure, sources.metrics, measured, published) for figure in figures]
    counts = {words: sum(row["verdict"] == verdict for row in rows) for verdict, words in MARKS.items()}
    shown = [{**row, "verdict": MARKS[row["verdict"]], "on": row["on"].replace("`", "")} for row in rows]
    about = [read_optional(path) for path in sorted((sources.metrics / "bench").glob("*/machine.json"))]
    view = View(
        {},
        machines(about),
        [shown_path(sources.root, sources.metrics), "cartlm/report/paper.yaml"],
        table=table("Figures of arXiv 2510.21970 beside ours", paper.COLUMNS, shown),
        note="; ".join(f"{words}: {count}" for words, count in counts.items() if count) + ".",
    )
    return Section(
        "paper",
        "Paper: claim by claim",
        "arXiv 2510.21970. Reproduced: our 95 % interval holds the paper's figure at its precision; better or not reproduced: the whole "
        "interval is on one side of it; not testable: what the figure is about was not measured here.",
        f"Accuracies here are of {measured.shown} on {measured.dataset}; the paper's are of {published.model} on {published.dataset}. A "
        "ratio's interval is as wide as the intervals of its two medians allow.",
        "make study NAME=paper measures the paper's own model",
        [view],
    )
