"""The tables of architectures and cards, on numbers known beforehand; no card was measured here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cartlm.metrics import write_metrics
from cartlm.report import hardware

MACHINE = {"name": "a toy CPU x2", "hash": "aa"}


def write(
    folder: Path, variant: str, decode: float, prefill: float, latency: float, memory: float, **more: dict
) -> None:
    speed = {
        "prefill_tokens_per_s": prefill, "decode_tokens_per_s": decode, "latency_ms_p50": latency, "peak_rss_mib": memory,
        "prompt_tokens_per_query": 150.0, "decoded_tokens_per_query": 24.0,
    }  # fmt: skip
    write_metrics(folder / f"{variant}.json", {"machine": MACHINE, "cpu": speed, **more})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "metrics/bench/cpu-llama-9"
    write(made, "q4_k_m", 20.0, 100.0, 2000.0, 1000.0, harness={"prefill_ratio": 0.98, "decode_ratio": 1.01})
    write(made, "q8_0", 15.0, 80.0, 2500.0, 1500.0)
    write(made, "f16", 10.0, 50.0, 4000.0, 2500.0)
    write(made, "transformers-float16", 2.0, 10.0, 20000.0, 5000.0)
    write_metrics(made / "machine.json", {"machine": MACHINE})
    return made


def test_a_measured_architecture(folder: Path) -> None:
    text = hardware.architecture(folder)
    assert "a toy CPU x2" in text
    assert "150 prompt and 24.0 new tokens" in text
    assert "prefill 0.98 to 0.98, decode 1.01 to 1.01" in text


def test_variants_come_from_many_bits_to_few(folder: Path) -> None:
    rows = [
        line.split(" | ")[0] for line in hardware.architecture(folder).splitlines() if line.startswith("| ")
    ]
    assert rows[1:5] == ["| transformers-float16", "| f16", "| q8_0", "| q4_k_m"]


def test_what_was_not_measured_is_left_out(tmp_path: Path) -> None:
    assert hardware.sections(tmp_path) == []
    (tmp_path / "bench/cpu-x").mkdir(parents=True)
    assert hardware.sections(tmp_path) == []


def test_the_reference_model_has_no_row(folder: Path) -> None:
    write(folder, "reference", 1.0, 1.0, 1.0, 1.0)
    assert "reference" not in hardware.architecture(folder)


@pytest.mark.parametrize(("hash", "apart"), [("aa", False), ("bb", True)])
def test_another_machine_than_the_main_tables_is_said(folder: Path, hash: str, apart: bool) -> None:
    machine = {**MACHINE, "hash": hash}
    write_metrics(folder.with_name("cpu") / "q8_0.json", {"machine": machine, "cpu": {"load_s": 1.0}})
    assert ("another machine" in hardware.architecture(folder)) == apart


CARD = {"name": "NVIDIA H200, 700 W", "hash": "abc"}


def write_card(folder: Path) -> None:
    gpu = {
        "size_mib": 2400.0,
        "decode_tokens_per_s": 100.0,
        "prefill_tokens_per_s": 9000.0,
        "vram_run_allocated_mib": 2500.0,
    }
    merged = {
        "machine": CARD, "gpu": gpu, "accuracy": {"exact_match": 0.94}, "energy": {"energy_j_per_token": 1.5},
        "batch_8": {"decode_tokens_per_s": 700.0}, "batch_32": {"decode_tokens_per_s": 2000.0},
    }  # fmt: skip
    marlin = {"decode_tokens_per_s": 180.0, "exact_match": 0.93, "batch_32_decode_tokens_per_s": 3000.0}
    int4 = {
        "machine": CARD, "gpu": {**gpu, "size_mib": 900.0}, "kernel_marlin": marlin,
        "kernel_torch": {"decode_tokens_per_s": 40.0}, "kernels": {"fastest": "marlin", "unsupported": "machete: no"},
    }  # fmt: skip
    folder.mkdir(parents=True)
    for name, values in {"machine": {"machine": CARD}, "merged": merged, "int4-g128": int4}.items():
        (folder / f"{name}.json").write_text(json.dumps(values))


def test_a_baseline_without_a_decode_speed_has_no_ratios(tmp_path: Path) -> None:
    """As of answers of one token."""
    folder = tmp_path / "bench/h200"
    write_card(folder)
    merged = json.loads((folder / "merged.json").read_text())
    del merged["gpu"]["decode_tokens_per_s"]
    (folder / "merged.json").write_text(json.dumps(merged))
    assert "int4-g128" in hardware.card(folder)


def test_a_row_a_kernel_and_its_ratio_to_fp16(tmp_path: Path) -> None:
    write_card(tmp_path / "bench/h200")
    text = hardware.card(tmp_path / "bench/h200")
    lines = text.splitlines()
    assert lines[:3] == ["## h200", "", "One query at a time, on NVIDIA H200, 700 W."]
    assert [line.split("|")[1].strip() for line in lines[6:9]] == [
        "merged",
        "int4-g128, marlin",
        "int4-g128, torch",
    ]
    assert lines[6].count("|") == lines[4].count("|")
    assert "| 1.00x |" in lines[6]
    assert "| 2,000 |" in lines[6]
    assert "| 0.930 |" in lines[7]
    assert "| 1.80x |" in lines[7]
    assert "| 3,000 |" in lines[7]
    assert "| 0.40x |" in lines[8]
    assert lines[-1] == "Does not run there: int4-g128: machete: no."


def test_the_tables_of_all_folders(tmp_path: Path, folder: Path) -> None:
    metrics = folder.parents[1]
    write_card(metrics / "bench/h200")
    (metrics / "bench/cpu").mkdir()
    (metrics / "bench/cpu/f16.json").write_text(json.dumps({"cpu": {}, "machine": CARD}))
    assert [text.split("\n")[0] for text in hardware.sections(metrics)] == [
        "## llama-9 with random weights",
        "## h200",
    ]
