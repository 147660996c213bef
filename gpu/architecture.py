"""What a Llama of a known shape costs on this machine's CUDA card: random weights, nothing downloaded, no DVC.

    python -m gpu.architecture                        in the repository's root; some minutes
    python -m gpu.architecture --out FOLDER           below FOLDER instead of metrics/bench/
    python -m gpu.architecture --device cpu --name toy --kernels torch --new 4

It needs torch, transformers, numpy, scipy, psutil and safetensors, gptqmodel for GPTQ and nvidia-ml-py for energy (what is
missing is named and left out), and none of this project's other packages. FP16, BF16 and GPTQ int4-g128 in each kernel that the card supports, at
batch 1 and 32: tokens/s of prefill and decode, memory, joules a token, in interleaved rounds, a fresh process each.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from cartlm.bench import gpu, publish, random_weights, reference
from cartlm.bench.plan import Model, Plan
from cartlm.errors import UserError
from cartlm.system import cpu_limits, machine

COMMAND = "python -m gpu.architecture"
BITS, GROUP_SIZE = 4, 128
GPTQ = f"int{BITS}-g{GROUP_SIZE}"


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--name", default="llama-3.2-1b", choices=sorted(random_weights.NAMES))
    parser.add_argument("--out", type=Path, default=Path("metrics/bench"))
    parser.add_argument("--raw", type=Path, default=Path("runs/bench"), help="every repetition")
    parser.add_argument(
        "--device", default="cuda", choices=("cuda", "cpu"), help="cpu: to try the script, no result"
    )
    parser.add_argument("--kernels", default=",".join(gpu.KERNELS), help="of GPTQ, tried in this order")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--queries", type=int, default=8, help="a round, one at a time")
    parser.add_argument("--batches", default="1,32")
    parser.add_argument("--prompt", type=int, default=256, help="tokens")
    parser.add_argument("--new", type=int, default=64, help="tokens")
    parser.add_argument("--max-spread", type=float, default=0.3)
    parser.add_argument("--seed", type=int, default=7)
    return parser.parse_args()


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Make the models in a temporary folder, measure them, write the files; returns the last line of output."""
    machine.require_target("gpu", "make architecture TARGET=gpu")
    card = None if args.device == "cpu" else gpu.require_cuda()
    target = f"{gpu.short_name(card['gpu']) if card else 'try'}-{args.name}"
    model = random_weights.config_of(args.name)
    draw = random.Random(args.seed)
    plan = Plan(
        seed=args.seed, rounds=args.rounds, warmups=4, queries=args.queries, threads=cpu_limits.threads(),
        max_new_tokens=args.new, context_tokens=args.prompt + args.new, separator="\n",
        batches=tuple(int(size) for size in args.batches.split(",")),
    )  # fmt: skip
    prompts = [([draw.randrange(256) for _ in range(args.prompt)], None) for _ in range(64)]
    with tempfile.TemporaryDirectory(prefix="architecture-") as temporary:
        weights, checkpoint = Path(temporary) / args.name, Path(temporary) / GPTQ
        random_weights.write(weights, model, args.seed)
        random_weights.write_gptq(checkpoint, model, BITS, GROUP_SIZE, args.seed)
        for folder in (weights, checkpoint):
            random_weights.write_bytes_tokenizer(folder)
        half = Model(weights, "transformers", "float16", COMMAND, args.device, fixed=True)
        gptq = {GPTQ: replace(half, path=checkpoint)}
        models, unsupported = gpu.models(
            {"float16": half, "bfloat16": replace(half, dtype="bfloat16")}, gptq, args.kernels.split(","),
            partial(gpu.probe, plan, prompts[0]),
        )  # fmt: skip
        for name, why in unsupported.items():
            progress(f"{name} does not run here: {why}")
        models[reference.REFERENCE] = reference.transformers_model(args.device, Path(temporary))
        shutil.rmtree(args.raw / target, ignore_errors=True)  # models of an earlier run are gone
        count = publish.run(
            args.out / target, args.raw / target, models, prompts, plan, gpu.target(card),
            max_spread=args.max_spread, strict=False, progress=progress, command=COMMAND, unsupported=unsupported,
        )  # fmt: skip
    return {"target": target, "variants": len(models), "measurements": count}


def progress(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def main() -> None:
    try:
        print(json.dumps(measure(options())), flush=True)
    except (UserError, ModuleNotFoundError) as error:
        missing = getattr(error, "name", None)
        told = f"the package {missing} is not installed; pip install {missing}" if missing else error
        progress(f"cartlm: error: {told}")
        sys.exit(2)


if __name__ == "__main__":
    main()
