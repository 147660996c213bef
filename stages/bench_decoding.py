"""bench-decoding: what a query costs by each way of decoding one GGUF file, into metrics/decoding.json.

python -m stages.bench_decoding [--name NAME --model MODEL.gguf]
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import click

from cartlm import command
from cartlm.baseline import reader
from cartlm.bench import aggregate, decoding_ways
from cartlm.errors import UserError
from cartlm.files import MIB, sha256
from cartlm.metrics import write_metrics
from cartlm.system import cpu_limits, machine
from cartlm.task import rows

BASELINE, TEST = Path("models/baseline/model.json"), Path("data/test.jsonl")


@command.command
@click.option("--name", help="The figures go to metrics/decoding/NAME.json.")
@click.option(
    "--model", type=click.Path(path_type=Path), help="A GGUF file.  [default: bench_decoding.variant]"
)
def main(name: str | None, model: Path | None) -> None:
    """Answer sessions of test rows by every way in turns; nothing else should run meanwhile."""
    machine.require_target("cpu")
    params, others, target = command.params(), machine.OtherPrograms(), Path("metrics/decoding.json")
    settings = params.bench_decoding
    if name or model:
        if not model or not re.fullmatch(r"\w[\w.-]*", name or ""):
            what = f"NAME is {name!r} and MODEL {str(model)!r}"
            raise UserError(what, "make bench-decoding NAME=gemma MODEL=path/to/model.gguf")
        target = Path("metrics/decoding") / f"{name}.json"
    model = model or Path("models", settings.variant, "model.gguf")
    if not model.is_file():
        raise UserError(f"{model} is missing", "make repro, make study and make architecture make models")
    found = decoding_ways.measure(
        model, rows.read(TEST), settings, params.prompt.separator, params.decoding.max_quantity, cpu_limits.threads(),
        partial(reader.read, reader.load(BASELINE)), command.progress,
    )  # fmt: skip
    about = {"variant": name or settings.variant, "sha256": sha256(model), "mib": model.stat().st_size / MIB}
    write_metrics(target, {"machine": dict(machine.fingerprint()), "model": about, **found})
    if (busy := others.so_far().get("other_cpus_host", 0.0)) > aggregate.DISTURBED:
        command.progress(f"warning: other programs kept {busy:.1f} CPUs busy; then: make bench-decoding")
    command.done({"file": str(target), **{key: found["workload"][key] for key in ("sessions", "queries")}})


if __name__ == "__main__":
    main()
