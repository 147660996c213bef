"""architecture, bench: speed, memory and energy with random weights, into metrics/bench/cpu-NAME/.

python -m stages.bench_architecture        (CARTLM_BENCH_CHECK=1: refuse another machine than the committed one)
"""

from __future__ import annotations

import os
from pathlib import Path

from cartlm import command
from cartlm.bench import publish, reference
from cartlm.bench.plan import Model, Plan
from cartlm.bench.rounds import REFERENCE
from cartlm.system import cpu_limits, machine
from cartlm.task import rows

MAKE = "make architecture"


@command.command
def main() -> None:
    """Measure real prompts in interleaved rounds; every repetition is kept in runs/bench/cpu-NAME/."""
    machine.require_target("cpu", "make architecture TARGET=cpu")
    params = command.params()
    bench = params.architecture
    target, folder = f"cpu-{bench.name}", Path("models/architecture") / bench.name
    plan = Plan.of(bench, params.prompt, cpu_limits.threads(), bench.new_tokens)
    models = {name: Model(folder / name / "model.gguf", made_by=MAKE) for name in ("f16", *bench.types)}
    for dtype in bench.dtypes:
        models[f"transformers-{dtype}"] = Model(folder / "weights", "transformers", dtype, MAKE)
    models[REFERENCE] = reference.gguf_model()
    # random weights never answer right: no completion is expected
    prompts = [(row.prompt, None) for row in rows.read(Path("data/test.jsonl"))]

    publish.run(
        Path("metrics/bench") / target, Path("runs/bench") / target, models, prompts, plan,
        publish.cpu(params.bench_cpu.idle_w, params.bench_cpu.load_w), max_spread=bench.max_spread,
        strict=os.environ.get("CARTLM_BENCH_CHECK") == "1", progress=command.progress, command=MAKE,
    )  # fmt: skip
    command.done({"architecture": bench.name, "variants": len(models), "rounds": plan.rounds})


if __name__ == "__main__":
    main()
