"""quantize-gguf: models/f16 -> models/VARIANT/model.gguf, of the type that params.yaml gives it.

python -m stages.quantize_gguf q4_k_m
"""

from __future__ import annotations

from pathlib import Path

import click

from cartlm import command
from cartlm.engines.answer import check_parity
from cartlm.errors import UserError
from cartlm.metrics import read_metrics, write_metrics
from cartlm.quantization import gguf, imatrix
from cartlm.system import cpu_limits, machine
from cartlm.task import rows


@command.command
@click.argument("variant")
def main(variant: str) -> None:
    """Quantize one variant, after a passed parity check; the tools' output goes to runs/quantize/."""
    settings = command.params()
    if variant not in settings.gguf:
        raise UserError(f"params.yaml has no gguf.{variant}", f"one of: {', '.join(settings.gguf)}")
    wanted = settings.gguf[variant]
    check_parity(read_metrics(Path("metrics/parity.json")), settings.parity.min_agreement)
    source, threads, matrix = Path("models/f16/model.gguf"), cpu_limits.threads(), None
    if wanted.imatrix:
        pairs = [(row.prompt, row.completion) for row in rows.read(Path("data/calibration.jsonl"))]
        command.progress(f"importance matrix of {len(pairs)} calibration rows")
        matrix = imatrix.build_imatrix(
            source, pairs, settings.prompt.separator, Path("runs/imatrix"), threads
        )
    target = Path("models") / variant / "model.gguf"
    log = Path("runs/quantize") / f"{variant}.log"
    types = wanted.tensor_types
    made = gguf.quantize(source, target, wanted.type, threads=threads, log=log, imatrix=matrix, types=types)
    found = gguf.metrics_sections(made, target, wanted)
    write_metrics(
        Path("metrics/quantize") / f"{variant}.json",
        {
            "machine": machine.fingerprint(),
            "engine": gguf.engine_section("llama-quantize", threads),
            **found,
        },
    )
    if found["quantize"]["fallback_tensors"]:
        names = ", ".join(made.fallback_tensors(wanted.type, types)[:3])
        command.progress(f"warning: row sizes that {wanted.type} cannot take, made of another type: {names}")
    command.done({"variant": variant, **found["quantize"]})


if __name__ == "__main__":
    main()
