"""Tables of what was measured on CUDA cards: one a folder of metrics/bench/ whose files have a section `gpu`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cartlm.report.architecture import measured
from cartlm.report.summary import number

COLUMNS = {
    "size_mib": "MiB",
    "exact_match": "exact match",
    "prefill_tokens_per_s": "prefill tok/s",
    "decode_tokens_per_s": "decode tok/s",
    "over": "decode over FP16",
    "batch_decode_tokens_per_s": "decode tok/s, largest batch",
    "latency_ms_p50": "p50 ms",
    "vram_run_allocated_mib": "VRAM allocated MiB",
    "vram_run_used_mib": "used MiB",
    "energy_j_per_token": "J/token",
}
BASELINES = ("merged", "float16")
"""The unquantized model in FP16, of the main graph and of an architecture with random weights."""


def blocks(metrics: Path) -> list[str]:
    """Markdown of each measured card, in the order of names."""
    folders = sorted(path for path in (metrics / "bench").glob("*") if path.is_dir())
    return [text for folder in folders if (text := block(folder))]


def block(folder: Path) -> str:
    """Markdown of one card; an empty text for a folder of another kind."""
    found = measured(folder, "gpu")
    if not found:
        return ""
    machines = " and ".join(sorted({file["machine"]["name"] for file in found.values()}))
    rows = {name: row for variant, file in found.items() for name, row in _rows(variant, file).items()}
    base = next((rows[name].get("decode_tokens_per_s") for name in BASELINES if name in rows), None)
    for row in rows.values():
        if base and row.get("decode_tokens_per_s"):
            row["over"] = row["decode_tokens_per_s"] / base
    used = [column for column in COLUMNS if any(row.get(column) is not None for row in rows.values())]
    lines = [
        "| variant | " + " | ".join(COLUMNS[column] for column in used) + " |",
        "|---|" + "---:|" * len(used),
    ]
    for name in sorted(rows, key=lambda one: (one not in BASELINES, one)):
        lines.append(f"| {name} | " + " | ".join(_shown(rows[name], column) for column in used) + " |")
    refused = [
        f"{variant}: {file['kernels']['unsupported']}."
        for variant, file in found.items()
        if "unsupported" in file.get("kernels", {})
    ]
    parts = [f"{folder.name}, one query at a time: {machines}.", "\n".join(lines)]
    return "\n\n".join([*parts, *(["Does not run there: " + " ".join(refused)] if refused else [])])


def _rows(variant: str, file: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """A row a kernel of a variant that has some, else one."""
    kernels = {name.removeprefix("kernel_"): file[name] for name in file if name.startswith("kernel_")}
    size = {"size_mib": file["gpu"].get("size_mib")}
    if kernels:
        return {f"{variant}, {name}": {**size, **_batch(values)} for name, values in kernels.items()}
    batches = {
        f"{section}_{name}": value
        for section, values in file.items()
        if section.startswith("batch_")
        for name, value in values.items()
    }
    shared = {**file["gpu"], **file.get("energy", {}), **file.get("accuracy", {}), **batches}
    return {variant: {**size, **_batch(shared)}}


def _batch(values: Mapping[str, Any]) -> dict[str, Any]:
    """With the decode speed of the largest batch under a name of its own."""
    suffix = "_decode_tokens_per_s"
    sizes = [name for name in values if name.startswith("batch_") and name.endswith(suffix)]
    if not sizes:
        return dict(values)
    largest = max(sizes, key=lambda name: int(name.removeprefix("batch_").removesuffix(suffix)))
    return {**values, "batch_decode_tokens_per_s": values[largest]}


def _shown(row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    if value is None:
        return ""
    if column == "exact_match":
        return f"{value:.3f}"
    return f"{value:.2f}x" if column == "over" else number(value)
