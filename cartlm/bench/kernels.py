"""GPTQ kernels on a card: which of them run, and one metrics file per variant from the measurements of each kernel.

A measured model is named VARIANT, or VARIANT@KERNEL.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cartlm.bench import runner
from cartlm.bench.plan import Model, Plan
from cartlm.errors import UserError

KERNELS = ("marlin", "machete", "exllama_v2", "triton", "torch")
"""GPTQ kernels that are tried on a card, by the names of cartlm.engines.gptq."""
PROBE_S = 420.0  # a kernel that is compiled at its first use takes minutes
AT = "@"
SPEEDS = ("prefill_tokens", "decode_tokens", "latency_ms_p50", "vram_", "spread")
BATCHED = ("decode_tokens_per_s", "prefill_tokens_per_s", "energy_j_per_token", "energy_j_per_query")
ACCURACY = ("exact_match", "exact_match_low", "exact_match_high", "n_accuracy")


def models(
    plain: Mapping[str, Model], gptq: Mapping[str, Path], device: str, dtype: str, kernels: Sequence[str],
    made_by: str, probe: Callable[[Model], str],
) -> tuple[dict[str, Model], dict[str, str]]:  # fmt: skip
    """The models to measure, GPTQ variants once per kernel, and the kernels that do not run here with the reason.

    `probe` returns why a model does not run, or an empty text. Raises UserError where nothing runs.
    """
    candidates = dict(plain)
    for variant, folder in gptq.items():
        for kernel in kernels:
            candidates[f"{variant}{AT}{kernel}"] = Model(
                folder, "transformers", dtype, made_by, device, kernel, fixed=True
            )
    reasons = {name: probe(model) for name, model in candidates.items()}
    running = {name: model for name, model in candidates.items() if not reasons[name]}
    if not running:
        raise UserError(f"nothing runs on this card: {next(iter(reasons.values()))}", "cartlm check-gpu")
    return running, {name: why for name, why in reasons.items() if why}


def probe(plan: Plan, prompt: Any) -> Callable[[Model], str]:
    """A `probe` for `models`: a query of two tokens in a fresh process."""
    short = replace(plan, max_new_tokens=2, warmup_tokens=2, warmups=0, queries=1, batches=())

    def run(model: Model) -> str:
        if not model.path.exists():
            raise UserError(f"{model.path} is missing", model.made_by)
        try:
            runner.run_worker(short.job(model, "queries", [prompt], 0), PROBE_S)
        except UserError as error:
            if "out of memory" in error.message.lower():  # not the kernel's fault
                raise
            return error.message.removeprefix(f"measuring {model.path}").lstrip(": ")[:160]
        return ""

    return run


def merge(
    files: Mapping[str, dict[str, Any]], unsupported: Mapping[str, str]
) -> tuple[dict[str, dict[str, Any]], str]:
    """One file per variant, and in one string the variants of which no kernel runs.

    A variant's sections are those of the kernel that decodes fastest; `kernels` names it and, in one string, those
    that do not run; `kernel_NAME` has the figures of each.
    """
    merged: dict[str, dict[str, Any]] = {}
    for variant in dict.fromkeys(name.partition(AT)[0] for name in files):
        by_kernel = {
            name.partition(AT)[2]: file for name, file in files.items() if name.partition(AT)[0] == variant
        }
        if "" in by_kernel:
            merged[variant] = by_kernel[""]
            continue
        fastest = max(by_kernel, key=lambda kernel: by_kernel[kernel]["gpu"].get("decode_tokens_per_s", 0.0))
        about = {"fastest": fastest, "measured": ", ".join(by_kernel)}
        refused = [
            f"{name.partition(AT)[2]}: {why}"
            for name, why in unsupported.items()
            if name.partition(AT)[0] == variant
        ]
        if refused:
            about["unsupported"] = "; ".join(refused)
        figures = {f"kernel_{kernel}": _figures(file) for kernel, file in by_kernel.items()}
        merged[variant] = {**by_kernel[fastest], "kernels": about, **figures}
    missing = {name: why for name, why in unsupported.items() if name.partition(AT)[0] not in merged}
    return merged, "; ".join(f"{name}: {why}" for name, why in missing.items())


def _figures(file: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of one kernel as one section; those of a batch start with its section's name."""
    speeds = {name: value for name, value in file["gpu"].items() if name.startswith(SPEEDS)}
    figures = {"kernel": file["engine"]["kernel"], "graphs": file["engine"].get("graphs", "none"), **speeds}
    for section, values in file.items():
        if section == "energy" or section.startswith("batch_"):
            prefix = "" if section == "energy" else f"{section}_"
            figures |= {f"{prefix}{name}": values[name] for name in BATCHED if name in values}
    accuracy = file.get("accuracy", {})
    return figures | {name: accuracy[name] for name in ACCURACY if name in accuracy}


def merge_rounds(
    rounds: Sequence[tuple[int, str, str, float]], files: Mapping[str, Mapping[str, Any]]
) -> list[tuple[int, str, str, float]]:
    """The figures of rounds under the keys of the merged files."""
    merged = []
    for round, name, key, value in rounds:
        variant, _, kernel = name.partition(AT)
        if not kernel or kernel == files[variant]["kernels"]["fastest"]:
            merged.append((round, variant, key, value))
        if kernel:
            section, _, metric = key.partition(".")
            inner = metric if section in ("gpu", "energy") else f"{section}_{metric}"
            if inner in files[variant][f"kernel_{kernel}"]:
                merged.append((round, variant, f"kernel_{kernel}.{inner}", value))
    return merged
