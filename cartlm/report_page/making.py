"""How the models were made: the loss while training, and the bytes of each group of tensors."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

from cartlm.errors import UserError
from cartlm.files import MIB
from cartlm.metrics import read_metrics
from cartlm.report import cells
from cartlm.report.summary import read_optional
from cartlm.report_page import drawing
from cartlm.report_page.drawing import Bar, stacked
from cartlm.report_page.parts import Section, Sources, View, machines, shown_path, table

CURVES = {"loss": "training", "eval_loss": "validation"}
GROUPS = {"token_embd": "embedding", "embedding": "embedding", "output": "output", "attention": "attention", "mlp": "MLP", "ffn": "MLP", "norm": "norms", "header": "header", "padding": "padding"}  # fmt: skip
"""Group of a metrics file -> its name here."""


def training_section(sources: Sources) -> Section:
    """Loss by step, of each model."""
    views = []
    for model in sources.models:
        path = model.metrics / "finetune.csv"
        points = read_curve(path) if path.exists() else []
        if len(points) < 2:
            continue
        title = f"Loss while fine-tuning {model.label}"
        values = [row[key] for row in points for key in CURVES if key in row and row[key] > 0]
        if not values:
            continue
        x = drawing.Scale(drawing.linear_ticks(0, points[-1]["step"]), drawing.LEFT, drawing.RIGHT)
        y = drawing.upwards(values, log=True)
        parts = [drawing.axes(x, y, "step", "loss", lambda value: f"{value:g}")]
        for number, (key, name) in enumerate(CURVES.items()):
            own = [(x(row["step"]), y(row[key])) for row in points if row.get(key, 0) > 0]
            if own:
                parts.append(drawing.tag("polyline", class_=f"curve s{number}", points=" ".join(f"{a:.1f},{b:.1f}" for a, b in own)))  # fmt: skip
                parts += [
                    drawing.tag("circle", class_=f"fill s{number}", cx=a, cy=b, r=3) for a, b in own if number
                ]
                parts.append(drawing.tag("rect", class_=f"fill s{number}", x=drawing.RIGHT - 120, y=30 + 20 * number, width=12, height=12))  # fmt: skip
                parts.append(drawing.text(drawing.RIGHT - 102, 41 + 20 * number, name))
        merge = read_optional(model.metrics / "merge.json")
        about = {key: value for key, value in merge.get("finetune", {}).items() if key in ("device", "quantization", "steps", "trainable_parameters")}  # fmt: skip
        rows = [{"step": row["step"], "epoch": row.get("epoch"), "training loss": row.get("loss"), "validation loss": row.get("eval_loss")} for row in points]  # fmt: skip
        views.append(
            View(
                {"model": model.name},
                machines([merge]),
                [shown_path(sources.root, path)],
                drawing.picture(title, *parts),
                table(title, ("step", "epoch", "training loss", "validation loss"), rows),
                ", ".join(
                    f"{key.replace('_', ' ')}: {value:,}"
                    if isinstance(value, int)
                    else f"{key.replace('_', ' ')}: {value}"
                    for key, value in about.items()
                ),
            )
        )
    return Section(
        "training",
        "Training",
        "Loss of the completion's tokens; validation rows are never trained on.",
        "QLoRA on NF4 weights; logarithmic scale.",
        "dvc repro finetune",
        views,
    )


def read_curve(path: Path) -> list[dict[str, float]]:
    """The rows of finetune.csv, without what a step did not measure. Raises UserError for what is no number."""
    with path.open(encoding="utf-8", newline="") as file:
        try:
            rows = [
                {key: number for key, value in row.items() if value and math.isfinite(number := float(value))}
                for row in csv.DictReader(file)
            ]
        except (TypeError, ValueError):
            raise UserError(f"{path} does not have numbers in all columns", f"git checkout {path}") from None
    return [row for row in rows if "step" in row]


def bytes_section(sources: Sources) -> Section:
    """Where a file's bytes are."""
    views = []
    for model in sources.models:
        files: dict[str, dict[str, Any]] = {"merged": dict(read_optional(model.metrics / "merge.json"))}
        for name in model.variants:
            for path in model.metrics.glob(f"*/{name}.json"):
                if (values := read_metrics(path)).get("bytes"):
                    files[name] = values
        grouped = {
            name: groups(values.get("bytes", {})) for name, values in files.items() if values.get("bytes")
        }
        if not grouped:
            continue
        legend = list(dict.fromkeys(group for parts in grouped.values() for group in parts))
        bars = [Bar(name, [parts.get(group, 0) / MIB for group in legend], cells.number(sum(parts.values()) / MIB)) for name, parts in grouped.items()]  # fmt: skip
        title = f"Bytes by group of tensors: {model.label}"
        rows = [
            {"variant": name, **{group: parts.get(group, 0) / MIB for group in legend}, "MiB in all": sum(parts.values()) / MIB,
             "bits per weight": files[name].get("quantize", {}).get("bits_per_weight")}
            for name, parts in grouped.items()
        ]  # fmt: skip
        folders = [shown_path(sources.root, model.metrics / each) for each in ("merge.json", "quantize")]
        views.append(
            View({"model": model.name}, machines(files.values()), folders, stacked(title, legend, bars, "MiB"), table(title, ("variant", *legend, "MiB in all", "bits per weight"), rows))
        )  # fmt: skip
    return Section(
        "bytes",
        "Bytes: where a file's size is",
        "What a file's size is made of: some groups keep more bits than others.",
        "Counted from each file, in MiB; header and padding are what is no tensor.",
        "dvc repro",
        views,
    )


def groups(counted: dict[str, Any]) -> dict[str, float]:
    """Group by the name it has here -> bytes; without empty ones."""
    found: dict[str, float] = {}
    for key, value in counted.items():
        if value:
            name = GROUPS.get(key, key.replace("_", " "))
            found[name] = found.get(name, 0) + value
    return found
