"""The model card of the embedded base model, written from its recipe and its training log."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from base.pretraining.formats import TARGET_HEADER


def card(
    phases: Sequence[Mapping[str, Any]], log: Sequence[Mapping[str, Any]], parameters: int, machine: str
) -> str:
    """Markdown: what the model is, how it was made (recipe, seed, hours, machine), how good it is, its limits."""
    ends = [[line for line in log if line["phase"] == n][-1] for n in range(1, len(phases) + 1)]
    before = [sum(end["tokens"] for end in ends[:n]) for n in range(len(phases))]
    trained = "\n".join(
        f"  {n}. {end['tokens']:,} tokens in {end['step']:,} steps, {end['minutes'] / 60:.2f} hours; learning rate "
        f"{phase['learning_rate']}, guided attention {phase['guidance'] or 'not used'}, "
        f"passing on {phase['passing_on'] or 'not used'}, everyday documents {phase['everyday'] or 'none'}."
        for n, (phase, end) in enumerate(zip(phases, ends, strict=True), start=1)
    )
    probes = "\n".join(
        f"| {p['phase']} | {p['step']} | {(before[p['phase'] - 1] + p['tokens']) / 1e6:.1f} | {p['answer_loss']} "
        f"| {p['exact']} | {p['exact_novel']} | {p.get('everyday_exact', '')} | {p.get('everyday_exact_novel', '')} |"
        for p in log
        if "exact" in p
    )
    template = (resources.files("base.pretraining") / "card.md").read_text(encoding="utf-8")
    return template.format(
        parameters=parameters, header=TARGET_HEADER.strip(), seed=phases[0]["seed"], machine=machine, trained=trained,
        recipe=json.dumps([dict(phase) for phase in phases], indent=2), probe_rows=phases[-1]["probe_rows"], probes=probes,
    )  # fmt: skip
