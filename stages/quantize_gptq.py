"""quantize-gptq: models/merged -> models/VARIANT, a GPTQ checkpoint calibrated on rows of the training split.

python -m stages.quantize_gptq int4-g128
"""

from __future__ import annotations

from pathlib import Path

import click

from cartlm import command
from cartlm.engines.model_dir import load_tokenizer
from cartlm.errors import UserError
from cartlm.metrics import write_metrics
from cartlm.quantization import gptq
from cartlm.system import cpu_limits, machine
from cartlm.task import rows as row_files
from cartlm.task.prompt import from_transformers

MERGED, CALIBRATION, RUNS = Path("models/merged"), Path("data/calibration.jsonl"), Path("runs/quantize")


@command.command
@click.argument("variant")
def main(variant: str) -> None:
    """Quantize one variant, on a CUDA card where there is one; gptqmodel's output goes to runs/quantize/VARIANT/log."""
    settings = command.params()
    if variant not in settings.gptq:
        raise UserError(f"params.yaml has no gptq.{variant}", f"one of: {', '.join(settings.gptq)}")
    how = settings.gptq[variant]
    MERGED.stat()  # raises FileNotFoundError
    builder = from_transformers(load_tokenizer(MERGED), settings.prompt.separator)
    rows = [
        builder.prompt_ids(row.prompt) + builder.completion_ids(row.completion)
        for row in row_files.read(CALIBRATION)
    ]
    import torch

    device, threads = "cuda" if torch.cuda.is_available() else "cpu", cpu_limits.threads()
    command.progress(f"GPTQ on {device}, calibrated on {len(rows)} rows")
    target = Path("models") / variant
    sections = gptq.quantize(MERGED, target, how, rows, device=device, threads=threads, runs=RUNS / variant)
    if warning := gptq.uneven_groups(MERGED, how.group_size):
        command.progress(f"warning: gptq.{variant}.group_size {warning}")
    engine = {"name": "gptqmodel", "version": gptq.versions(), "device": device, "threads": threads}
    path = Path("metrics/gptq") / f"{variant}.json"
    write_metrics(path, {"machine": machine.fingerprint(), "engine": engine, **sections})
    command.done({"variant": variant, **sections["quantize"]})


if __name__ == "__main__":
    main()
