"""Which numbers of metrics/ are judged, as what, and which way is better."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

Better = Literal["higher", "lower"]
RULES: tuple[tuple[str, str, Better], ...] = (
    (r"exact_match|parsed_equal|agreement", "accuracy", "higher"),
    (r"unparseable|never_stopped", "accuracy", "lower"),
    (r"(batch_\d+_)?(prefill|decode)_tokens_per_s|queries_per_s", "speed", "higher"),
    (r"load_s", "load", "lower"),
    (r"\w+_ms_p(50|95)", "latency", "lower"),  # p99 rests on a query or two
    (r"(?!baseline)(?!\w*_(anon|file|cgroup)_)\w*(rss|vram|peak)\w*_mib", "memory", "lower"),
    (r"(batch_\d+_)?energy_j_per_query", "energy", "lower"),
    (r"size_mib", "size", "lower"),
    (r"loss_mean|loss_max|eval_loss", "loss", "lower"),
)
"""Name of a metric (last part of its key) -> its kind, and which way is better."""
INFORMATIONAL: tuple[tuple[str, str], ...] = (
    (r".*_(low|high)", "limits of an interval"),
    (
        r"(.*\.)?(n|rows|n_accuracy|queries|requests|flip_rows|batch_size|\w+_slices\.\w+_n)",
        "what a share rests on",
    ),
    (r"\w+_slices\..+", "few rows each: exact_match holds them all"),
    (r"[\w.]*\b(wrong|action|product|quantity)", "parts of exact_match and parsed_equal"),
    (r"(test|train)_shares\..+|train\..+|near_duplicates\..+", "the data's own: gates hold it"),
    (r"batching\.flips", "how far the batched check of the base model can be trusted"),
    (r"bytes\..+|quantize\.(bits_per_weight|fallback_tensors|tensors_\w+)", "parts of size_mib"),
    (r"loss\.\w+", "parts of loss_mean and loss_max"),
    (
        r"quantize\.(bits|group_size|damp|calibration_\w+|quantized_matrices)",
        "settings, which stand in params",
    ),
    (r"(\w+\.)?parameters|finetune\.(steps|trainable_parameters)", "shape and length of what was trained"),
    (r"(engine\w*|machine|details|kernels)\..+", "what it was measured on and with: notes tell what differs"),
    (r"\w+\.(prompt|decoded)_tokens_per_query", "the work, not its speed"),
    (r"served\..+|.*_in_flight_\d+", "of too few rounds"),
    (r"harness\..+", "another program's speed, a check of ours"),
    (r"\w+\.\w+_p99", "rests on a query or two"),
    (
        r"\w+\.\w*(cgroup|baseline|_anon_|_file_)\w*",
        "depends on the page cache, or is a part of peak_rss_mib",
    ),
    (
        r"\w+\.(other_cpus|stolen_cpus|throttled\w*|spread|load1|load1_max|wall_s)",
        "how quiet the machine was",
    ),
    (r"\w+\.stopped", "never_stopped tells it of all rows"),
    (r"energy\.idle_w|[\w.]*energy_j_per_(token|correct)", "follow from energy_j_per_query and exact_match"),
    (r"remote\..+", "of a server and its network, which no commit changes; the price is the list's"),
)
"""Whole key -> why it is shown and not judged. Every number of metrics/ is in one of the two tables."""
OF_MACHINE = ("speed", "load", "latency", "memory", "energy")
"""Kinds that two machines do not share."""
ACCURACY = "accuracy"
MODELS = "models"  # what quantizing tells of the files, without running them
ANYWHERE = (ACCURACY, MODELS)
"""Targets that are no hardware: every machine gives the same numbers."""
TESTED = "free.exact_match"  # the share that metrics/outcomes/ has row by row


@dataclass(frozen=True)
class Rule:
    """How one kind of metric is judged."""

    kind: str
    better: Better
    tolerance: float


def place(file: str) -> tuple[str, str]:
    """The target and variant that a metrics file belongs to; two empty words for files that are not judged."""
    path = PurePosixPath(file).with_suffix("")
    parts = path.parts[1:] if path.parts[0] == "metrics" and len(path.parts) > 1 else ("",)
    if parts[0] == "bench" and len(parts) == 3 and parts[2] != "machine":
        return parts[1], parts[2]
    if parts[0] in ("eval", "remote") and len(parts) == 2:
        return ACCURACY, parts[1]
    if parts[0] in ("quantize", "gptq") and len(parts) == 2:
        return MODELS, parts[1]
    return (ACCURACY, parts[0]) if parts in (("parity",), ("merge",)) else ("", "")


def judged(
    before: Mapping[str, Any], after: Mapping[str, Any], target: str
) -> Iterator[tuple[str, str, Better]]:
    """The keys of a file that RULES names, with kind and direction; limits of intervals are no metrics."""
    for key in sorted(before.keys() | after.keys()):
        section, _, name = key.rpartition(".")
        if name.endswith(("_low", "_high")) or section.endswith("slices") or section == "remote":
            continue
        for pattern, kind, better in RULES:
            if re.fullmatch(pattern, name):
                yield key, kind, better
                break


def unsound(values: Mapping[str, Any], target: str) -> str | None:
    """What no stage writes, as `key is value`: text for a judged number, NaN or infinity, a share outside 0 to 1."""
    kinds = {key: kind for key, kind, _ in judged(values, {}, target)}
    for key, value in values.items():
        number = isinstance(value, int | float)
        beyond = number and not abs(value) <= sys.float_info.max  # of NaN, too
        share = number and kinds.get(key) == ACCURACY and not 0 <= value <= 1
        if beyond or share or (key in kinds and not number):
            return f"{key} is {value!r}"
    return None


def other_machine(before: Mapping[str, Any], after: Mapping[str, Any]) -> str | None:
    """Why two benchmark files do not compare; None where both were measured on one machine."""
    if not before or not after:
        return None
    hashes = before.get("machine.hash"), after.get("machine.hash")
    if hashes[0] and hashes[0] == hashes[1]:
        return None
    return f"measured on another machine: {_machine(before)}, then {_machine(after)}"


def unlike(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """What the names of two machines do not tell, from their machine.json: instruction sets, build of llama.cpp."""
    first, second = (set(str(side.get("details.instructions", "")).split()) for side in (before, after))
    said = []
    if first and second:
        said += [f"with {' '.join(sorted(second - first))}"] if second - first else []
        said += [f"without {' '.join(sorted(first - second))}"] if first - second else []
    for name in ("build", "build_compiler"):
        values = before.get(f"details.{name}", "none"), after.get(f"details.{name}", "none")
        if values[0] != values[1]:
            said.append(f"{name} was {values[0]}, is {values[1]}")
    return "; ".join(said)


def _machine(values: Mapping[str, Any]) -> str:
    return f"{values.get('machine.name', 'unknown')} ({values.get('machine.hash', 'no hash')})"
