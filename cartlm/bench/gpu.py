"""The CUDA card that is measured: its name, its fingerprint, its models, and which GPTQ kernels run on it.

A GPTQ model is measured as VARIANT@KERNEL; the kernels of a variant then share one metrics file.
Every format in transformers has the same cache of fixed size and the same CUDA graphs, so that a ratio compares bits
and kernels only.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from cartlm.bench import energy, memory, runner
from cartlm.bench.plan import Model, Plan, Target
from cartlm.errors import UserError
from cartlm.system import cuda_driver, machine, meters

KERNELS = ("marlin", "machete", "exllama_v2", "triton", "torch")
"""GPTQ kernels that are tried on a card, by the names of cartlm.engines.gptq."""
PROBE_S = 420.0  # a kernel that is compiled at its first use takes minutes
AT = "@"
File = dict[str, dict[str, Any]]  # the sections of a metrics file
FIGURES = re.compile(
    r"gpu\.(prefill_tokens|decode_tokens|latency_ms_p50|vram_|spread)\w*|energy\.energy_j_per_(token|query)"
    r"|accuracy\.(exact_match\w*|n_accuracy)"
    r"|batch_\d+\.((decode|prefill)_tokens_per_s|energy_j_per_(token|query))"
)
"""The figures of each kernel, by dotted key."""


def require_cuda(card: str | None = None) -> dict[str, Any]:
    """The card's details by NVML and torch. Raises UserError without CUDA, or for another card than `card`.

    `card` is a word of the card's name, such as t4, h100 or h200, and the name of its metrics folder.
    """
    import torch

    if not torch.cuda.is_available():
        try:
            why = cuda_driver.check(torch.__version__, torch.version.cuda)
        except UserError as error:
            why = error.message
        raise UserError(f"torch has no CUDA card here: {why}", "the CPU target runs here: dvc repro")
    name = torch.cuda.get_device_name(0)
    if card is not None and card not in re.split(r"\W+", name.lower()):
        raise UserError(
            f"gpu.card is {card}, but this card is {name}",
            f"set gpu.card to {short_name(name)} in params.yaml",
        )
    major, minor = torch.cuda.get_device_capability(0)
    details: dict[str, Any] = {
        "gpu": name, "gpu_compute_capability": f"{major}.{minor}", "torch_cuda": str(torch.version.cuda),
    }  # fmt: skip
    with suppress(UserError):
        details["nvml_index"] = memory.card_index()
    return machine.card(details.get("nvml_index", 0)) | details


def short_name(name: str) -> str:
    """The word that identifies a card: h100 of "NVIDIA H100 80GB HBM3", t4 of "Tesla T4"."""
    words = [word for word in re.split(r"\W+", name.lower()) if re.search(r"\d", word)]
    models = [word for word in words if re.fullmatch(r"[a-z]{1,3}\d+[a-z]*|\d{4}", word)]
    return (models or words or ["gpu"])[0]


def fingerprint(card: Mapping[str, Any]) -> dict[str, str]:
    """The `machine` section of a card's files: its name, driver, power limit and runtime, and a hash of them.

    The machine around it counts too: its CPU launches the kernels.
    """
    parts = [
        card["gpu"], f"{card['gpu_power_limit_w']:.0f} W" if card.get("gpu_power_limit_w") else "",
        f"driver {card['gpu_driver']}" if "gpu_driver" in card else "", f"CUDA {card.get('torch_cuda')}",
        machine.fingerprint()["name"],
    ]  # fmt: skip
    name = ", ".join(filter(None, parts))
    return {"name": name, "hash": hashlib.sha256(name.encode()).hexdigest()[:12]}


def target(card: Mapping[str, Any] | None, details: Mapping[str, Any] | None = None) -> Target:
    """The card of `require_cuda`, or, to try a script, the CPU in its place (None)."""
    if card is None:
        return Target("gpu", machine.fingerprint(), None, meters.available())
    index = card.get("nvml_index")
    meter = None if index is None else partial(energy.Meter, gpu=index)
    about = {**meters.available(gpu=index or 0), **card, **(details or {})}
    return Target("gpu", fingerprint(card), meter, about)


def gguf(files: Mapping[str, Path]) -> dict[str, Model]:
    """GGUF files in llama.cpp with all layers on the card; none where it was built without CUDA."""
    from cartlm.engines import llama_cpp

    if not llama_cpp.offloads():
        return {}
    return {name: Model(path, device="cuda") for name, path in files.items()}


def models(
    plain: Mapping[str, Model],
    gptq: Mapping[str, Model],
    kernels: Sequence[str],
    probe: Callable[[Model], str],
) -> tuple[dict[str, Model], dict[str, str]]:
    """The models to measure, GPTQ variants once per kernel, and the kernels that do not run here with the reason.

    `probe` returns why a model does not run, or an empty text. Raises UserError where nothing runs.
    """
    candidates = dict(plain) | {
        f"{variant}{AT}{kernel}": replace(model, kernel=kernel)
        for variant, model in gptq.items()
        for kernel in kernels
    }
    reasons = {name: why for name, model in candidates.items() if (why := probe(model))}
    if len(reasons) == len(candidates):
        raise UserError(f"nothing runs on this card: {next(iter(reasons.values()))}", "cartlm check-gpu")
    return {name: model for name, model in candidates.items() if name not in reasons}, reasons


def probe(plan: Plan, prompt: Any, model: Model) -> str:
    """Why a query of two tokens in a fresh process fails, or an empty text."""
    runner.require([model])
    short = replace(plan, max_new_tokens=2, warmup_tokens=2, warmups=0, queries=1, batches=())
    try:
        runner.run_worker(short.job(model, "queries", [prompt], 0), PROBE_S)
    except UserError as error:
        if "out of memory" in error.message.lower():  # not the kernel's fault
            raise
        return error.message.removeprefix(f"measuring {model.path}").lstrip(": ")[:160]
    return ""


def merge(
    files: Mapping[str, File], unsupported: Mapping[str, str], like: Mapping[str, File] | None = None
) -> tuple[dict[str, File], str]:
    """One file per variant, and in one string the variants of which no kernel runs.

    A variant's sections are those of the kernel that decodes fastest, or that is the fastest in the merged files `like`.
    `kernels` names it and, in one string, those that do not run; `kernel_NAME` has the figures of each.
    """
    kernels: dict[str, dict[str, File]] = defaultdict(dict)
    for name, file in files.items():
        variant, _, kernel = name.partition(AT)
        kernels[variant][kernel] = file
    merged = {}
    for variant, by_kernel in kernels.items():
        if "" in by_kernel:  # not GPTQ
            merged[variant] = by_kernel[""]
            continue
        speeds = {kernel: file["gpu"].get("decode_tokens_per_s", 0.0) for kernel, file in by_kernel.items()}
        fastest = like[variant]["kernels"]["fastest"] if like else max(speeds, key=speeds.__getitem__)
        prefix = f"{variant}{AT}"
        refused = "; ".join(
            f"{name.removeprefix(prefix)}: {why}"
            for name, why in unsupported.items()
            if name.startswith(prefix)
        )
        about = {"fastest": fastest, "measured": ", ".join(by_kernel)}
        about |= {"unsupported": refused} if refused else {}
        figures = {f"kernel_{kernel}": _figures(file) for kernel, file in by_kernel.items()}
        merged[variant] = {**by_kernel[fastest], "kernels": about, **figures}
    missing = [f"{name}: {why}" for name, why in unsupported.items() if name.partition(AT)[0] not in merged]
    return merged, "; ".join(missing)


def _figures(file: File) -> dict[str, Any]:
    """The figures of one kernel as one section; those of a batch start with its section's name."""
    figures = {"kernel": file["engine"]["kernel"], "graphs": file["engine"].get("graphs", "none")}
    for section, values in file.items():
        named = f"{section}_" if section.startswith("batch_") else ""
        figures |= {
            f"{named}{name}": values[name] for name in values if FIGURES.fullmatch(f"{section}.{name}")
        }
    return figures
