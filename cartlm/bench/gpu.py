"""The CUDA card that is measured: its name, its fingerprint, and the models beside the GPTQ variants.

Every format in transformers has the same cache of fixed size and the same CUDA graphs, so that a ratio compares bits
and kernels only.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from cartlm.bench import energy, vram
from cartlm.bench.plan import Model
from cartlm.bench.publish import Target
from cartlm.errors import UserError
from cartlm.system import cuda_driver, machine, meters


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
    try:
        index = {"nvml_index": vram.card_index()}
    except UserError:
        index = {}
    return {
        **machine.card(index.get("nvml_index", 0)), "gpu": name, "gpu_compute_capability": f"{major}.{minor}",
        "torch_cuda": str(torch.version.cuda), **index,
    }  # fmt: skip


def short_name(name: str) -> str:
    """The word that identifies a card: h100 of "NVIDIA H100 80GB HBM3", t4 of "Tesla T4"."""
    words = [word for word in re.split(r"\W+", name.lower()) if re.search(r"\d", word)]
    models = [word for word in words if re.fullmatch(r"[a-z]{1,3}\d+[a-z]*|\d{4}", word)]
    return (models or words or ["gpu"])[0]


def fingerprint(card: Mapping[str, Any]) -> dict[str, str]:
    """The `machine` section of a card's files: its name, driver, power limit and runtime, and a hash of them.

    The machine around it counts too: its CPU launches the kernels.
    """
    limit = card.get("gpu_power_limit_w")
    parts = [str(card["gpu"])] + ([f"{limit:.0f} W"] if limit else [])
    parts += [f"driver {card['gpu_driver']}"] if "gpu_driver" in card else []
    name = ", ".join([*parts, f"CUDA {card.get('torch_cuda')}", machine.fingerprint()["name"]])
    return {"name": name, "hash": hashlib.sha256(name.encode()).hexdigest()[:12]}


def target(card: Mapping[str, Any] | None, details: Mapping[str, Any] | None = None) -> Target:
    """The card of `require_cuda`, or, to try a script, the CPU in its place (None)."""
    if card is None:
        return Target("gpu", machine.fingerprint(), None, meters.available())
    index = card.get("nvml_index")
    meter = None if index is None else partial(energy.Meter, gpu=index)
    about = {**meters.available(gpu=index or 0), **card, **(details or {})}
    return Target("gpu", fingerprint(card), meter, about)


def plain(folder: Path, device: str, made_by: str) -> dict[str, Model]:
    """The unquantized model in both 16-bit types, and quantized at load by bitsandbytes; the first is the paper's FP16."""
    half = Model(folder, "transformers", "float16", made_by, device, fixed=True)
    return {
        "merged": half,
        "merged-bfloat16": replace(half, dtype="bfloat16"),
        "merged-nf4": replace(half, nf4=True),
    }


def gguf(files: Mapping[str, Path]) -> dict[str, Model]:
    """GGUF files in llama.cpp with all layers on the card; none where it was built without CUDA."""
    from cartlm.engines import llama_cpp

    if not llama_cpp.offloads():
        return {}
    return {name: Model(path, device="cuda") for name, path in files.items()}
