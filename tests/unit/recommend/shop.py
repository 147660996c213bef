"""Metrics of a few variants, made so that each step of the rule can be checked by hand.

| variant | exact of 200 | p95 ms [95 %] | RSS MiB | MiB |
|---|---:|---:|---:|---:|
| baseline | 150 | 2 [1.8, 2.2] | 30 | 0.5 |
| f16 | 180 | 100 [95, 105] | 80 | 8 |
| q8_0 | 180 | 90 [85, 96] | 70 | 4 |
| q4_k_m | 176 | 60 [55, 65] | 65 | 2.4 |
| q3_k_m | 172 | 62 [58, 66] | 65 | 2 |
| q2_k | 120 | 50 [48, 52] | 64 | 1.6 |

Free and constrained decoding answer the same number exactly. A variant is right on the first rows, so that one with eight
fewer exact answers lost eight rows and won none: p = 2 / 2^8 = 0.0078, of four lost rows 0.125.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cartlm.evaluation.statistics import wilson
from cartlm.metrics import Exact, write_exact, write_metrics

N = 200
MACHINE = {"name": "a toy CPU x2", "hash": "aa"}
VARIANTS: dict[str, tuple[int, tuple[float, float, float], float, float]] = {
    "baseline": (150, (2.0, 1.8, 2.2), 30.0, 0.5),
    "f16": (180, (100.0, 95.0, 105.0), 80.0, 8.0),
    "q8_0": (180, (90.0, 85.0, 96.0), 70.0, 4.0),
    "q4_k_m": (176, (60.0, 55.0, 65.0), 65.0, 2.4),
    "q3_k_m": (172, (62.0, 58.0, 66.0), 65.0, 2.0),
    "q2_k": (120, (50.0, 48.0, 52.0), 64.0, 1.6),
}
"""Name -> exact answers, p95 with its interval, RSS, size."""


def accuracy(exact: int, n: int = N) -> dict[str, Any]:
    low, high = wilson(exact, n)
    return {"n": n, "exact_match": exact / n, "exact_match_low": low, "exact_match_high": high}


def write(metrics: Path) -> Path:
    """The files of all VARIANTS, and of `merged`, which no benchmark measured."""
    for name, (exact, (p95, low, high), rss, size) in VARIANTS.items():
        sections = ("free",) if name == "baseline" else ("free", "constrained", "ensemble")
        shares = {section: accuracy(exact + 10 * (section == "ensemble")) for section in sections}
        write_metrics(metrics / "eval" / f"{name}.json", {**shares, "natural": accuracy(exact // 2, N // 2)})
        rows = [Exact("test", f"test-{i:03}", str(int(i < exact)), "", "") for i in range(N)]
        write_exact(metrics / "exact" / f"{name}.csv", rows)
        cpu = {
            "latency_ms_p95": p95, "latency_ms_p95_low": low, "latency_ms_p95_high": high, "peak_rss_mib": rss,
            "size_mib": size, "queries_per_s": 1000 / p95, "queries_per_s_low": 900 / p95, "queries_per_s_high": 1100 / p95,
        }  # fmt: skip
        if name != "baseline":
            cpu |= {"prompt_tokens_per_query": 100.0, "decoded_tokens_per_query": 25.0}
        energy = {"energy_j_per_query": p95 / 100, "energy_source": "measured: a toy meter"}
        write_metrics(metrics / f"bench/cpu/{name}.json", {"machine": MACHINE, "cpu": cpu, "energy": energy})
    write_metrics(metrics / "eval/merged.json", {"free": accuracy(180)})
    return metrics
