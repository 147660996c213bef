"""GPTQ (arXiv 2210.17323) by gptqmodel, and what a checkpoint holds, tensor by tensor.

A checkpoint is a folder in hub layout: model.safetensors with qweight, qzeros, scales and g_idx in place of each
quantized weight, config.json with its `quantization_config`, and the same as quantize_config.json, as auto-gptq wrote
it. Embeddings, norms and the output stay in 16 bits; a tied output is not written again.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cartlm.engines import model_dir
from cartlm.engines.tensor_groups import bytes_by_group
from cartlm.errors import UserError
from cartlm.files import MIB, replacing
from cartlm.quantization.config import Gptq
from cartlm.system import processes

PACKED = ("qweight", "qzeros", "scales", "g_idx")
BATCH_TOKENS = 4096  # of calibration rows that are computed together
FAILURE = r"(?m)^[\w.]*(?:Error|Exception|Interrupt): .+$"


def quantize(
    source: Path, target: Path, settings: Gptq, rows: Sequence[Sequence[int]], *, device: str, threads: int,
    runs: Path,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Quantize the model folder `source` into `target`, calibrated on `rows` (token ids as in training).

    Returns `metrics_sections`. `device` is "cpu" or "cuda". gptqmodel's output goes to `runs`/log, its checkpoint after
    each layer to `runs`, so that a killed run goes on. Raises UserError for a model that is missing or does not quantize, OSError on a full
    disk; `target` is replaced at the end and untouched by a failure.
    """
    job = {
        **settings.model_dump(), "source": str(source.resolve()), "rows": rows, "device": device, "threads": threads,
        "batch_size": max(1, BATCH_TOKENS // max(map(len, rows))),
    }  # fmt: skip
    files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(source.iterdir())]
    environ = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "120"}
    environ["GPTQMODEL_CPU_WORKERS"] = str(max(2, threads))  # with one it does not start
    if device == "cpu":
        environ["CUDA_VISIBLE_DEVICES"] = ""  # it may see no card
    kept = runs / hashlib.sha256(f"{job}{files}{versions()}".encode()).hexdigest()[:16]
    for other in runs.glob("*/"):
        if other != kept:  # of other settings, rows or weights
            shutil.rmtree(other, ignore_errors=True)
    with replacing(target, folder=True) as new:
        raw = kept / "made"
        shutil.rmtree(raw, ignore_errors=True)
        kept.mkdir(parents=True, exist_ok=True)
        (kept / "job.json").write_text(json.dumps(job), encoding="utf-8")
        processes.run_logged(
            [sys.executable, "-m", "cartlm.quantization.gptq_worker", kept / "job.json"],
            log=runs / "log", writes=target, environ=environ, reason=FAILURE,
            hint=f"see {runs / 'log'}, then dvc repro quantize-gptq@{target.name}",
        )  # fmt: skip
        _write_checkpoint(source, raw, new)
        metrics = metrics_sections(source, new, settings, rows, _read_losses(raw / "quant_log.csv"))
    shutil.rmtree(kept, ignore_errors=True)
    return metrics


def uneven_groups(source: Path, group_size: int) -> str | None:
    """What to know where `group_size` does not divide the width of each matrix of the model folder `source`; else None.

    gptqmodel then makes the last group shorter, which its torch kernel and Triton compute, and no other.
    """
    tensors = model_dir.weights(source).tensors.items()
    widths = sorted({tensor.shape[1] for name, tensor in tensors if "_proj.weight" in name})
    odd = [width for width in widths if group_size > 0 and width % group_size]
    if not odd:
        return None
    fitting = [str(size) for size in (256, 128, 64, 32, 16) if not any(width % size for width in widths)]
    advice = (
        f"group_size {' or '.join(fitting)} divides all widths"
        if fitting
        else "no group_size divides all widths"
    )
    return (
        f"{group_size} does not divide {odd[0]}: Marlin, Machete and ExLlamaV2 refuse such a matrix; {advice}"
    )


def versions() -> str:
    """The installed versions of the packages that compute."""
    return ", ".join(f"{name} {version(name)}" for name in ("gptqmodel", "torch", "transformers"))


def _write_checkpoint(source: Path, raw: Path, new: Path) -> None:
    """Write gptqmodel's checkpoint `raw` to `new` in 16 bits, without what differs from run to run.

    gptqmodel writes float32 scales after computing in float32, turns sampling on in the generation config, and names
    folders of this machine. Tokenizer and generation config are those of the source.
    """
    import torch
    from safetensors.torch import load_file, save_file

    config, source_config = (model_dir.read_json(folder / "config.json") for folder in (raw, source))
    dtype = source_config.get("dtype") or source_config.get("torch_dtype") or "float16"
    how = config["quantization_config"]
    for name in ("offload_to_disk", "offload_to_disk_path"):
        how["meta"].pop(name, None)
    config["dtype"] = dtype
    model_dir.write_json(new / "config.json", config, sort_keys=True)
    model_dir.write_json(new / "quantize_config.json", how, sort_keys=True)
    for path in sorted(raw.glob("*.safetensors")):
        tensors = {
            name: tensor.to(getattr(torch, dtype)) if tensor.is_floating_point() else tensor
            for name, tensor in sorted(load_file(path).items())
        }
        save_file(tensors, new / path.name, metadata={"format": "pt"})
    model_dir.copy(raw, new, (model_dir.INDEX,))
    model_dir.copy(source, new, (*model_dir.TOKENIZER, "generation_config.json"))


def _read_losses(path: Path) -> dict[str, float]:
    """`layer_0_q_proj` -> loss, from gptqmodel's log; a matrix quantized without calibration has none."""
    losses: dict[tuple[int, str], float] = {}
    with path.open(encoding="utf-8") as file:
        for line in csv.DictReader(file):
            with suppress(ValueError):
                losses[int(line["layer"]), line["module"].split(".")[-1]] = float(line["loss"])
    return {f"layer_{layer}_{module}": loss for (layer, module), loss in sorted(losses.items())}


def metrics_sections(
    source: Path, folder: Path, settings: Gptq, rows: Sequence[Sequence[int]], losses: Mapping[str, float]
) -> dict[str, dict[str, Any]]:
    """The metrics of the checkpoint in `folder`: `quantize`, `bytes` and `loss`.

    `quantize` has settings, size, hash, and `bits_per_weight`, all tensors' bits over all weights that they stand for.
    `bytes`, by tensor group, add up to the files' size. `loss` is GPTQ's error of each quantized matrix: mean squared,
    weighted by the Hessian. Raises UserError unless the checkpoint is whole and holds every matrix of `source` once,
    packed or as it was.
    """
    hint = f"rm -r {folder}, then dvc repro quantize-gptq@{folder.name}"
    files = sorted(folder.glob("*.safetensors"))
    tensors = model_dir.read_headers(folder, [path.name for path in files], hint)
    quantized = [name for name in tensors if name.endswith(".qweight")]
    if not quantized:
        raise UserError(f"{folder} holds no quantized weight", hint)
    given, made = (
        {name.rpartition(".")[0] for name in names} for names in (model_dir.weights(source).tensors, tensors)
    )
    if missing := sorted(given - made):
        raise UserError(f"gptqmodel left out {len(missing)} tensors such as {missing[0]}", f"check {source}")
    if "lm_head" in made - given:
        raise UserError("gptqmodel wrote the tied output a second time", f"check {source}/config.json")
    # qweight is [inputs * bits / 32, outputs]
    packed = sum(tensors[name].parameters * 32 // settings.bits for name in quantized)
    plain = sum(tensor.parameters for name, tensor in tensors.items() if name.split(".")[-1] not in PACKED)
    groups = bytes_by_group((name, tensor.bytes) for name, tensor in tensors.items())
    digest, size = hashlib.sha256(), sum(path.stat().st_size for path in files)
    for path in files:
        digest.update(path.read_bytes())
    return {
        "quantize": {
            "type": f"GPTQ int{settings.bits} {'channel' if settings.group_size == -1 else f'g{settings.group_size}'}",
            **settings.model_dump(),
            "calibration_rows": len(rows),
            "calibration_tokens": sum(map(len, rows)),
            "sha256": digest.hexdigest(),
            "size_mib": size / MIB,
            "bits_per_weight": 8 * sum(groups.values()) / (packed + plain),
            "parameters": packed + plain,
            "quantized_matrices": len(quantized),
            "loss_mean": sum(losses.values()) / len(losses),
            "loss_max": max(losses.values()),
        },
        "bytes": {**groups, "header": size - sum(groups.values())},
        "loss": dict(losses),
    }
