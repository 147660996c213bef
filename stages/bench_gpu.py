"""bench-gpu: speed, memory, energy and accuracy on a CUDA card, into metrics/bench/CARD/.

python -m stages.bench_gpu        (CARTLM_BENCH_CHECK=1: refuse another machine than the committed one)
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

from cartlm import command
from cartlm.bench import gpu, publish, reference
from cartlm.bench.plan import Model, Plan
from cartlm.bench.rounds import REFERENCE
from cartlm.system import cpu_limits, machine
from cartlm.task import rows


@command.command
def main() -> None:
    """Measure merged in both 16-bit types and as NF4, and GPTQ in every kernel; repetitions go to runs/bench/CARD/."""
    machine.require_target("gpu")
    params = command.params()
    bench = params.gpu
    card = gpu.require_cuda(bench.card)
    plan = Plan.of(bench, params.prompt, cpu_limits.threads(), params.eval.max_new_tokens)
    prompts = [(row.prompt, row.completion) for row in rows.read(Path("data/test.jsonl"))]
    half = Model(Path("models/merged"), "transformers", "float16", "dvc repro merge", "cuda", fixed=True)
    plain = {
        "merged": half,  # the paper's FP16
        "merged-bfloat16": replace(half, dtype="bfloat16"),
        "merged-nf4": replace(half, nf4=True),  # quantized at load, by bitsandbytes
    }
    gptq = {
        name: replace(half, path=Path("models") / name, dtype=bench.dtype, made_by="dvc repro")
        for name in params.gptq
    }
    models, unsupported = gpu.models(plain, gptq, gpu.KERNELS, partial(gpu.probe, plan, prompts[0]))
    for name, why in unsupported.items():
        command.progress(f"{name} does not run on this card: {why}")
    gguf = gpu.gguf({name: Path("models") / name / "model.gguf" for name in ("f16", *params.gguf)})
    details = {} if gguf else {"gguf_absent": "llama.cpp was built without CUDA"}
    models |= {**gguf, REFERENCE: reference.transformers_model("cuda")}

    measurements = publish.run(
        Path("metrics/bench") / bench.card, Path("runs/bench") / bench.card, models, prompts, plan,
        gpu.target(card, details), max_spread=bench.max_spread,
        strict=os.environ.get("CARTLM_BENCH_CHECK") == "1", progress=command.progress,
        command="dvc repro gpu/dvc.yaml", unsupported=unsupported,
    )  # fmt: skip
    command.done({"card": bench.card, "variants": len(models), "measurements": measurements})


if __name__ == "__main__":
    main()
