"""GPTQ (arXiv 2210.17323) by gptqmodel, the successor of auto-gptq; what a checkpoint holds, tensor by tensor.

A checkpoint is a folder in hub layout: model.safetensors with qweight, qzeros, scales and g_idx in the place of each
quantized weight, config.json with its `quantization_config`, and the same once more as quantize_config.json, as
auto-gptq wrote it. Embeddings, norms and the output stay in 16 bits; an output that is tied is not written again.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cartlm.engines import model_dir
from cartlm.engines.tensor_groups import bytes_by_group
from cartlm.errors import UserError
from cartlm.files import MIB, replacing
from cartlm.system import processes

PACKED = ("qweight", "qzeros", "scales", "g_idx")
BATCH_TOKENS = 4096  # of calibration rows that are computed together
FAILURE = r"(?m)^[\w.]*(?:Error|Exception|Interrupt): .+$"


@dataclass(frozen=True)
class Settings:
    """How to quantize; names as in params.yaml. `group_size` -1 is one group a row."""

    bits: int
    group_size: int
    symmetric: bool
    act_order: bool  # columns in the order of their activations (desc_act): finer, slower to run
    damp: float  # share of the mean diagonal added to the Hessian


@dataclass(frozen=True)
class Contents:
    """What a checkpoint holds. Bytes; `bytes_by_group` and `header_bytes` add up to the files' size."""

    size_bytes: int
    header_bytes: int
    parameters: int  # of the model, however they are stored
    bytes_by_group: dict[str, int]
    quantized: int  # matrices
    losses: dict[
        str, float
    ]  # GPTQ's own error of each quantized matrix: mean squared, weighted by the Hessian

    @property
    def bits_per_weight(self) -> float:
        """All tensors' bits over all weights they stand for."""
        return 8 * sum(self.bytes_by_group.values()) / self.parameters


def quantize(
    source: Path, target: Path, settings: Settings, rows: Sequence[Sequence[int]], *, device: str, threads: int,
    runs: Path,
) -> Contents:  # fmt: skip
    """Quantize the model folder `source` into `target`, calibrated on `rows` (token ids as in training).

    `device` is "cpu" or "cuda". What gptqmodel says goes to `runs`/log; its checkpoint after each layer lies there
    too, so that a killed run goes on. Raises UserError for a model that is missing or does not quantize, OSError on a
    full disk; `target` is replaced at the end and untouched by a failure.
    """
    if not (source / "config.json").is_file():
        raise FileNotFoundError(2, "No such file", str(source / "config.json"))
    runs.mkdir(parents=True, exist_ok=True)
    longest = max(map(len, rows))
    job = {
        **asdict(settings), "source": str(source), "rows": [list(row) for row in rows], "device": device,
        "threads": threads, "batch_size": max(1, BATCH_TOKENS // longest),
    }  # fmt: skip
    kept = runs / hashlib.sha256(f"{job}{_files(source)}{versions()}".encode()).hexdigest()[:16]
    for other in runs.glob("*/"):
        if other != kept:  # of other settings, rows or weights
            shutil.rmtree(other, ignore_errors=True)
    with replacing(target, folder=True) as new:
        made = kept / "made"
        shutil.rmtree(made, ignore_errors=True)
        kept.mkdir(exist_ok=True)
        paths = {
            "source": source,
            "target": made,
            "offload": kept / "offload",
            "checkpoint": kept / "checkpoint",
        }
        job |= {name: str(path.resolve()) for name, path in paths.items()}
        (kept / "job.json").write_text(json.dumps(job), encoding="utf-8")
        processes.run_logged(
            [sys.executable, "-m", "cartlm.quantization.gptq_worker", kept / "job.json"],
            log=runs / "log", writes=target, environ=_environment(device, threads), reason=FAILURE,
            hint=f"see {runs / 'log'}, then dvc repro quantize-gptq@{target.name}",
        )  # fmt: skip
        _tidy(source, made, new)
        found = contents(new, _losses(made / "quant_log.csv"))
        _complete(source, new, found)
    shutil.rmtree(kept, ignore_errors=True)
    return found


def versions() -> dict[str, str]:
    """Of what computes; as installed, nothing heavy imported."""
    from importlib.metadata import version

    return {name: version(name) for name in ("gptqmodel", "torch", "transformers")}


def _environment(device: str, threads: int) -> dict[str, str]:
    """The worker's: gptqmodel wants two CPU workers to start at all, and no card where the CPU is asked for."""
    more = {"GPTQMODEL_CPU_WORKERS": str(max(2, threads)), "HF_HUB_OFFLINE": "1", "COLUMNS": "120"}
    return {**os.environ, **more, **({} if device.startswith("cuda") else {"CUDA_VISIBLE_DEVICES": ""})}


def _files(folder: Path) -> list[tuple[str, int, int]]:
    stats = [(path.name, path.stat()) for path in sorted(folder.iterdir())]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def _tidy(source: Path, made: Path, new: Path) -> None:
    """Copy what gptqmodel made into `new`, in 16 bits and without what differs from run to run.

    It writes float32 scales after computing in float32, turns sampling on in the generation config, and names the
    folders of this machine. Tokenizer and generation config are those of the source.
    """
    import torch
    from safetensors.torch import load_file, save_file

    config = json.loads((made / "config.json").read_text(encoding="utf-8"))
    given = json.loads((source / "config.json").read_text(encoding="utf-8"))
    dtype = given.get("dtype") or given.get("torch_dtype") or "float16"
    how = config["quantization_config"]
    for name in ("offload_to_disk", "offload_to_disk_path"):
        how["meta"].pop(name, None)
    config["dtype"] = dtype
    for name, value in (("config.json", config), ("quantize_config.json", how)):
        (new / name).write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for path in sorted(made.glob("*.safetensors")):
        tensors = {
            name: tensor.to(getattr(torch, dtype)) if tensor.is_floating_point() else tensor
            for name, tensor in sorted(load_file(path).items())
        }
        save_file(tensors, new / path.name, metadata={"format": "pt"})
    index = made / "model.safetensors.index.json"
    if index.exists():
        shutil.copyfile(index, new / index.name)
    model_dir.copy(source, new, (*model_dir.TOKENIZER, "generation_config.json"))


def _losses(path: Path) -> dict[str, float]:
    """`layer_0_q_proj` -> loss, from gptqmodel's log; a matrix that it quantized without calibration has none."""
    found = {}
    with path.open(encoding="utf-8") as file:
        for line in csv.DictReader(file):
            try:
                found[f"layer_{int(line['layer'])}_{line['module'].split('.')[-1]}"] = float(line["loss"])
            except ValueError:
                continue
    return dict(sorted(found.items(), key=lambda item: (int(item[0].split("_")[1]), item[0])))


def contents(folder: Path, losses: Mapping[str, float] | None = None) -> Contents:
    """What the checkpoint in `folder` holds, headers read, tensors untouched. Raises UserError for a broken one."""
    from safetensors import SafetensorError, safe_open

    hint = f"rm -r {folder}, then dvc repro quantize-gptq@{folder.name}"
    sizes: dict[str, int] = {}
    shapes: dict[str, list[int]] = {}
    size = 0
    widths = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1}
    try:
        bits = json.loads((folder / "config.json").read_text(encoding="utf-8"))["quantization_config"]["bits"]
        files = sorted(folder.glob("*.safetensors"))
        for path in files:
            size += path.stat().st_size
            with safe_open(path, framework="numpy") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - not a mapping
                    part = tensors.get_slice(name)
                    shapes[name] = part.get_shape()
                    sizes[name] = math.prod(shapes[name]) * widths[part.get_dtype()]
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{folder} is not a whole GPTQ checkpoint ({error})", hint) from None
    quantized = [name for name in shapes if name.endswith(".qweight")]
    if not quantized:
        raise UserError(f"{folder} holds no quantized weight", hint)
    # qweight is [inputs * bits / 32, outputs]
    weights = sum(shapes[name][0] * 32 // bits * shapes[name][1] for name in quantized)
    others = sum(math.prod(shape) for name, shape in shapes.items() if name.split(".")[-1] not in PACKED)
    return Contents(
        size_bytes=size,
        header_bytes=size - sum(sizes.values()),
        parameters=weights + others,
        bytes_by_group=bytes_by_group(sizes.items()),
        quantized=len(quantized),
        losses=dict(losses or {}),
    )


def _complete(source: Path, folder: Path, found: Contents) -> None:
    """Stop unless every matrix of the source is there once, in the packed form or as it was. Raises UserError."""
    from safetensors import safe_open

    def names(where: Path) -> set[str]:
        listed: set[str] = set()
        for path in where.glob("*.safetensors"):
            with safe_open(path, framework="numpy") as tensors:
                listed |= {name.rpartition(".")[0] for name in tensors.keys()}  # noqa: SIM118
        return listed

    if missing := sorted(names(source) - names(folder)):
        raise UserError(f"gptqmodel left out {len(missing)} tensors such as {missing[0]}", f"check {source}")
    if "output" in found.bytes_by_group and "lm_head" not in names(source):
        raise UserError("gptqmodel wrote the tied output a second time", f"check {source}/config.json")


def sections(
    found: Contents, folder: Path, settings: Settings, rows: Sequence[Sequence[int]]
) -> dict[str, dict[str, Any]]:
    """The metrics of a checkpoint: `quantize` (how, size, hash), `bytes` by tensor group, `loss` of each matrix."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(path.read_bytes())
    losses = list(found.losses.values())
    size = "channel" if settings.group_size == -1 else f"g{settings.group_size}"
    return {
        "quantize": {
            "type": f"GPTQ int{settings.bits} {size}",
            **asdict(settings),
            "calibration_rows": len(rows),
            "calibration_tokens": sum(map(len, rows)),
            "sha256": digest.hexdigest(),
            "size_mib": found.size_bytes / MIB,
            "bits_per_weight": found.bits_per_weight,
            "parameters": found.parameters,
            "quantized_matrices": found.quantized,
            "loss_mean": sum(losses) / len(losses),
            "loss_max": max(losses),
        },
        "bytes": {**found.bytes_by_group, "header": found.header_bytes},
        "loss": found.losses,
    }
