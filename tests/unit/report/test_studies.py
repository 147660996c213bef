"""Models side by side: the README's second table, docs/studies.md, and the paper's claims on small pretrained models."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from cartlm.metrics import Outcome, write_metrics, write_outcomes
from cartlm.report import paper, pretrained, results, studies
from cartlm.report.models import OFFLINE, Model, default

MACHINE = {"name": "a toy CPU x2", "hash": "abc"}
VARIANTS = ["base", "merged", "f16", "q8_0", "q4_k_m", "q3_k_m"]
BITS = {"q8_0": 8.5, "q4_k_m": 4.9, "q3_k_m": 4.1}
RECORD = {
    "preset": "presets/small.yaml", "commit": "1a2b3c4d5e6f", "dirty": False, "date": "2026-11-29", "left_out": "",
    "machine": MACHINE, "seconds": {"finetune": 7200.0, "eval@q8_0": 300.0, "eval@q4_k_m": 300.0, "data": 5.0, "base": 4.0},
}  # fmt: skip


def write(metrics: Path, parameters: int, wrong: dict[str, int], base: dict[str, Any] | None = None) -> Path:
    """Metrics of 1,000 rows; `wrong` of them per variant."""
    sections: dict[str, Any] = {"agreement": 0.99, "n": 300, "parameters": parameters}
    write_metrics(metrics / "merge.json", {**sections, **({"base": base} if base else {})})
    for variant, count in wrong.items():
        free = {
            "n": 1000,
            "exact_match": (1000 - count) / 1000,
            "exact_match_low": 0.0,
            "exact_match_high": 1.0,
        }
        more = {"few_shot": {**free, "n": 200, "exact_match": 0.08, "shots": 5}} if variant == "base" else {}
        write_metrics(metrics / f"eval/{variant}.json", {"free": free, "natural": {**free, "n": 364}, **more})
        rows = [Outcome(str(i), "wrong" if i < count else "exact", "") for i in range(1000)]
        write_outcomes(metrics / f"outcomes/{variant}.csv", rows)
    for variant, bits in BITS.items():
        made = {
            "size_mib": 10 * bits,
            "bits_per_weight": bits,
            "fallback_tensors": 3,
            "tensors_q4_k": 20,
            "tensors_q5_0": 4,
            "fallback_ffn": 0.25,
        }
        write_metrics(metrics / f"quantize/{variant}.json", {"quantize": made})
        cpu = {"size_mib": 10 * bits, "decode_tokens_per_s": 50.0}
        write_metrics(metrics / f"bench/cpu/{variant}.json", {"machine": MACHINE, "cpu": cpu})
    return metrics


@pytest.fixture
def offline(tmp_path: Path) -> Model:
    wrong = {"base": 1000, "merged": 79, "f16": 79, "q8_0": 79, "q4_k_m": 83, "q3_k_m": 103}
    folder = write(tmp_path / "metrics", 4_197_632, wrong)
    return default(folder, VARIANTS, "base/model", "embedded")


@pytest.fixture
def small(tmp_path: Path) -> Model:
    origin = {
        "name": "google/gemma-3-270m",
        "source": "package",
        "license": "gemma",
        "dequantized_from": "Q4_K_M",
        "revision": "sha256:a5fd3b62",
    }
    wrong = {"base": 1000, "merged": 12, "f16": 10, "q8_0": 10, "q4_k_m": 60, "q3_k_m": 400}
    folder = write(tmp_path / "results/small/metrics", 268_098_176, wrong, origin)
    return Model("small", folder, VARIANTS, origin, RECORD)


def table(text: str, first: str) -> dict[str, dict[str, str]]:
    """The table whose first heading is `first`: name of the row -> heading -> cell."""
    lines = text[text.index(f"| {first} |") :].partition("\n\n")[0].splitlines()
    split = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: dict(zip(split[0], row, strict=True)) for row in split[2:]}


def test_the_readme_has_a_row_a_model_once_there_is_a_study(offline: Model, small: Model) -> None:
    assert studies.readme_part([offline]) == ""
    text = studies.readme_part([offline, small])
    rows = table(text, "model")
    assert list(rows) == [OFFLINE, "small"]
    assert rows["small"]["parameters"] == "268 M"
    assert rows["small"]["exact match, f16 [95 %]"].startswith("0.990 [")
    assert rows["small"]["q4_k_m against f16, points [95 %]"].startswith("−5.0 [")
    assert rows[OFFLINE]["MiB, q4_k_m"] == "49.0"
    assert "`google/gemma-3-270m`, 268,098,176 parameters, dequantized from Q4_K_M" in text


def test_a_model_of_other_code_has_a_dagger(offline: Model, small: Model) -> None:
    old = Model(
        small.name, small.metrics, small.variants, small.base, small.record, {"eval": ["cartlm/engines"]}
    )
    assert list(table(studies.side_by_side([offline, old]), "model")) == [OFFLINE, "small†"]
    for text in (studies.side_by_side([offline, old]), studies.document([offline, old])):
        assert "`cartlm stale`" in text
    assert "`cartlm stale`" not in studies.document([offline, small])


def test_the_page_says_where_numbers_come_from(offline: Model, small: Model) -> None:
    assert "No study has been run" in studies.document([offline])
    text = studies.document([offline, small])
    for words in (
        "licence: gemma; revision: sha256:a5fd3b62", "`presets/small.yaml` at commit 1a2b3c4d, 2026-11-29, on a toy CPU x2",
        "has more): 2.2 h, of which finetune 2.0 h, eval 10 min, data 5 s", "### Quantized variants against F16",
    ):  # fmt: skip
        assert words in text, words
    rows = table(text.partition("### Quantized files")[2], "variant")
    assert rows["q3_k_m"]["bits per weight"] == "4.10"
    assert rows["q3_k_m"]["of another type"] == "3 of 24 tensors"
    assert rows["q3_k_m"]["by group"] == "ffn 25 %"
    dirty = Model(
        "small",
        small.metrics,
        VARIANTS,
        small.base,
        {**RECORD, "dirty": True, "left_out": "quantize-gguf@q6_k eval@q6_k bench-cpu"},
    )
    text = studies.document([offline, dirty])
    assert "with changes that are not in it" in text
    assert "Not run yet: q6_k, bench-cpu." in text


def test_the_cliff_by_size_of_the_model(offline: Model, small: Model) -> None:
    text = "\n\n".join(pretrained.sections([offline, small])).partition("## Where the cliff is")[2]
    rows = table(text, "variant")
    assert list(rows) == ["q8_0", "q4_k_m", "q3_k_m"], "from many bits to few"
    assert rows["q3_k_m"]["offline, 4.2 M: points [95 %]"].startswith("−2.4 [")
    assert rows["q3_k_m"]["small, 268 M: points [95 %]"].startswith("−39.0 [")
    assert rows["q3_k_m"]["bits, small"] == "4.10"
    assert (
        "`small` (268 M): the first to lose measurably is `q4_k_m` (4.90 bits per weight), the first to lose ten"
        in text
    )
    assert "ten points or more `q3_k_m` (4.10 bits per weight)." in text
    assert (
        "`offline` (4.2 M): the first to lose measurably is `q3_k_m` (4.10 bits per weight); none loses ten points."
        in text
    )


def test_a_model_that_loses_nothing(offline: Model) -> None:
    losses = {name: each for name, each in pretrained.differences(offline).items() if name == "q8_0"}
    assert pretrained.finding(offline, losses) == "none of 1 quantized variants loses exact match measurably"


def test_a_pretrained_study_gets_verdicts_where_the_default_has_none(offline: Model, small: Model) -> None:
    text = "\n\n".join(pretrained.sections([offline, small]))
    assert "### small" in text
    assert f"### {OFFLINE}" not in text
    rows = table(text, "claim")
    assert {claim: (row["ours [95 %]"].split(" ")[0], row["verdict"]) for claim, row in rows.items()} == {
        "base model before fine-tuning, exact match": ("0.08", "not reproduced"),
        "fine-tuned 1B, exact match": ("0.988", "reproduced"),
        "GGUF Q4_K_M, exact match": ("0.940", "better"),
        "GGUF Q3_K_M, exact match": ("0.600", "reproduced"),
        "Q4_K_M loses 10 points of it": ("−5.0", "better"),
        'Q3_K_M loses 39 points of it, the "quantization cliff"': ("−39.0", "reproduced"),
    }
    assert "`base`, 200 rows, 5-shot, small" in rows["base model before fine-tuning, exact match"]["on"]


def test_without_a_study_the_paper_page_is_as_it_was(offline: Model) -> None:
    assert pretrained.sections([offline]) == []
    measured = paper.Measured("base/model", paper.GENERATED)
    assert paper.document(offline.metrics, measured, []) == paper.document(offline.metrics, measured)


def test_the_terminal_shows_each_study_below_its_name(small: Model) -> None:
    assert studies.terminal([]) == ""
    lines = studies.terminal([small]).splitlines()
    assert lines[0] == "small: google/gemma-3-270m, 268,098,176 parameters, dequantized from Q4_K_M"
    assert [line.split()[0] for line in lines[2:-2]] == ["base", "base,", *VARIANTS[1:]]
    assert "cartlm stale" in lines[-1]


def test_a_study_without_a_benchmark_says_so_in_a_line(offline: Model, small: Model) -> None:
    page = studies.document([offline, small])
    assert results.UNTIMED not in page
    shutil.rmtree(small.metrics / "bench")
    page = studies.document([offline, small])
    assert page.split("### Speed and memory on the CPU")[1].strip().splitlines() == [results.UNTIMED]


def test_missing_numbers_leave_cells_empty(offline: Model, tmp_path: Path) -> None:
    nothing = Model("bare", tmp_path / "none", ["f16"], {})
    row = table(studies.side_by_side([offline, nothing]), "model")["bare"]
    assert set(row.values()) == {"bare", "none / none", ""}
    assert "## bare" in studies.document([offline, nothing])
    assert not nothing.pretrained


def test_a_model_says_which_languages_it_was_not_trained_on(offline: Model, tmp_path: Path) -> None:
    shares = {"language_english": 0.5, "language_spanish": 0.5}
    write_metrics(offline.metrics / "data.json", {"test_shares": shares, "train_shares": shares})
    assert offline.untrained == []
    write_metrics(
        offline.metrics / "data.json", {"test_shares": shares, "train_shares": {"language_english": 1.0}}
    )
    assert offline.untrained == ["Spanish"]
    assert "not fine-tuned on Spanish" in studies.readme_part([offline, offline])
