"""bench-cpu: speed, memory and energy of the baseline and all GGUF variants, into metrics/bench/cpu/.

python -m stages.bench_cpu        (CARTLM_BENCH_CHECK=1: refuse a machine other than the one of the committed numbers)
"""

from __future__ import annotations

import os
from pathlib import Path

from cartlm import command
from cartlm.bench import publish, reference
from cartlm.bench.plan import Model, Plan
from cartlm.bench.rounds import REFERENCE
from cartlm.pipeline.variants import prune_metrics
from cartlm.system import cpu_limits, machine
from cartlm.task import rows


@command.command
def main() -> None:
    """Measure in interleaved rounds; every repetition is kept in runs/bench/cpu/."""
    machine.require_target("cpu")
    params = command.params()
    prune_metrics(Path("."), params.variants)  # else metrics/quantize changes after this stage
    bench = params.bench_cpu
    plan = Plan.of(bench, params.prompt, bench.threads or cpu_limits.threads(), params.eval.max_new_tokens)
    models = {"f16": Model(Path("models/f16/model.gguf"), made_by="dvc repro convert-gguf")}
    models["baseline"] = Model(Path("models/baseline/model.json"), "rules", made_by="dvc repro baseline")
    for name in params.gguf:
        models[name] = Model(Path("models", name, "model.gguf"), made_by=f"dvc repro quantize-gguf@{name}")
    models[REFERENCE] = reference.gguf_model()
    prompts = [(row.prompt, row.completion) for row in rows.read(Path("data/test.jsonl"))]

    measurements = publish.run(
        Path("metrics/bench/cpu"), Path("runs/bench/cpu"), models, prompts, plan,
        publish.cpu(bench.idle_w, bench.load_w), max_spread=bench.max_spread,
        strict=os.environ.get("CARTLM_BENCH_CHECK") == "1", progress=command.progress,
    )  # fmt: skip
    command.done({"variants": len(models), "measurements": measurements, "rounds": plan.rounds})


if __name__ == "__main__":
    main()
