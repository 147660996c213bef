"""A card's kernels become sections of one file per variant; the fingerprint of a card."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cartlm.bench import gpu, memory, publish, runner
from cartlm.bench.energy import Watts
from cartlm.bench.plan import Model, Plan, Target
from cartlm.errors import UserError
from cartlm.metrics import read_metrics

CARD = {
    "gpu": "NVIDIA H100 80GB HBM3",
    "gpu_driver": "580.1",
    "gpu_power_limit_w": 700.0,
    "torch_cuda": "13.0",
}


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"), ("NVIDIA H200", "h200"), ("Tesla T4", "t4"), ("NVIDIA A100-SXM4-40GB", "a100"),
        ("NVIDIA L4", "l4"), ("NVIDIA GeForce RTX 4090", "4090"), ("NVIDIA RTX A6000", "a6000"), ("Quadro", "gpu"),
    ],
)  # fmt: skip
def test_the_word_of_a_card(name: str, word: str) -> None:
    assert gpu.short_name(name) == word


def test_the_fingerprint_is_that_of_the_card() -> None:
    found = gpu.fingerprint(CARD)
    assert found["name"].startswith("NVIDIA H100 80GB HBM3, 700 W, driver 580.1, CUDA 13.0, ")
    assert gpu.fingerprint({**CARD, "gpu_power_limit_w": 350.0})["hash"] != found["hash"]


def record(what: str, round: int, **more: Any) -> dict[str, Any]:
    query = {
        "latency_s": 0.1,
        "ttft_s": 0.02,
        "prompt_tokens": 100,
        "decoded_tokens": 20,
        "decode_s": 0.08,
        "stopped": True,
        "exact": True,
    }
    common = {
        "kind": what, "round": round, "load_s": 1.0, "load1": 0.1, "wall_s": 9.0, "queries": [query] * 4,
        "prefill_tokens_per_s": 5000.0, "engine": {"name": "transformers", "kernel": "K", "graphs": "G"},
    }  # fmt: skip
    return {**common, **more}


def reading(joules: float, seconds: float) -> dict[str, Any]:
    return {"joules": joules, "seconds": seconds, "source": "NVML H100", "kind": "measured", "problem": ""}


def records(decode: float, right: int) -> list[dict[str, Any]]:
    """Two rounds of one model."""
    made = []
    for round in range(2):
        made.append(
            record(
                "queries", round, decode_tokens_per_s=decode + round, vram_run_allocated_mib=900.0 + round,
                energy=reading(300.0, 2.0), other_cpus_host=9.0,
            )
        )  # fmt: skip
        level = {
            "prefill_tokens_per_s": 9000.0, "decode_tokens_per_s": 10 * decode, "queries_per_s": 40.0, "times": 2,
            "decoded_tokens": 800, "energy": reading(300.0, 1.0),
        }  # fmt: skip
        made.append({"kind": "batched", "round": round, "levels": {"32": level}})
    made.append({"kind": "accuracy", "round": 0, "exact": right, "n": 100, "batch_size": 32})
    return made


def test_the_fastest_kernel_speaks_for_its_variant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is published of a card, from records."""
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 2**20)
    half = Model(tmp_path, "transformers", "float16")
    models = {"merged": half, "merged-nf4": replace(half, nf4=True), "int4@torch": half, "int4@marlin": half}
    models["reference"] = half
    made = {name: records(50.0, 94) for name in models}
    made |= {"int4@torch": records(20.0, 93), "int4@marlin": records(90.0, 92)}
    made["merged"][0]["load_s"] = 100.0
    monkeypatch.setattr(runner, "measure", lambda *_: made)
    monkeypatch.setattr(publish, "idle_watts", lambda target: Watts(50.0))
    monkeypatch.setattr(publish, "committed", lambda path: {})
    plan = Plan(7, 2, 4, 4, 1, 8, 64, "\n")
    target = Target("gpu", gpu.fingerprint(CARD), lambda: None, CARD)  # type: ignore[arg-type,return-value]
    unsupported = {"int4@machete": "needs SM90", "int8@torch": "no"}
    lines: list[str] = []
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics/int3.json").write_text("{}")
    count = publish.run(
        tmp_path / "metrics", tmp_path / "raw", models, [], plan, target, max_spread=9.0, strict=False,
        progress=lines.append, unsupported=unsupported,
    )  # fmt: skip
    assert count == 5 * 5
    assert any("int3.json, no longer measured" in line for line in lines)
    found = {path.stem: read_metrics(path) for path in (tmp_path / "metrics").glob("*.json")}
    assert set(found) == {"merged", "merged-nf4", "int4", "reference", "machine"}
    assert set(found["merged"]) == {"machine", "engine", "gpu", "energy", "batch_32", "accuracy"}
    assert found["merged"]["gpu"]["size_mib"] == 1
    assert (
        "size_mib" not in found["merged-nf4"]["gpu"]
    )  # quantized at load: the file is that of the 16-bit model
    assert found["reference"]["reference"]["engine"] == "transformers"
    assert "load_s" not in found["merged"]["gpu"]  # 1 s and 100 s
    details = found["machine"]["details"]
    assert details["left_out"] == "merged gpu.load_s"
    assert any("merged gpu.load_s" in line for line in lines)
    assert details["not_measured"] == "int8@torch: no"
    rounds = list(csv.DictReader((tmp_path / "metrics/rounds.csv").open(newline="")))
    decode = {
        (row["variant"], row["metric"]): float(row["value"])
        for row in rounds
        if row["round"] == "1" and row["metric"].endswith(".decode_tokens_per_s")
    }
    assert (
        decode[("int4", "gpu.decode_tokens_per_s")]
        == decode[("int4", "kernel_marlin.decode_tokens_per_s")]
        == 91
    )
    assert decode[("int4", "kernel_torch.decode_tokens_per_s")] == 21
    assert decode[("reference", "gpu.decode_tokens_per_s")] == 51
    assert ("int4@torch", "gpu.decode_tokens_per_s") not in decode
    keys = {row["metric"] for row in rounds if row["variant"] == "int4"}
    assert {
        "batch_32.decode_tokens_per_s",
        "kernel_torch.batch_32_decode_tokens_per_s",
        "energy.energy_j_per_query",
    } <= keys
    int4 = found["int4"]
    assert int4["kernels"] == {
        "fastest": "marlin", "measured": "torch, marlin", "unsupported": "machete: needs SM90",
    }  # fmt: skip
    assert int4["gpu"]["decode_tokens_per_s"] == 90.5
    assert int4["gpu"]["vram_run_allocated_mib"] == 900.5
    assert int4["accuracy"]["exact_match"] == 0.92
    assert int4["kernel_torch"]["decode_tokens_per_s"] == 20.5
    assert int4["kernel_torch"]["batch_32_decode_tokens_per_s"] == 200.0
    assert int4["kernel_torch"]["exact_match"] == 0.93
    # 2 x (300 J - 50 W x 2 s) over 8 queries of 20 tokens; other programs on the CPU are not in the card's joules
    assert int4["energy"]["energy_j_per_query"] == pytest.approx(400 / 8)
    assert int4["energy"]["energy_j_per_token"] == pytest.approx(400 / 160)
    # 2 x (300 J - 50 W x 1 s) over 2 x 800 tokens, and over 2 x 2 x 32 queries
    assert int4["batch_32"]["energy_j_per_token"] == pytest.approx(500 / 1600, rel=1e-3)
    assert int4["batch_32"]["energy_j_per_query"] == pytest.approx(500 / 128, rel=1e-3)


def test_what_does_not_run_is_left_out_with_its_reason(tmp_path: Path) -> None:
    plain = {"merged": Model(tmp_path, "transformers", "float16")}
    found, unsupported = gpu.models(plain, plain, "ab", lambda model: "broken" if model.kernel else "")
    assert list(found) == ["merged"]
    assert unsupported == {"merged@a": "broken", "merged@b": "broken"}
    with pytest.raises(UserError, match="nothing runs on this card: broken; cartlm check-gpu"):
        gpu.models(plain, plain, "ab", lambda model: "broken")


def test_no_card_no_vram() -> None:
    assert memory.Vram("cpu").now("load") == {}
