"""The tables of measured architectures, on numbers known beforehand."""

from __future__ import annotations

from pathlib import Path

import pytest

from cartlm.metrics import write_metrics
from cartlm.report import architecture

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


def test_ratios_say_what_the_bits_and_what_the_runtime_brought(folder: Path) -> None:
    text = architecture.block(folder)
    assert "| f16 | 2.00x | 2.00x | 2.00x | -60 % |" in text
    assert "| transformers-float16 | 10.00x | 10.00x | 10.00x | -80 % |" in text
    assert "transformers-float32" not in text
    assert "a toy CPU x2" in text
    assert "150 prompt and 24.0 new tokens" in text
    assert "prefill 0.980 to 0.980, decode 1.010 to 1.010" in text


def test_variants_come_from_many_bits_to_few(folder: Path) -> None:
    rows = [line.split(" | ")[0] for line in architecture.block(folder).splitlines() if line.startswith("| ")]
    assert rows[1:5] == ["| transformers-float16", "| f16", "| q8_0", "| q4_k_m"]


def test_what_was_not_measured_is_left_out(tmp_path: Path) -> None:
    assert architecture.folders(tmp_path) == []
    folder = tmp_path / "bench/cpu-x"
    folder.mkdir(parents=True)
    assert architecture.folders(tmp_path) == [folder]
    assert architecture.block(folder) == ""


@pytest.mark.parametrize(("hash", "apart"), [("aa", False), ("bb", True)])
def test_another_machine_than_the_main_tables_is_said(folder: Path, hash: str, apart: bool) -> None:
    machine = {**MACHINE, "hash": hash}
    write_metrics(folder.with_name("cpu") / "q8_0.json", {"machine": machine, "cpu": {"load_s": 1.0}})
    assert ("another machine" in architecture.block(folder)) == apart
