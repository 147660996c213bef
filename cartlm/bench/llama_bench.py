"""Checks our harness: the same file, threads and lengths through llama-bench, in turns with our own engine."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from statistics import median

from cartlm.engines.llama_cpp import LlamaCpp
from cartlm.errors import UserError
from cartlm.system import llama_cpp_build, processes

REPEATS = 3  # in one process, after a warm-up; the median counts


def ours(engine: LlamaCpp, prompt_tokens: int, new_tokens: int) -> dict[str, float]:
    """prefill_tokens_per_s and decode_tokens_per_s of our engine."""
    engine.benchmark_pp_tg(prompt_tokens, 1)
    runs = [engine.benchmark_pp_tg(prompt_tokens, new_tokens) for _ in range(REPEATS)]
    prefill_s, decode_s = (median(seconds) for seconds in zip(*runs, strict=True))
    return {"prefill_tokens_per_s": prompt_tokens / prefill_s, "decode_tokens_per_s": new_tokens / decode_s}


def llama_bench(model: Path, prompt_tokens: int, new_tokens: int, threads: int) -> dict[str, float]:
    """The same of llama-bench, which warms up by itself. Raises UserError if it fails."""
    command = [
        llama_cpp_build.tool("llama-bench"), "-m", model, "-p", prompt_tokens, "-n", new_tokens, "-t", threads,
        "-ngl", 0, "-r", REPEATS, "-o", "json",
    ]  # fmt: skip
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False,
        preexec_fn=processes.die_with_parent,
    )  # fmt: skip
    try:
        speeds = {bool(test["n_gen"]): median(test["samples_ts"]) for test in json.loads(done.stdout)}
        return {"prefill_tokens_per_s": speeds[False], "decode_tokens_per_s": speeds[True]}
    except (ValueError, KeyError, TypeError):
        lines = done.stderr.strip().splitlines() if done.returncode >= 0 else []
        reason = lines[-1][:200] if lines else processes.describe_exit(done.returncode)
        hint = processes.exit_hint(done.returncode, f"rm {model}, then dvc repro")
        raise UserError(f"llama-bench of {model}: {reason}", hint) from None
