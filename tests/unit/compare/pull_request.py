"""Writes docs/pull-request.md: the comment that `cartlm compare --comment` makes, of a change that is planted here.

python -m tests.unit.compare.pull_request
"""

from __future__ import annotations

from typing import Any

from cartlm.compare import judge, report
from cartlm.compare.comparison import Comparison
from cartlm.compare.load import WORKSPACE, Side
from cartlm.files import write_text
from cartlm.metrics import Outcome
from cartlm.pipeline import stale
from tests import ROOT
from tests.unit.compare.planted import measured

TARGET = ROOT / "docs" / "pull-request.md"
HEAD = """# What a pull request shows

An example of the comment that `cartlm compare --comment BASE` makes. **Every number below is planted, none is measured**:
`python -m tests.unit.compare.pull_request` writes this file from numbers of its own, and a test fails where it is out of date.
The planted change has another learning rate and leaves the importance matrix out of `q4_k_m`. One variant loses accuracy
by more than chance explains and others by less; one is slower on the CPU and another is faster on a GPU; a stage is older
than its code. A timing's change is relative to the reference model's, so it differs from the change of the two values shown.

---

"""
ROWS = 1000
VARIANTS = ("f16", "q8_0", "q4_k_m", "q2_k", "int4-g128")
PARAMS = [
    {
        "finetune": {"learning_rate": rate},
        "reference": {"f16": {}},
        "gguf": {"q8_0": {}, "q4_k_m": {"imatrix": imatrix}, "q2_k": {}},
        "gptq": {"int4-g128": {}},
    }
    for rate, imatrix in ((0.0002, True), (0.0004, False))
]
TOLERANCES = {
    "accuracy": 0.005, "speed": 0.15, "latency": 0.2, "load": 0.5, "memory": 0.05, "energy": 0.1, "size": 0.01,
}  # fmt: skip
RIGHT = {  # exact rows of the old side, then how many are lost and won
    "f16": (938, 4, 3),
    "q8_0": (939, 5, 3),
    "q4_k_m": (940, 41, 6),
    "q2_k": (800, 34, 22),
    "int4-g128": (937, 3, 5),
}
CPU = {  # decoded tokens/s, p50 in ms, peak RSS in MiB: old, then new
    "f16": ((999.0, 63.2, 67.8), (987.0, 63.9, 67.9)),
    "q8_0": ((1303.0, 56.8, 63.7), (1271.0, 58.1, 63.6)),
    "q4_k_m": ((1383.0, 53.3, 64.9), (1016.0, 71.6, 64.8)),
    "q2_k": ((1175.0, 62.1, 62.2), (1204.0, 60.8, 62.2)),
}
CARD = {  # of a card named t4: decoded tokens/s, VRAM in MiB, joules per query
    "merged": ("gpu", (410.0, 88.0, 1.9), (402.0, 88.0, 1.92)),
    "int4-g128": ("kernel_marlin", (655.0, 61.0, 1.2), (838.0, 61.0, 0.94)),
}


def comparison() -> Comparison:
    """The planted change, judged as a real one is."""
    report = stale.Report(
        29,
        {"bench-cpu": ["cartlm/bench/worker.py"]},
        {"gpu/dvc.yaml:bench-gpu": stale.Elsewhere(["metrics/bench/t4"], "0123abc", "2026-01-02")},
        "dvc repro",
    )
    return judge.compare_sides(side("89abcdef", 0), side(WORKSPACE, 1), TOLERANCES, report)


def side(name: str, which: int) -> Side:
    """The old (0) or the new (1) side's files."""
    outcomes = {variant: rows(*counts, which) for variant, counts in RIGHT.items()}
    metrics: dict[str, dict[str, Any]] = {}
    for variant, answers in outcomes.items():
        share = sum(each.outcome == "exact" for each in answers) / ROWS
        metrics[f"metrics/eval/{variant}.json"] = {
            "free.n": ROWS,
            "free.exact_match": share,
            "free.unparseable": 0.03 if variant == "q2_k" else 0.0,
        }
    for variant, both in CPU.items():
        names = ("decode_tokens_per_s", "latency_ms_p50", "peak_rss_mib")
        metrics[f"metrics/bench/cpu/{variant}.json"] = bench("cpu", names, both[which], "a planted CPU x2")
    for variant, (section, *of_card) in CARD.items():
        names = ("decode_tokens_per_s", "vram_run_used_mib", "energy_j_per_query")
        metrics[f"metrics/bench/t4/{variant}.json"] = bench(section, names, of_card[which], "a planted T4")
    rows_of = dict.fromkeys(VARIANTS, "the same rows")
    return measured(
        metrics, name, n=10, outcomes=outcomes, rows=rows_of, params={"params.yaml": PARAMS[which]}
    )


def rows(exact: int, lost: int, won: int, which: int) -> list[Outcome]:
    """Old: the first `exact` rows are right. New: of these the first `lost` are wrong, and `won` others are right."""
    right = range(exact) if which == 0 else range(lost, exact + won)
    return [Outcome(f"test-{i:05}", "exact" if i in right else "wrong", "") for i in range(ROWS)]


def bench(section: str, names: tuple[str, ...], values: tuple[float, ...], machine: str) -> dict[str, Any]:
    """A benchmark file with intervals of 2 percent to both sides."""
    found: dict[str, Any] = {"machine.name": machine, "machine.hash": "planted", f"{section}.n": 10}
    for name, value in zip(names, values, strict=True):
        key = f"{section}.{name}"
        found |= {key: value, f"{key}_low": 0.98 * value, f"{key}_high": 1.02 * value}
    return found | {f"{section}.energy_kind": "measured"}


def document() -> str:
    return HEAD + report.format_comment(comparison())


if __name__ == "__main__":
    write_text(TARGET, document())
