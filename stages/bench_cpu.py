"""bench-cpu: speed, memory and energy of all GGUF variants, into metrics/bench/cpu/.

python -m stages.bench_cpu        (CARTLM_BENCH_CHECK=1: refuse another machine than the committed one)
"""

from __future__ import annotations

import os
from pathlib import Path

from cartlm import command
from cartlm.bench import plan as bench
from cartlm.bench import publish
from cartlm.pipeline.variants import prune_metrics
from cartlm.system import cpu_limits, machine
from cartlm.task import rows


@command.command
def main() -> None:
    """Measure in interleaved rounds; every repetition is kept in runs/bench/cpu/."""
    machine.require_target("cpu")
    settings, folder, raw = command.params(), Path("metrics/bench/cpu"), Path("runs/bench/cpu")
    prune_metrics(Path("."), settings.variants)  # else metrics/quantize changes after this stage
    wanted = settings.bench_cpu
    plan = bench.Plan(
        seed=wanted.seed,
        rounds=wanted.rounds,
        warmups=wanted.warmups,
        queries=wanted.queries,
        threads=wanted.threads or cpu_limits.threads(),
        max_new_tokens=settings.eval.max_new_tokens,
        context_tokens=settings.prompt.max_tokens + settings.eval.max_new_tokens,
        separator=settings.prompt.separator,
        served_rounds=wanted.served_rounds,
        served_queries=wanted.served_queries,
        in_flight=tuple(wanted.in_flight),
        harness_rounds=wanted.harness_rounds,
    )
    models = {"f16": bench.Model(Path("models/f16/model.gguf"), made_by="dvc repro convert-gguf")}
    for name in settings.gguf:
        path = Path("models") / name / "model.gguf"
        models[name] = bench.Model(path, made_by=f"dvc repro quantize-gguf@{name}")
    prompts = [(row.prompt, row.completion) for row in rows.read(Path("data/test.jsonl"))]

    measurements = publish.run(
        folder, raw, models, prompts, plan,
        idle_w=wanted.idle_w, load_w=wanted.load_w, max_spread=wanted.max_spread,
        strict=os.environ.get("CARTLM_BENCH_CHECK") == "1", say=command.progress,
    )  # fmt: skip
    command.done({"variants": len(models), "measurements": measurements, "rounds": plan.rounds})


if __name__ == "__main__":
    main()
