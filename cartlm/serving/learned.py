"""What the evaluation of a variant learned on validation rows: how sure its answers are, and the ensemble's margin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from cartlm.decoding.confidence import Calibration
from cartlm.metrics import read_metrics


@dataclass(frozen=True)
class Learned:
    """`margin` in logits (cartlm.evaluation.constrained), and a calibration by way of decoding; None where nothing was learned."""

    margin: float | None = None
    constrained: Calibration | None = None
    ensemble: Calibration | None = None


def read(path: Path, inputs: Mapping[str, str | int | bool]) -> Learned:
    """From a file of metrics/eval; nothing of one with other `inputs` (cartlm.evaluation.reading)."""
    values = read_metrics(path)
    if values.get("inputs") != inputs:
        return Learned()
    margin = values.get("ensemble_calibration", {}).get("margin")
    return Learned(margin, *(_calibration(values, way) for way in ("constrained", "ensemble")))


def _calibration(values: Mapping[str, Any], way: str) -> Calibration | None:
    section = values.get(f"{way}_calibration", {})
    names = [field.name for field in fields(Calibration)]
    return Calibration(**{name: section[name] for name in names}) if section.keys() >= {*names} else None
