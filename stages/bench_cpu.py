"""bench-cpu: speed and memory of all GGUF variants, into metrics/bench/cpu/.

python -m stages.bench_cpu        (CARTLM_BENCH_CHECK=1: refuse another machine than the committed one)
"""

from __future__ import annotations

import os
from pathlib import Path

from cartlm import stage
from cartlm.data import rows
from cartlm.errors import UserError
from cartlm.measure import bench, cpus, machine


@stage.command
def main() -> None:
    """Measure in interleaved rounds; every repetition is kept in runs/bench/cpu/."""
    settings, folder, raw = stage.params(), Path("metrics/bench/cpu"), Path("runs/bench/cpu")
    live = machine.fingerprint()
    strict = os.environ.get("CARTLM_BENCH_CHECK") == "1"
    if warning := bench.same_machine(bench.committed(folder / "machine.json"), live, strict):
        stage.progress(warning)

    wanted = settings.bench_cpu
    if wanted.threads is not None and wanted.threads < 1:
        raise UserError(f"bench_cpu.threads is {wanted.threads}, less than 1", "edit params.yaml")
    plan = bench.Plan(
        seed=wanted.seed,
        rounds=wanted.rounds,
        warmups=wanted.warmups,
        queries=wanted.queries,
        threads=wanted.threads or cpus.threads(),
        max_new_tokens=settings.eval.max_new_tokens,
        context_tokens=settings.prompt.max_tokens + settings.eval.max_new_tokens,
        separator=settings.prompt.separator,
    )
    models = {name: Path("models") / name / "model.gguf" for name in ("f16", *settings.gguf)}
    prompts = [row.prompt for row in rows.read(Path("data/test.jsonl"))]
    records = bench.measure(models, prompts, plan, raw, stage.progress, about=live["hash"])

    speeds = {
        variant: bench.summarize(found, models[variant].stat().st_size, plan.seed)
        for variant, found in records.items()
    }
    files = {
        variant: {"machine": live, "engine": records[variant][-1]["engine"], "cpu": speed}
        for variant, speed in speeds.items()
    }
    details = {**machine.details(), "load1": os.getloadavg()[0]}
    files["machine"] = {"machine": live, "engine": files["f16"]["engine"], "details": details}
    for name in bench.write(folder, files):
        stage.progress(f"removed {folder / name}, no longer in params.yaml")
    bench.close(raw)
    if warning := bench.disturbed(speeds.values()):
        stage.progress(warning)
    stage.done({"variants": len(records), "measurements": plan.rounds * len(records), "rounds": plan.rounds})


if __name__ == "__main__":
    main()
