"""The table of a card, from files as gpu.files makes them; no card was measured here, the figures are played."""

from __future__ import annotations

import json
from pathlib import Path

from cartlm.report import cards, readme

MACHINE = {"name": "NVIDIA H200, 700 W", "hash": "abc"}


def write(folder: Path) -> None:
    gpu = {
        "size_mib": 2400.0,
        "decode_tokens_per_s": 100.0,
        "prefill_tokens_per_s": 9000.0,
        "vram_run_allocated_mib": 2500.0,
    }
    merged = {
        "machine": MACHINE, "gpu": gpu, "accuracy": {"exact_match": 0.94}, "energy": {"energy_j_per_token": 1.5},
        "batch_8": {"decode_tokens_per_s": 700.0}, "batch_32": {"decode_tokens_per_s": 2000.0},
    }  # fmt: skip
    marlin = {"decode_tokens_per_s": 180.0, "exact_match": 0.93, "batch_32_decode_tokens_per_s": 3000.0}
    int4 = {
        "machine": MACHINE, "gpu": {**gpu, "size_mib": 900.0}, "kernel_marlin": marlin,
        "kernel_torch": {"decode_tokens_per_s": 40.0}, "kernels": {"fastest": "marlin", "unsupported": "machete: no"},
    }  # fmt: skip
    folder.mkdir(parents=True)
    for name, values in {"machine": {"machine": MACHINE}, "merged": merged, "int4-g128": int4}.items():
        (folder / f"{name}.json").write_text(json.dumps(values))


def test_a_baseline_without_a_decode_speed_has_no_ratios(tmp_path: Path) -> None:
    """As of answers of one token."""
    folder = tmp_path / "bench/h200"
    write(folder)
    merged = json.loads((folder / "merged.json").read_text())
    del merged["gpu"]["decode_tokens_per_s"]
    (folder / "merged.json").write_text(json.dumps(merged))
    assert "int4-g128" in cards.block(folder)


def test_a_row_a_kernel_and_its_ratio_to_fp16(tmp_path: Path) -> None:
    write(tmp_path / "bench/h200")
    text = cards.block(tmp_path / "bench/h200")
    lines = text.splitlines()
    assert lines[0] == "h200, one query at a time: NVIDIA H200, 700 W."
    assert [line.split("|")[1].strip() for line in lines[4:7]] == [
        "merged",
        "int4-g128, marlin",
        "int4-g128, torch",
    ]
    assert lines[4].count("|") == lines[2].count("|")
    assert "| 1.00x |" in lines[4]
    assert "| 2,000 |" in lines[4]
    assert "| 0.930 |" in lines[5]
    assert "| 1.80x |" in lines[5]
    assert "| 3,000 |" in lines[5]
    assert "| 0.40x |" in lines[6]
    assert lines[-1] == "Does not run there: int4-g128: machete: no."


def test_the_readme_shows_it_and_nothing_of_other_folders(tmp_path: Path) -> None:
    write(tmp_path / "bench/h200")
    (tmp_path / "bench/cpu").mkdir()
    (tmp_path / "bench/cpu/f16.json").write_text(json.dumps({"cpu": {}, "machine": MACHINE}))
    assert len(cards.blocks(tmp_path)) == 1
    assert "int4-g128, marlin" in readme.block(tmp_path, [])
