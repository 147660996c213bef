"""Tables of what other pipeline files measured: architectures with random weights on a CPU, and CUDA cards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cartlm.metrics import read_metrics
from cartlm.report import cells

CPU = {
    "variant": "variant",
    "size_mib": "MiB",
    "prefill_tokens_per_s": "prefill tokens/s [95 %]",
    "decode_tokens_per_s": "decode tokens/s [95 %]",
    "latency_ms_p50": "p50 ms [95 %]",
    "load_s": "load s [95 %]",
    "load_peak_rss_mib": "load peak RSS MiB",
    "run_peak_rss_mib": "run peak RSS MiB",
}
CARD = {
    "variant": "variant",
    "size_mib": "MiB",
    "exact_match": "exact match",
    "prefill_tokens_per_s": "prefill tokens/s",
    "decode_tokens_per_s": "decode tokens/s",
    "over": "decode over FP16",
    "batch_decode_tokens_per_s": "decode tokens/s, largest batch",
    "latency_ms_p50": "p50 ms",
    "vram_run_allocated_mib": "VRAM allocated MiB",
    "vram_run_used_mib": "used MiB",
    "energy_j_per_token": "J/token",
}
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


def architecture(folder: Path) -> str:
    """An architecture's table; an empty text where nothing was measured."""
    files = measurements(folder, "cpu")
    if not files:
        return ""
    machines = sorted({file["machine"]["name"] for file in files.values()})
    main = {file["machine"]["hash"] for file in measurements(folder.with_name("cpu"), "cpu").values()}
    apart = bool(main) and not main & {file["machine"]["hash"] for file in files.values()}
    first = next(iter(files.values()))["cpu"]
    parts = [
        f"## {folder.name.removeprefix('cpu-')} with random weights",
        f"One query at a time of {cells.number(first['prompt_tokens_per_query'])} prompt and "
        f"{cells.number(first['decoded_tokens_per_query'])} new tokens on average, on {' and '.join(machines)}"
        f"{', another machine than that of the [main tables](results.md)' if apart else ''}.",
        cells.markdown(CPU, [{"variant": name, **files[name]["cpu"]} for name in sorted(files, key=by_bits)]),
    ]
    harness = [file["harness"] for file in files.values() if "harness" in file]
    ratios = {
        phase: [section[f"{phase}_ratio"] for section in harness if f"{phase}_ratio" in section]
        for phase in ("prefill", "decode")
    }
    if any(ratios.values()):
        shown = ", ".join(
            f"{phase} {min(values):.2f} to {max(values):.2f}" for phase, values in ratios.items() if values
        )
        parts.append(
            f"Our engine's speed over llama-bench's, for the same file, threads and lengths: {shown}."
        )
    return "\n\n".join(parts)


def by_bits(variant: str) -> tuple[bool, int, str]:
    """transformers first, then f16, then the quantized types from many bits to few."""
    digits = [int(letter) for letter in variant if letter.isdigit()]
    if variant.startswith("transformers"):
        return (False, 0, variant)
    return (True, -16 if variant == "f16" else -digits[0], variant)


def card(folder: Path) -> str:
    """A card's table; an empty text for a folder of another kind."""
    files = measurements(folder, "gpu")
    if not files:
        return ""
    machines = " and ".join(sorted({file["machine"]["name"] for file in files.values()}))
    rows = {name: row for variant, file in files.items() for name, row in card_rows(variant, file).items()}
    base = next((rows[name].get("decode_tokens_per_s") for name in FP16 if name in rows), None)
    for name, row in rows.items():
        row["variant"] = name
        if base and row.get("decode_tokens_per_s"):
            row["over"] = f"{row['decode_tokens_per_s'] / base:.2f}x"
    used = {key: text for key, text in CARD.items() if any(row.get(key) is not None for row in rows.values())}
    parts = [
        f"## {folder.name}",
        f"One query at a time, on {machines}.",
        cells.markdown(
            used, [rows[name] for name in sorted(rows, key=lambda name: (name not in FP16, name))]
        ),
    ]
    refused = [
        f"{variant}: {file['kernels']['unsupported']}."
        for variant, file in files.items()
        if "unsupported" in file.get("kernels", {})
    ]
    return "\n\n".join([*parts, *([f"Does not run there: {' '.join(refused)}"] if refused else [])])


def card_rows(variant: str, file: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """A row a kernel for a variant that has kernels, else one."""
    size = {"size_mib": file["gpu"].get("size_mib")}
    kernels = {name.removeprefix("kernel_"): file[name] for name in file if name.startswith("kernel_")}
    if kernels:
        return {f"{variant}, {name}": {**size, **largest_batch(values)} for name, values in kernels.items()}
    batches = {
        f"{section}_{name}": value
        for section, values in file.items()
        if section.startswith("batch_")
        for name, value in values.items()
    }
    values = {**file["gpu"], **file.get("energy", {}), **file.get("accuracy", {}), **batches}
    return {variant: {**size, **largest_batch(values)}}


def largest_batch(values: Mapping[str, Any]) -> dict[str, Any]:
    """With the decode speed of the largest batch under a name of its own."""
    suffix = "_decode_tokens_per_s"
    sizes = [name for name in values if name.startswith("batch_") and name.endswith(suffix)]
    if not sizes:
        return dict(values)
    largest = max(sizes, key=lambda name: int(name.removeprefix("batch_").removesuffix(suffix)))
    return {**values, "batch_decode_tokens_per_s": values[largest]}
