"""architecture, bench: speed, memory and energy with random weights, into metrics/bench/cpu-NAME/.

python -m stages.bench_architecture        (CARTLM_BENCH_CHECK=1: refuse another machine than the committed one)
"""

from __future__ import annotations

import os
from pathlib import Path

from cartlm import stage
from cartlm.data import rows
from cartlm.measure import bench, cpus, energy, machine, publish, repetitions

MAKE = "make architecture"


@stage.command
def main() -> None:
    """Measure real prompts in interleaved rounds; every repetition is kept in runs/bench/cpu-NAME/."""
    settings = stage.params()
    wanted, live = settings.architecture, machine.fingerprint()
    target = f"cpu-{wanted.name}"
    folder, raw, models_dir = (
        Path("metrics/bench") / target,
        Path("runs/bench") / target,
        Path("models/architecture"),
    )
    strict = os.environ.get("CARTLM_BENCH_CHECK") == "1"
    if warning := publish.same_machine(publish.committed(folder / "machine.json"), live, strict):
        stage.progress(warning)
    plan = bench.Plan(
        seed=wanted.seed,
        rounds=wanted.rounds,
        warmups=wanted.warmups,
        queries=wanted.queries,
        threads=cpus.threads(),
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
    watts = repetitions.Watts(publish.idle_watts(), given.idle_w, given.load_w, machine.cores()[1])
    records = bench.measure(
        models, prompts, plan, raw, stage.progress, about=live["hash"],
        more=lambda found: publish.unsteady(found, wanted.max_spread),
    )  # fmt: skip
    bench.close(raw)  # also where the rounds are refused below: the next run measures anew
    files = publish.files(models, records, live, plan.seed, watts, wanted.max_spread, MAKE)
    speeds = [file["cpu"] for file in files.values()]
    files["machine"] = publish.about(live, files["f16"]["engine"], energy.available().metrics())
    for name in publish.write(folder, files):
        stage.progress(f"removed {folder / name}, no longer in params.yaml")
    if warning := repetitions.disturbed(speeds):
        stage.progress(warning)
    stage.done({"architecture": wanted.name, "variants": len(records), "rounds": plan.rounds})


if __name__ == "__main__":
    main()
