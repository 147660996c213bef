"""docs/paper.md: never stale, every figure there, and each verdict for the right reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cartlm.metrics import Outcome, write_metrics, write_outcomes
from cartlm.report import paper
from cartlm.report.cells import Interval
from cartlm.report.paper import Figure, Measured

PAPERS, FIGURES = paper.figures()
EMBEDDED = Measured("base/model", paper.GENERATED)
MACHINE = {"name": "a toy CPU x2", "hash": "abc"}


def test_the_figures_of_the_paper_are_all_there() -> None:
    said = " ".join(f"{figure.claim} {figure.shown}" for figure in FIGURES)
    for figure in (
        "0.82",
        "0.99 (journal 0.988)",
        "42",
        "48",
        "0.89",
        "0.60",
        "−41 %",
        "44.56 to 7.92",
        "−82 %",
        "18x",
        "90 %",
    ):
        assert figure in said, figure
    readings = [figure.over for figure in FIGURES if figure.kind == "ratio"]
    assert len(readings) == len(set(readings)) == 5


def bench(metrics: Path, variant: str, decode: float, rss: float = 1000.0, machine: Any = MACHINE) -> None:
    cpu = {
        "n": 5, "decode_tokens_per_s": decode, "decode_tokens_per_s_low": decode * 0.98,
        "decode_tokens_per_s_high": decode * 1.02, "prefill_tokens_per_s": 4 * decode,
        "latency_ms_p50": 1000 / decode, "peak_rss_mib": rss, "prompt_tokens_per_query": 132.0,
        "decoded_tokens_per_query": 24.0,
    }  # fmt: skip
    write_metrics(metrics / paper.ARCHITECTURE / f"{variant}.json", {"machine": machine, "cpu": cpu})


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    for variant in ("merged", "q5_k_m", "q4_k_m", "q3_k_m"):
        free = {"n": 1000, "exact_match": 0.9, "exact_match_low": 0.88, "exact_match_high": 0.92}
        write_metrics(tmp_path / "eval" / f"{variant}.json", {"free": free})
    for variant, lost in (("f16", 0), ("q5_k_m", 1), ("q4_k_m", 100), ("q3_k_m", 600)):
        rows = [Outcome(str(i), "wrong" if i < lost else "exact", "") for i in range(1000)]
        write_outcomes(tmp_path / "outcomes" / f"{variant}.csv", rows)
    return tmp_path


def verdicts(metrics: Path, measured: Measured) -> dict[str, tuple[str, str]]:
    """Claim -> ours and verdict, from the table."""
    lines = [line for line in paper.document(metrics, measured).splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {line[0]: (line[2], line[4]) for line in cells if len(line) == 5}


def test_shares_of_another_model_are_not_testable_but_shown(metrics: Path) -> None:
    found = verdicts(metrics, EMBEDDED)
    assert found["GGUF Q4_K_M, exact match"] == ("0.900 [0.880, 0.917]", "not testable")
    text = paper.document(metrics, EMBEDDED)
    assert "`base/model`" in text
    assert f"not of {PAPERS.model} on {PAPERS.dataset}" in text


def test_shares_of_the_papers_own_model_get_a_verdict(metrics: Path) -> None:
    found = verdicts(metrics, PAPERS)
    assert found["GGUF Q5_K_M, exact match"][1] == "not reproduced"  # 0.99 is above 0.92
    assert found["GGUF Q4_K_M, exact match"][1] == "reproduced"  # 0.89 is inside
    assert found["GGUF Q3_K_M, exact match"][1] == "better"  # 0.60 is below 0.88
    assert found["base model before fine-tuning, exact match"] == ("", "not testable")
    assert "not testable; ours" not in paper.document(metrics, PAPERS)
    half = Measured(PAPERS.model, paper.GENERATED)
    assert verdicts(metrics, half)["GGUF Q4_K_M, exact match"][1] == "not testable"


def test_losses_are_judged_for_the_model_measured(metrics: Path) -> None:
    found = {claim[:12]: each for claim, each in verdicts(metrics, EMBEDDED).items() if "loses" in claim}
    assert found["Q5_K_M loses"][1] == "reproduced"
    assert found["Q4_K_M loses"][0].startswith("−10.0 points [")
    assert found["Q4_K_M loses"][1] == "reproduced"
    assert found["Q3_K_M loses"][1] == "not reproduced"  # it loses 60 points here, more than 39


@pytest.mark.parametrize(
    ("decode", "verdict"), [(60.0, "better"), (18.0, "reproduced"), (12.0, "not reproduced")]
)
def test_the_18x_has_a_verdict_per_reading(metrics: Path, decode: float, verdict: str) -> None:
    for variant in ("q5_k_m", "q4_k_m", "q3_k_m"):
        bench(metrics, variant, decode if variant == "q4_k_m" else 1.0)
    bench(metrics, "transformers-float16", 1.0)
    bench(metrics, "f16", decode)
    found = [
        each
        for each in verdicts(metrics, EMBEDDED).items()
        if each[0].startswith(("GGUF against FP16, t", "the same"))
    ]
    by_reading = {claim: each for claim, each in found if "memory" not in claim}
    ours, said = by_reading["GGUF against FP16, tokens/s; read as transformers FP16 on the same CPU"]
    assert ours.startswith(f"{decode:.1f}x [")
    assert said == verdict
    assert (
        verdicts(metrics, EMBEDDED)["the same, read as transformers BF16 on the same CPU"][1]
        == "not testable"
    )
    one = paper.measure(
        next(f for f in FIGURES if f.kind == "ratio" and f.over.endswith("/f16.json")), metrics
    )
    assert one is not None
    assert one[0].value == pytest.approx(1.0)
    assert (one[0].low, one[0].high) == pytest.approx((0.98 / 1.02, 1.02 / 0.98), rel=1e-3)


@pytest.mark.parametrize(
    ("rss", "verdict"), [(50.0, "reproduced"), (100.0, "reproduced"), (300.0, "not reproduced")]
)
def test_more_than_90_percent_less_memory(metrics: Path, rss: float, verdict: str) -> None:
    bench(metrics, "q3_k_m", 1.0, rss)
    bench(metrics, "transformers-float16", 1.0, 1000.0)
    said = verdicts(metrics, EMBEDDED)["GGUF against FP16, memory; read as transformers FP16 on the same CPU"]
    assert said == (f"−{100 - rss / 10:.1f} % [−{100 - rss / 10:.1f}, −{100 - rss / 10:.1f}]", verdict)


def test_two_machines_make_no_ratio(metrics: Path) -> None:
    bench(metrics, "q4_k_m", 18.0)
    bench(metrics, "transformers-float16", 1.0, machine={"name": "another", "hash": "def"})
    found = verdicts(metrics, EMBEDDED)
    assert found["GGUF against FP16, tokens/s; read as transformers FP16 on the same CPU"] == (
        "",
        "not testable",
    )
    assert "over each baseline" not in paper.document(metrics, EMBEDDED)


def test_the_baselines_are_split_into_runtime_and_bits(metrics: Path) -> None:
    bench(metrics, "q4_k_m", 40.0, 800.0)
    bench(metrics, "f16", 20.0, 2400.0)
    line = next(each for each in paper.document(metrics, EMBEDDED).splitlines() if each.startswith("| `f16`"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1].startswith("2.00x [1.92, 2.08]")
    assert cells[3].startswith("2.00x")  # a query takes half the time: twice as fast
    assert cells[4].startswith("0.333x")


@pytest.mark.parametrize(
    ("low", "high", "better", "said"),
    [
        (0.4, 0.6, "higher", "reproduced"),
        (0.51, 0.6, "higher", "better"),
        (0.506, 0.6, "lower", "not reproduced"),
        (0.3, 0.49, "higher", "not reproduced"),
        (0.3, 0.49, "lower", "better"),
        (0.504, 0.6, "higher", "reproduced"),  # 0.50 was rounded
    ],
)
def test_verdicts(low: float, high: float, better: Any, said: str) -> None:
    figure = Figure("a claim", "0.50", "value", 0.5, 0.005, [], better=better)
    assert paper.verdict(figure, Interval(low, low, high)) == said


def test_a_dequantized_model_is_another_model(metrics: Path) -> None:
    """Its shares are not the paper's to judge, and its name says what it was made of."""
    write_metrics(
        metrics / "merge.json", {"parameters": 10, "base": {"name": PAPERS.model, "dequantized_from": "Q4_1"}}
    )
    found = paper.measured_model(metrics, "some/other", PAPERS.dataset)
    assert found == Measured(PAPERS.model, PAPERS.dataset, "Q4_1")
    assert verdicts(metrics, found)["GGUF Q4_K_M, exact match"][1] == "not testable"
    text = paper.document(metrics, found)
    assert f"`{PAPERS.model}` (10 parameters), dequantized from Q4_1, on" in text
    assert f"1,000 rows, {PAPERS.model}, dequantized from Q4_1 |" in text


def test_metrics_from_before_there_was_an_origin_still_load(metrics: Path) -> None:
    write_metrics(metrics / "merge.json", {"parameters": 10})
    assert paper.measured_model(metrics, "base/model", "rows") == Measured("base/model", "rows")
