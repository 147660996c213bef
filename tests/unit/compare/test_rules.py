"""No number of metrics/ is ignored without a reason, and a loss in any judged number is found."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from cartlm.bench import aggregate
from cartlm.compare import judge, rules
from cartlm.compare.load import STANDARD, flatten
from tests import ROOT
from tests.unit.compare.planted import measured

INFORMATIONAL: tuple[tuple[str, str], ...] = (
    (r"(adapter|onto_16_bit|onto_nf4)\..*", "nobody ships the adapter, nor the merge that is not kept"),
    (r".*_(low|high)", "limits of an interval"),
    (
        r"(.*\.)?(n|rows|n_accuracy|queries|requests|flip_rows|batch_size|shots|\w+_slices\.\w+_n)",
        "what a share rests on",
    ),
    (r"\w+_slices\..+", "few rows each: exact_match holds them all"),
    (r"[\w.]*\b(wrong|action|product|quantity)", "parts of exact_match and parsed_equal"),
    (r"(test|train)_shares\..+|train\..+|near_duplicates\..+", "the data's own: gates hold it"),
    (r"batching\.flips", "how far batched answers can be trusted"),
    (
        r"\w*(constrained|ensemble)\.(changed|refused|gain\w*)",
        "how many answers are not as free decoding gives them, and what of exact_match that makes",
    ),
    (
        r"\w+_(calibration|reliability)\..+|\w+\.(calibration_error|(accuracy|confidence)_at_\d+)",
        "how sure the answers are, of which exact_match is judged",
    ),
    (r"bytes\..+|quantize\.(bits_per_weight|fallback_\w+|tensors_\w+)", "parts of size_mib"),
    (r"loss\.\w+", "parts of loss_mean and loss_max"),
    (r"none\w*\.(recall_\w+|orders|orders_natural)", "parts of recall, and what the shares rest on"),
    (r"none\.(\w+_n|templates|distinct_\w+|refused)", "of the rows, as those of the orders"),
    (
        r"quantize\.(bits|group_size|damp|calibration_\w+|quantized_matrices)",
        "settings in params",
    ),
    (
        r"(\w+\.)?parameters|finetune\.(steps|trainable_parameters|micro_batch)",
        "shape and length of what was trained",
    ),
    (
        r"(engine\w*|inputs|machine|details|kernels)\..+",
        "what it was measured on and with: notes name differences",
    ),
    (r"\w+\.(prompt|decoded)_tokens_per_query", "the work, not its speed"),
    (r"served\..+|.*_in_flight_\d+", "of too few rounds"),
    (r"harness\..+", "another program's speed, a check of ours"),
    (r"\w+\.\w+_p99", "rests on a query or two"),
    (
        r"\w+\.\w*(cgroup|baseline|_anon_|_file_)\w*",
        "depends on the page cache, or is a part of peak_rss_mib",
    ),
    (
        r"\w+\.(other_cpus|stolen_cpus|throttled\w*|spread\w*|load1|load1_max|wall_s)",
        "how quiet the machine was",
    ),
    (r"\w+\.(stopped|never_stopped)", "truncated has it of all rows"),
    (r"energy\.idle_w|[\w.]*energy_j_per_(token|correct)", "follow from energy_j_per_query and exact_match"),
    (r"reference\..+", "what the reference model is"),
    (
        r"\w+\.((cold|warm)_(ms_p50|to_(?!llama_server)\w+)|passes|one_pass|other_answers)",
        "of a bench-decoding run, of whose ways cold_to_llama_server and warm_to_llama_server are judged",
    ),
    (r"(create_completion|floor)\.(cold|warm)_to_llama_server", "not ours"),
    (r"(model|workload)\..+", "what bench-decoding measured"),
    (r"remote\..+", "of a server and its network, which no commit changes; the price is the list's"),
)
"""Whole key -> why it is shown and not judged. Every number of metrics/ is in one of the two tables."""

FILES = sorted(path for path in (ROOT / "metrics").rglob("*.json") if path.stem != "reference")
CARD = {
    "gpu": [*aggregate.MEDIANS, "latency_ms_p50", "latency_ms_p99", "size_mib", "n", "spread", "stopped"],
    "batch_8": ["n", "queries_per_s", "decode_tokens_per_s", "energy_j_per_query", "energy_j_per_token"],
    "energy": ["energy_j_per_query", "energy_j_per_token", "energy_j_per_correct", "idle_w"],
    "accuracy": ["exact_match", "exact_match_low", "n_accuracy", "batch_size"],
    "kernel_marlin": [
        "decode_tokens_per_s",
        "batch_8_decode_tokens_per_s",
        "energy_j_per_query",
        "exact_match",
    ],
}


def numbers() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """File, key of a number, and all values of the file: what git has, and what a whole run, a card and a server would write."""
    seen: set[tuple[str, str]] = set()
    card = {section: dict.fromkeys(names, 0.5) for section, names in CARD.items()}
    server = {
        "free": {"n": 9, "exact_match": 0.5},
        "remote": {"latency_ms_p50": 9.0, "cost_usd": 1.0, "requests": 9},
    }
    shares = ("recall", "precision", "false_none", "false_none_natural")
    limits = {f"{name}_{end}": 0.5 for name in shares for end in ("low", "high")}
    parts = {"n": 9, "orders": 9, "orders_natural": 9, "recall_chat": 0.5, "recall_english": 0.5}
    none = {way: {**dict.fromkeys(shares, 0.5), **limits, **parts} for way in ("none", "none_constrained")}
    size = {"size_mib": 9.0}
    more = {
        "metrics/merge.json": {"agreement": 0.5, "n": 9},
        "metrics/parity.json": {"agreement": 0.5, "n": 9},
        "metrics/decoding.json": {"draft_accepted": {"warm_to_llama_server": 0.5}},
        "metrics/quantize/q8_0.json": {"quantize": size},
        "metrics/gptq/int8.json": {"quantize": {**size, "loss_mean": 0.5}},
        "metrics/bench/t4/int8.json": card,
        "metrics/remote/gpt.json": server,
        "metrics/eval/none.json": none,
        "metrics/data.json": {"none": {"train_n": 9, "distinct_2": 0.5}},
    }
    for file, values in [
        *((path.relative_to(ROOT).as_posix(), json.loads(path.read_text("utf-8"))) for path in FILES),
        *more.items(),
    ]:
        every = flatten(values)
        folder = file.rpartition("/")[0] if file.count("/") > 1 else file
        for key, value in every.items():
            if (folder, key) in seen:  # another variant's
                continue
            seen.add((folder, key))
            if isinstance(value, int | float) and not isinstance(value, bool):
                yield file, key, every


def informational(key: str) -> bool:
    return any(re.fullmatch(pattern, key) for pattern, _ in INFORMATIONAL)


def test_a_planted_loss_in_any_number_is_found_or_has_a_reason_not_to_be() -> None:
    passed_over, found = [], set()
    for file, key, values in numbers():
        target, _ = rules.target_and_variant(file)
        better = {judged: way for judged, _, way in rules.judged_metrics(values)} if target else {}
        if key not in better:
            if not informational(key):
                passed_over.append(f"{file}: {key}")
            continue
        assert not informational(key), f"{key} is judged"
        shares = rules.invalid_metric({key: 2.0}) is not None
        worst = (0.0, 1.0) if better[key] == "higher" else (1.0, 0.0)
        good, bad = (
            (worst[1], worst[0]) if shares else ((9.0, 1.0) if better[key] == "higher" else (1.0, 9.0))
        )
        sides = [measured({file: {key: value, "machine.hash": "one"}}) for value in (good, bad)]
        changes = judge.compare_sides(sides[0], sides[1], STANDARD).changes
        assert [each.verdict for each in changes if each.old != each.new] == ["worse"], f"{file}: {key}"
        found.add(file.split("/")[1])
    assert passed_over == []
    assert found == {
        "bench", "eval", "gptq", "quantize", "remote", "merge.json", "parity.json", "decoding.json",
    }  # fmt: skip


@pytest.mark.parametrize(
    "key", ["cpu.other_cpus", "free.n", "cpu.latency_ms_p50_low", "free.exact_match_high"]
)
def test_text_in_a_number_beside_a_judged_one_is_invalid(key: str) -> None:
    assert rules.invalid_metric({key: 1.0}) is None
    assert rules.invalid_metric({key: "many"}) == f"{key} is 'many'"
