"""architecture, bench: speed, memory and energy with random weights, into metrics/bench/cpu-NAME/.

python -m stages.bench_architecture        (CARTLM_BENCH_CHECK=1: refuse another machine than the committed one)
"""

from __future__ import annotations

import os
from pathlib import Path

from cartlm import command
from cartlm.bench import plan as bench
from cartlm.bench import publish
from cartlm.system import cpu_limits, machine
from cartlm.task import rows

MAKE = "make architecture"


@command.command
def main() -> None:
    """Measure real prompts in interleaved rounds; every repetition is kept in runs/bench/cpu-NAME/."""
    machine.require_target("cpu", "make architecture TARGET=cpu")
    settings = command.params()
    wanted = settings.architecture
    target = f"cpu-{wanted.name}"
    folder, raw, models_dir = (
        Path("metrics/bench") / target,
        Path("runs/bench") / target,
        Path("models/architecture"),
    )
    plan = bench.Plan(
        seed=wanted.seed,
        rounds=wanted.rounds,
        warmups=wanted.warmups,
        queries=wanted.queries,
        threads=cpu_limits.threads(),
        max_new_tokens=wanted.new_tokens,
        context_tokens=settings.prompt.max_tokens + wanted.new_tokens,
        separator=settings.prompt.separator,
        warmup_tokens=wanted.warmup_tokens,
        harness_rounds=wanted.harness_rounds,
        harness_prompt=wanted.harness_prompt,
        harness_new=wanted.harness_new,
    )
    models = {
        name: bench.Model(models_dir / wanted.name / name / "model.gguf", made_by=MAKE)
        for name in ("f16", *wanted.types)
    }
    weights = models_dir / wanted.name / "weights"
    for dtype in wanted.dtypes:
        models[f"transformers-{dtype}"] = bench.Model(weights, "transformers", dtype, MAKE)
    # random weights never answer right: no completion is expected
    prompts = [(row.prompt, None) for row in rows.read(Path("data/test.jsonl"))]

    given = settings.bench_cpu
    publish.run(
        folder, raw, models, prompts, plan,
        idle_w=given.idle_w, load_w=given.load_w, max_spread=wanted.max_spread,
        strict=os.environ.get("CARTLM_BENCH_CHECK") == "1", say=command.progress, command=MAKE,
    )  # fmt: skip
    command.done({"architecture": wanted.name, "variants": len(models), "rounds": plan.rounds})


if __name__ == "__main__":
    main()
