"""bench-gpu: speed, memory, energy and accuracy on a CUDA card, into metrics/bench/CARD/.

python -m stages.bench_gpu        (CARTLM_BENCH_CHECK=1: refuse another machine than the committed one)
"""

from __future__ import annotations

import os
from pathlib import Path

from cartlm import command
from cartlm.bench import gpu
from cartlm.bench import plan as bench
from cartlm.system import cpu_limits, machine
from cartlm.task import rows

AGAIN = "dvc repro gpu/dvc.yaml"


@command.command
def main() -> None:
    """Measure merged in both 16-bit types and as NF4, and GPTQ in every kernel; repetitions go to runs/bench/CARD/."""
    machine.require_target("gpu")
    settings = command.params()
    wanted = settings.gpu
    card = gpu.require_cuda(wanted.card)
    folder, raw = Path("metrics/bench") / wanted.card, Path("runs/bench") / wanted.card
    plan = bench.Plan(
        seed=wanted.seed,
        rounds=wanted.rounds,
        warmups=wanted.warmups,
        queries=wanted.queries,
        threads=cpu_limits.threads(),
        max_new_tokens=settings.eval.max_new_tokens,
        context_tokens=settings.prompt.max_tokens + settings.eval.max_new_tokens,
        separator=settings.prompt.separator,
        batches=tuple(wanted.batches),
        accuracy_batch=wanted.accuracy_batch,
    )
    prompts = [(row.prompt, row.completion) for row in rows.read(Path("data/test.jsonl"))]
    models, unsupported = gpu.models(
        gpu.plain(Path("models/merged"), "cuda", "dvc repro merge"),
        {name: Path("models") / name for name in settings.gptq},
        device="cuda", dtype=wanted.dtype, kernels=gpu.KERNELS, made_by="dvc repro", probe=gpu.probe(plan, prompts[0]),
    )  # fmt: skip
    gguf = gpu.gguf({name: Path("models") / name / "model.gguf" for name in ("f16", *settings.gguf)})
    models |= gguf
    for name, why in unsupported.items():
        command.progress(f"{name} does not run on this card: {why}")

    measurements = gpu.run(
        folder, raw, models, unsupported, prompts, plan, card=card,
        max_spread=wanted.max_spread, strict=os.environ.get("CARTLM_BENCH_CHECK") == "1", say=command.progress,
        command=AGAIN, more={} if gguf else {"gguf_absent": "llama.cpp was built without CUDA"},
    )  # fmt: skip
    command.done({"card": wanted.card, "variants": len(models), "measurements": measurements})


if __name__ == "__main__":
    main()
