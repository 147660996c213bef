"""Is our harness honest? The same file, threads and lengths through llama-bench, in turns with our own engine."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from cartlm.engines.llama_cpp import LlamaCpp
from cartlm.errors import UserError
from cartlm.system import llama_cpp_build, processes

REPEATS = 3  # in one process, after a warm-up; the median counts


def ours(engine: LlamaCpp, prompt_tokens: int, new_tokens: int) -> dict[str, float]:
    """prefill_tokens_per_s and decode_tokens_per_s of our engine."""
    import numpy as np

    engine.pace(prompt_tokens, 1)
    made = [engine.pace(prompt_tokens, new_tokens) for _ in range(REPEATS)]
    prefill_s, decode_s = np.median(np.array(made), axis=0)
    return {
        "prefill_tokens_per_s": prompt_tokens / float(prefill_s),
        "decode_tokens_per_s": new_tokens / float(decode_s),
    }


def llama_bench(model: Path, prompt_tokens: int, new_tokens: int, threads: int) -> dict[str, float]:
    """The same of llama-bench, which warms up by itself. Raises UserError if it fails."""
    import numpy as np

    command = [
        llama_cpp_build.tool("llama-bench"), "-m", model, "-p", prompt_tokens, "-n", new_tokens, "-t", threads,
        "-ngl", 0, "-r", REPEATS, "-o", "json",
    ]  # fmt: skip
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False,
        preexec_fn=processes.die_with_parent,
    )  # fmt: skip
    try:
        found = json.loads(done.stdout)
        samples = {bool(test["n_gen"]): test["samples_ts"] for test in found}
        return {
            "prefill_tokens_per_s": float(np.median(samples[False])),
            "decode_tokens_per_s": float(np.median(samples[True])),
        }
    except (ValueError, KeyError, TypeError):
        lines = done.stderr.strip().splitlines() if done.returncode >= 0 else []
        said = lines[-1][:200] if lines else processes.describe_exit(done.returncode)
        hint = processes.exit_hint(done.returncode, f"rm {model}, then dvc repro")
        raise UserError(f"llama-bench of {model}: {said}", hint) from None
