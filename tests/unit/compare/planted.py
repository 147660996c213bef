"""Sides of a comparison with planted numbers, and the rounds in which they would have been measured."""

from __future__ import annotations

import random
import re
from statistics import median
from typing import Any

from cartlm.bench.rounds import REFERENCE, Rounds
from cartlm.compare import rules
from cartlm.compare.load import Side

Metrics = dict[str, dict[str, Any]]


def rounds_of(metrics: Metrics, machine: float = 1.0, n: int = 5, noise: float = 0.02) -> dict[str, Rounds]:
    """Rounds of which each timing's published value is the median; `machine` is how fast it was, as the reference model shows."""
    rounds: dict[str, Rounds] = {}
    for file, values in metrics.items():
        target, variant = rules.target_and_variant(file)
        for key, kind, _ in rules.judged_metrics(values):
            if target in ("", *rules.ANYWHERE) or kind not in rules.TIMED or values[key] <= 0:
                continue
            name = re.sub(r".*\.(batch_\d+_)?", "", key)
            fixed = 100 * machine if kind == "speed" else 100 / machine
            for who, metric, middle in ((variant, key, values[key]), (REFERENCE, f"reference.{name}", fixed)):
                draw = random.Random(f"{who} {metric} {values[key]}")
                ratios = [draw.uniform(1 - noise, 1 + noise) for _ in range(n)]
                measured = rounds.setdefault(target, {}).setdefault((who, metric), {})
                measured |= {i: middle * ratio / median(ratios) for i, ratio in enumerate(ratios)}
    return rounds


def measured(metrics: Metrics, name: str = "", machine: float = 1.0, n: int = 5, **more: Any) -> Side:
    """A side with rounds.csv of all its benchmark files."""
    return Side(name, metrics, rounds=rounds_of(metrics, machine, n), **more)
