"""The benchmark of a CUDA card: speed, memory, energy and accuracy of every format, GPTQ kernel by kernel.

Rounds, fresh processes and statistics are those of the CPU benchmark (bench, repetitions). Every format in
transformers has the same cache of fixed size and the same CUDA graphs, so that a ratio compares bits and kernels only.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cartlm.bench import aggregate, energy, publish, vram
from cartlm.bench import plan as bench
from cartlm.bench.plan import Model, Plan, Record
from cartlm.errors import UserError
from cartlm.evaluation.statistics import wilson
from cartlm.system import cuda_driver, machine

KERNELS = ("marlin", "machete", "exllama_v2", "triton", "torch")
"""GPTQ kernels that are tried on a card, by the names of cartlm.engines.gptq."""
PROBE_S = 420.0  # a kernel that is compiled at its first use takes minutes
SHORT = ("prefill_tokens", "decode_tokens", "latency_ms_p50", "vram_", "spread")
AT = "@"  # between a variant and its kernel, in the names of what is measured


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
            f"gpu.card is {card}, but this card is {name}", f"set gpu.card to {slug(name)} in params.yaml"
        )
    major, minor = torch.cuda.get_device_capability(0)
    try:
        index: int | None = vram.card_index()
    except UserError:
        index = None
    return {
        **machine.card(index or 0), "gpu": name, "gpu_compute_capability": f"{major}.{minor}",
        "torch_cuda": str(torch.version.cuda),
        **({} if index is None else {"nvml_index": index}),
    }  # fmt: skip


def slug(name: str) -> str:
    """The word of a card's name that tells it: "NVIDIA H100 80GB HBM3" is h100, "Tesla T4" t4."""
    words = [word for word in re.split(r"\W+", name.lower()) if re.search(r"\d", word)]
    models = [word for word in words if re.fullmatch(r"[a-z]{1,3}\d+[a-z]*|\d{4}", word)]
    return (models or words or ["gpu"])[0]


def fingerprint(card: Mapping[str, Any]) -> dict[str, str]:
    """The `machine` section of a card's files: its name, driver, power limit and runtime, and a hash of them.

    The machine around it counts too: its CPU launches the kernels.
    """
    live = machine.fingerprint()
    limit = card.get("gpu_power_limit_w")
    parts = [str(card["gpu"])] + ([f"{limit:.0f} W"] if limit else [])
    parts += [f"driver {card['gpu_driver']}"] if "gpu_driver" in card else []
    name = ", ".join([*parts, f"CUDA {card.get('torch_cuda')}", live["name"]])
    return {"name": name, "hash": hashlib.sha256(name.encode()).hexdigest()[:12]}


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
    return {name: Model(path, made_by="dvc repro", device="cuda") for name, path in files.items()}


def models(
    plain: Mapping[str, Model], gptq: Mapping[str, Path], device: str, dtype: str, kernels: Sequence[str],
    made_by: str, probe: Callable[[Model], str],
) -> tuple[dict[str, Model], dict[str, str]]:  # fmt: skip
    """What is measured, GPTQ variants once a kernel, and the kernels that do not run here with the reason.

    `probe` loads a model and lets it answer; it returns the reason of a failure, or an empty text. Raises UserError
    where nothing runs.
    """
    wanted = dict(plain)
    for variant, folder in gptq.items():
        for kernel in kernels:
            wanted[f"{variant}{AT}{kernel}"] = Model(
                folder, "transformers", dtype, made_by, device, kernel, fixed=True
            )
    reasons = {name: probe(model) for name, model in wanted.items()}
    found = {name: model for name, model in wanted.items() if not reasons[name]}
    if not found:
        raise UserError(f"nothing runs on this card: {next(iter(reasons.values()))}", "cartlm check-gpu")
    return found, {name: why for name, why in reasons.items() if why}


def probe(plan: Plan, prompt: Any) -> Callable[[Model], str]:
    """A `probe` for `models`: a query of two tokens in a fresh process."""
    short = replace(plan, max_new_tokens=2, warmup_tokens=2, warmups=0, queries=1, batches=())

    def run(model: Model) -> str:
        if not model.path.exists():
            raise UserError(f"{model.path} is missing", model.made_by)
        try:
            bench.work(bench.job(model, "queries", short, [prompt], 0), PROBE_S)
        except UserError as error:
            if "out of memory" in error.message.lower():  # says nothing about the kernel
                raise
            return error.message.removeprefix(f"measuring {model.path}").lstrip(": ")[:160]
        return ""

    return run


def run(
    folder: Path, raw: Path, models: Mapping[str, Model], unsupported: Mapping[str, str], prompts: Sequence[Any],
    plan: Plan, *, card: Mapping[str, Any] | None, max_spread: float, strict: bool,
    say: Callable[[str], None], command: str, more: Mapping[str, str] | None = None,
) -> int:  # fmt: skip
    """Measure and write `folder`; returns the number of measurements. `card`: `require_cuda`'s; None: on the CPU.

    Raises UserError as `publish.run`; what lies in `folder` is then untouched.
    """
    live = fingerprint(card) if card else machine.fingerprint()
    index = card.get("nvml_index") if card else None
    if warning := publish.same_machine(publish.committed(folder / "machine.json"), live, strict):
        say(warning)
    watts = aggregate.Watts(*(publish.idle_watts(index) if index is not None else (None, "")))
    records = bench.measure(
        models, prompts, plan, raw, say, about=live["hash"],
        more=lambda found: publish.unsteady(found, max_spread),
    )  # fmt: skip
    bench.close(raw)
    publish.refuse_unsteady(records, max_spread, command)
    made = files(models, unsupported, records, live, plan.seed, watts)
    details = {**machine.details(), **energy.available(gpu=index or 0).metrics(), **(card or {})}
    measured = {name.partition(AT)[0] for name in models}
    if gone := {name: why for name, why in unsupported.items() if name.partition(AT)[0] not in measured}:
        details["not_measured"] = "; ".join(f"{name}: {why}" for name, why in gone.items())
    details |= more or {}
    made["machine"] = {"machine": dict(live), "details": details}
    for name in publish.write(folder, made):
        say(f"removed {folder / name}, no longer measured")
    return sum(map(len, records.values()))


def files(
    models: Mapping[str, Model], unsupported: Mapping[str, str], records: Mapping[str, Sequence[Record]],
    live: Mapping[str, str], seed: int, watts: aggregate.Watts,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """The metrics file of each variant.

    Of a variant with kernels, the sections `gpu`, `energy`, `batch_N` and `accuracy` are those of the kernel that
    decodes fastest; `kernels` names it and, in one string, those that do not run; `kernel_NAME` has each one's figures.
    """
    found: dict[str, dict[str, Any]] = {}
    each: dict[str, dict[str, dict[str, Any]]] = {}
    for name, some in records.items():
        variant, _, kernel = name.partition(AT)
        made = {
            "machine": dict(live),
            "engine": aggregate.of("queries", some)[-1]["engine"],
            **sections(some, models[name].bytes, seed, watts),
        }
        if models[name].nf4:  # the file is that of the 16-bit model
            made["gpu"].pop("size_mib")
        if kernel:
            each.setdefault(variant, {})[kernel] = made
        else:
            found[variant] = made
    for variant, kernels in each.items():
        fastest = max(kernels, key=lambda one: kernels[one]["gpu"].get("decode_tokens_per_s", 0.0))
        refused = {
            name.partition(AT)[2]: why
            for name, why in unsupported.items()
            if name.partition(AT)[0] == variant
        }
        about = {"fastest": fastest, "measured": ", ".join(kernels)}
        if refused:
            about["unsupported"] = "; ".join(f"{kernel}: {why}" for kernel, why in refused.items())
        found[variant] = {**kernels[fastest], "kernels": about}
        for kernel, made in kernels.items():
            found[variant][f"kernel_{kernel}"] = _short(made)
    return found


def _short(made: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of one kernel in one section, those of batches with their section's name in front."""
    speeds = {name: value for name, value in made["gpu"].items() if name.startswith(SHORT)}
    flat = {"kernel": made["engine"]["kernel"], "graphs": made["engine"].get("graphs", "none"), **speeds}
    for section, values in made.items():
        if section == "energy" or section.startswith("batch_"):
            wanted = (
                "decode_tokens_per_s",
                "prefill_tokens_per_s",
                "energy_j_per_token",
                "energy_j_per_query",
            )
            names = {name: values[name] for name in wanted if name in values}
            front = "" if section == "energy" else f"{section}_"
            flat |= {f"{front}{name}": value for name, value in names.items()}
    return flat | {
        name: made["accuracy"][name]
        for name in ("exact_match", "exact_match_low", "exact_match_high", "n_accuracy")
        if name in made.get("accuracy", {})
    }


def sections(
    records: Sequence[Record], size_bytes: int, seed: int, watts: aggregate.Watts
) -> dict[str, dict[str, Any]]:
    """As repetitions.sections, the speeds under `gpu`, and a section a batch size and of accuracy."""
    made = aggregate.sections(records, size_bytes, seed, watts)
    found = {"gpu" if name == "cpu" else name: values for name, values in made.items()}
    if some := aggregate.of("batched", records):
        for size in some[0]["levels"]:
            found[f"batch_{size}"] = aggregate.batched(some, size, seed, watts)
    if some := aggregate.of("accuracy", records):
        right, n = some[-1]["exact"], some[-1]["n"]
        low, high = wilson(right, n)
        found["accuracy"] = {
            "exact_match": right / n, "exact_match_low": low, "exact_match_high": high, "n_accuracy": n,
            "batch_size": some[-1]["batch_size"],
        }  # fmt: skip
    return found
