"""Tables of what other pipeline files measured: architectures with random weights on a CPU, and CUDA cards."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cartlm.metrics import read_metrics
from cartlm.report import cells

CPU = (
    "variant", "size_mib", "prefill_tokens_per_s", "decode_tokens_per_s", "latency_ms_p50", "load_s",
    "load_peak_rss_mib", "run_peak_rss_mib",
)  # fmt: skip
CARD = (
    "variant", "size_mib", "exact_match", "prefill_tokens_per_s", "decode_tokens_per_s", "over",
    "batch_decode_tokens_per_s", "latency_ms_p50", "vram_run_allocated_mib", "vram_run_used_mib", "energy_j_per_token",
)  # fmt: skip
DECODE = "decode_tokens_per_s"
FP16 = ("merged", "float16")
"""The unquantized model in FP16, of the main graph and of an architecture with random weights."""


def sections(metrics: Path) -> list[str]:
    """Markdown of every measured architecture and card, in the order of their names."""
    folders = sorted(path for path in (metrics / "bench").glob("*") if path.is_dir())
    architectures = [architecture(folder) for folder in folders if folder.name.startswith("cpu-")]
    return [text for text in [*architectures, *map(card, folders)] if text]


def measurements(folder: Path, section: str) -> dict[str, dict[str, Any]]:
    """The files of a folder of metrics/bench/ that have the section, by variant; not the reference model's."""
    files = {path.stem: read_metrics(path) for path in sorted(folder.glob("*.json"))}
    return {name: file for name, file in files.items() if section in file and name != "reference"}


def machine_names(files: Mapping[str, Mapping[str, Any]]) -> str:
    return " and ".join(sorted({file["machine"]["name"] for file in files.values()}))


def architecture(folder: Path) -> str:
    """An architecture's table; an empty text where nothing was measured."""
    files = measurements(folder, "cpu")
    if not files:
        return ""
    main = {file["machine"]["hash"] for file in measurements(folder.with_name("cpu"), "cpu").values()}
    same = not main or any(file["machine"]["hash"] in main for file in files.values())
    other = "" if same else ", another machine than that of the [main tables](results.md)"
    first = next(iter(files.values()))["cpu"]
    parts = [
        f"## {folder.name.removeprefix('cpu-')} with random weights",
        f"One query at a time of {cells.number(first['prompt_tokens_per_query'])} prompt and "
        f"{cells.number(first['decoded_tokens_per_query'])} new tokens on average, on {machine_names(files)}{other}.",
        cells.markdown(CPU, [{"variant": name, **files[name]["cpu"]} for name in sorted(files, key=by_bits)]),
    ]
    ratios = []
    for phase in ("prefill", "decode"):
        key = f"{phase}_ratio"
        if values := [file["harness"][key] for file in files.values() if key in file.get("harness", {})]:
            ratios.append(f"{phase} {min(values):.2f} to {max(values):.2f}")
    if ratios:
        what = "Our engine's speed over llama-bench's, for the same file, threads and lengths"
        parts.append(f"{what}: {', '.join(ratios)}.")
    return "\n\n".join(parts)


def by_bits(variant: str) -> tuple[bool, int, str]:
    """transformers first, then f16, then the quantized types from many bits to few."""
    if variant.startswith("transformers"):
        return False, 0, variant
    bits = 16 if variant == "f16" else next(int(letter) for letter in variant if letter.isdigit())
    return True, -bits, variant


def card(folder: Path) -> str:
    """A card's table; an empty text for a folder of another kind."""
    files = measurements(folder, "gpu")
    if not files:
        return ""
    rows = {name: row for variant, file in files.items() for name, row in card_rows(variant, file).items()}
    base = next((rows[name].get(DECODE) for name in FP16 if name in rows), None)
    for row in rows.values():
        if base and row.get(DECODE):
            row["over"] = f"{row[DECODE] / base:.2f}x"
    shown = [rows[name] for name in sorted(rows, key=lambda name: (name not in FP16, name))]
    used = [key for key in CARD if any(row.get(key) is not None for row in shown)]
    about = f"One query at a time, on {machine_names(files)}."
    parts = [f"## {folder.name}", about, cells.markdown(used, shown)]
    refused = {variant: file.get("kernels", {}).get("unsupported") for variant, file in files.items()}
    if reasons := [f"{variant}: {why}." for variant, why in refused.items() if why]:
        parts.append(f"Does not run there: {' '.join(reasons)}")
    return "\n\n".join(parts)


def card_rows(variant: str, file: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By name, a row a kernel for a variant that has kernels, else one; with the decode speed of the largest batch."""
    kernels = [section for section in file if section.startswith("kernel_")]
    rows = {f"{variant}, {section.removeprefix('kernel_')}": {**file[section]} for section in kernels}
    if not kernels:
        batches = [name for name in file if name.startswith("batch_") and DECODE in file[name]]
        speeds = {f"{name}_{DECODE}": file[name][DECODE] for name in batches}
        rows = {variant: {**file["gpu"], **file.get("energy", {}), **file.get("accuracy", {}), **speeds}}
    for name, row in rows.items():
        row |= {"variant": name, "size_mib": file["gpu"].get("size_mib")}
        row[f"batch_{DECODE}"] = largest_batch(row)
    return rows


def largest_batch(row: Mapping[str, Any]) -> float | None:
    """The decode speed of the largest batch."""
    batches = [key for key in row if re.fullmatch(rf"batch_\d+_{DECODE}", key)]
    return row.get(max(batches, key=lambda key: int(key.split("_")[1]), default=""))
