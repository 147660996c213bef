"""Which metrics are judged, as what kind, and which direction is better."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, Literal

Better = Literal["higher", "lower"]
RULES: tuple[tuple[str, str, Better], ...] = (
    (r"exact_match|parsed_equal|agreement", "accuracy", "higher"),
    (r"unparseable|truncated", "accuracy", "lower"),
    (r"recall|precision", "accuracy", "higher"),  # of messages that are no order
    (r"false_none(_natural)?", "accuracy", "lower"),
    (r"(batch_\d+_)?(prefill|decode)_tokens_per_s|queries_per_s", "speed", "higher"),
    (r"load_s", "load", "lower"),
    (r"(?!cold_|warm_)\w+_ms_p(50|95)", "latency", "lower"),  # p99 rests on a query or two
    (r"(?!baseline)(?!\w*_(anon|file|cgroup)_)\w*(rss|vram|peak)\w*_mib", "memory", "lower"),
    (r"(batch_\d+_)?energy_j_per_query", "energy", "lower"),
    (r"size_mib", "size", "lower"),
    (r"loss_mean|loss_max|eval_loss", "loss", "lower"),
    # latency of our ways of decoding, by that of llama-server in the same run
    (r"(cold|warm)_to_llama_server", "ratio", "lower"),
)
"""Name of a metric (last part of its key), its kind, and which direction is better.

All other numbers are shown, not judged: tests/unit/compare/test_rules.py has the reason for each.
"""
TIMED = ("speed", "latency", "load", "energy")
OF_MACHINE = (*TIMED, "memory", "ratio")
"""Kinds that differ from machine to machine."""
ACCURACY = "accuracy"
MODELS = "models"  # what quantizing reports of the files
DECODING = "decoding"  # what stage bench-decoding measures
ANYWHERE = (ACCURACY, MODELS)
"""Targets that are no hardware: every machine gives the same numbers."""
TESTED = "free.exact_match"  # the share that metrics/outcomes/ has row by row


def target_and_variant(file: str) -> tuple[str, str]:
    """The target and variant of a metrics file; two empty strings for files that are not judged."""
    match PurePosixPath(file).with_suffix("").parts:
        case "metrics", "decoding":
            return DECODING, "ways"
        case "metrics", "bench", target, variant if variant != "machine":
            return target, variant
        case "metrics", "quantize" | "gptq", variant:
            return MODELS, variant
        case ("metrics", "eval" | "remote", variant) | ("metrics", "parity" | "merge" as variant):
            return ACCURACY, variant
    return "", ""


NUMBERS = re.compile(r"n|other_cpus|\w+_(low|high)")
"""Names of numbers that are read beside the judged ones."""
NOT_JUDGED = ("remote", "adapter", "onto_16_bit", "onto_nf4", "create_completion", "floor")
"""Sections of what is not shipped: a server's, the adapter's, of either way of merging, one of which is kept; and of what
bench-decoding measures beside our ways."""


def judged_metrics(*sides: Mapping[str, Any]) -> Iterator[tuple[str, str, Better]]:
    """The keys of a file that RULES names, in any of the sides, with kind and better direction."""
    for key in sorted(set().union(*sides)):
        section, _, name = key.rpartition(".")
        if name.endswith(("_low", "_high")) or section.endswith("slices") or section in NOT_JUDGED:
            continue
        for pattern, kind, better in RULES:
            if re.fullmatch(pattern, name):
                yield key, kind, better
                break


def invalid_metric(values: Mapping[str, Any]) -> str | None:
    """`key is value` of a value that no stage writes: text for a number, NaN, infinity, a share outside 0 to 1."""
    kinds = {key: kind for key, kind, _ in judged_metrics(values)}
    for key, value in values.items():
        number = isinstance(value, int | float)
        finite = number and abs(value) <= sys.float_info.max  # NaN is not
        share = kinds.get(key) == ACCURACY
        counted = key in kinds or NUMBERS.fullmatch(key.rpartition(".")[2])
        if (number and not finite) or (counted and not number) or (share and not 0 <= value <= 1):
            return f"{key} is {value!r}"
    return None


def beside(values: Mapping[str, Any], key: str, name: str) -> Any:
    """The value of `name` in the section of `key`; None where it is not there."""
    section = key.rpartition(".")[0]
    return values.get(f"{section}.{name}" if section else name)


def other_machine(before: Mapping[str, Any], after: Mapping[str, Any]) -> str | None:
    """Why two benchmark files do not compare; None if both were measured on one machine."""
    hashes = before.get("machine.hash"), after.get("machine.hash")
    if not before or not after or (hashes[0] and hashes[0] == hashes[1]):
        return None
    first, then = (
        f"{side.get('machine.name', 'unknown')} ({side.get('machine.hash', 'no hash')})"
        for side in (before, after)
    )
    return f"measured on another machine: {first}, then {then}"


def machine_differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """How two machine.json files differ in instruction sets and build of llama.cpp."""
    first, second = (set(str(side.get("details.instructions", "")).split()) for side in (before, after))
    changes = {"with": second - first, "without": first - second} if first and second else {}
    parts = [f"{what} {' '.join(sorted(names))}" for what, names in changes.items() if names]
    for name in ("build", "build_compiler"):
        old, new = (side.get(f"details.{name}", "none") for side in (before, after))
        if old != new:
            parts.append(f"{name} was {old}, is {new}")
    return "; ".join(parts)
