"""Tables of `make architecture`: every type and runtime side by side, and one quantized type against each baseline.

"18x" says little without its baseline: the ratio to GGUF F16 is what the bits bring, the ratio of GGUF F16 to
transformers what the runtime brings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cartlm.metrics import read_metrics
from cartlm.report.summary import number

COLUMNS = {
    "size_mib": "MiB",
    "prefill_tokens_per_s": "prefill tok/s",
    "decode_tokens_per_s": "decode tok/s",
    "latency_ms_p50": "p50 ms",
    "load_s": "load s",
    "load_peak_rss_mib": "load peak RSS MiB",
    "run_peak_rss_mib": "run peak RSS MiB",
}
AGAINST = "q4_k_m"
BASELINES = ("transformers-float16", "transformers-bfloat16", "transformers-float32", "f16")


def folders(metrics: Path) -> list[Path]:
    """The folders of measured architectures, metrics/bench/cpu-NAME."""
    return sorted(path for path in (metrics / "bench").glob("cpu-*") if path.is_dir())


def measured(folder: Path, section: str) -> dict[str, dict[str, Any]]:
    """The files of a folder of metrics/bench/ that have the section, by variant."""
    files = {path.stem: read_metrics(path) for path in sorted(folder.glob("*.json"))}
    return {variant: file for variant, file in files.items() if section in file}


def block(folder: Path) -> str:
    """Markdown of one measured architecture; an empty text where nothing was measured."""
    found = measured(folder, "cpu")
    if not found:
        return ""
    machines = sorted({file["machine"]["name"] for file in found.values()})
    others = {file["machine"]["hash"] for file in measured(folder.with_name("cpu"), "cpu").values()}
    apart = bool(others) and not others & {file["machine"]["hash"] for file in found.values()}
    some = next(iter(found.values()))["cpu"]
    lengths = f"{number(some['prompt_tokens_per_query'])} prompt and {number(some['decoded_tokens_per_query'])} new tokens"
    parts = [
        f"{folder.name.removeprefix('cpu-')} with random weights, one query at a time of {lengths} on average: "
        f"{' and '.join(machines)}{', another machine than that of the table above' if apart else ''}.",
        _table(found),
    ]
    if AGAINST in found:
        parts.append(_ratios(found))
    if ratios := [file["harness"] for file in found.values() if "harness" in file]:
        told = ", ".join(
            f"{phase} {min(r[f'{phase}_ratio'] for r in ratios):.3f} to {max(r[f'{phase}_ratio'] for r in ratios):.3f}"
            for phase in ("prefill", "decode")
        )
        parts.append(
            f"Our engine's speed over llama-bench's, same file, threads and lengths, in turns: {told}."
        )
    return "\n\n".join(parts)


def order(variant: str) -> tuple[bool, int, str]:
    """transformers first, then f16, then the quantized types from many bits to few."""
    digits = [int(letter) for letter in variant if letter.isdigit()]
    if variant.startswith("transformers"):
        return (False, 0, variant)
    return (True, -16 if variant == "f16" else -digits[0], variant)


def _table(found: Mapping[str, Mapping[str, Any]]) -> str:
    lines = ["| variant | " + " | ".join(COLUMNS.values()) + " |", "|---|" + "---:|" * len(COLUMNS)]
    for variant in sorted(found, key=order):
        cells = [number(found[variant]["cpu"].get(column)) for column in COLUMNS]
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def ratios(found: Mapping[str, Mapping[str, Any]], variant: str, baseline: str) -> dict[str, float]:
    """How many times as fast `variant` is in decode, prefill and whole query, and its memory as a share; a ratio
    whose parts were not both measured is absent.
    """
    ours, theirs = found[variant]["cpu"], found[baseline]["cpu"]
    parts = {
        "decode": ("decode_tokens_per_s", False),
        "prefill": ("prefill_tokens_per_s", False),
        "query": ("latency_ms_p50", True),
        "memory": ("peak_rss_mib", False),
    }
    return {
        name: (theirs[key] / ours[key]) if inverse else (ours[key] / theirs[key])
        for name, (key, inverse) in parts.items()
        if ours.get(key) and theirs.get(key)
    }


def _ratios(found: Mapping[str, Mapping[str, Any]]) -> str:
    known: Sequence[str] = [name for name in BASELINES if name in found]
    lines = [
        f"| {AGAINST} against | decode | prefill | whole query | peak RSS |",
        "|---|---:|---:|---:|---:|",
    ]
    for baseline in known:
        made = ratios(found, AGAINST, baseline)
        cells = [f"{made[name]:.2f}x" if name in made else "" for name in ("decode", "prefill", "query")]
        memory = f"{100 * (made['memory'] - 1):+.0f} %" if "memory" in made else ""
        lines.append(f"| {baseline} | " + " | ".join([*cells, memory]) + " |")
    return "\n".join(lines)
