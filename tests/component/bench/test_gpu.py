"""The card's benchmark where no card is: what it refuses, how kernels become sections, and its script on the CPU.

Nothing here has seen a CUDA card. Where one is, tests/engines/test_stepping.py replays a graph; VRAM and NVML energy have
no test of their own there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from cartlm.bench import aggregate, gpu, plan, vram
from cartlm.errors import UserError
from cartlm.metrics import read_metrics
from tests.fixtures.toy256 import ROOT, one_line, stage

NO_CARD = pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a CUDA card")
CARD = {
    "gpu": "NVIDIA H100 80GB HBM3",
    "gpu_driver": "580.1",
    "gpu_power_limit_w": 700.0,
    "torch_cuda": "13.0",
}


@NO_CARD
def test_without_a_card_it_names_what_to_run_instead(repo: Path) -> None:
    committed = repo / "metrics/bench/t4/merged.json"
    committed.parent.mkdir(parents=True)
    committed.write_text("{}")
    line = one_line(stage(repo, "bench_gpu"))
    assert "torch has no CUDA card here: torch 2" in line
    assert line.endswith("the CPU target runs here: dvc repro")
    assert committed.read_text() == "{}"
    done = subprocess.run(
        [sys.executable, "-m", "gpu.architecture"], cwd=repo, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert "no CUDA card here" in one_line(done)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"), ("NVIDIA H200", "h200"), ("Tesla T4", "t4"), ("NVIDIA A100-SXM4-40GB", "a100"),
        ("NVIDIA L4", "l4"), ("NVIDIA GeForce RTX 4090", "4090"), ("NVIDIA RTX A6000", "a6000"), ("Quadro", "gpu"),
    ],
)  # fmt: skip
def test_the_word_of_a_card(name: str, word: str) -> None:
    assert gpu.slug(name) == word


def test_another_card_than_the_one_named_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.cuda is played here: there is no card."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda number: (9, 0))
    with pytest.raises(
        UserError, match=r"gpu\.card is t4, but this card is NVIDIA H200; set gpu\.card to h200"
    ):
        gpu.require_cuda("t4")
    assert gpu.require_cuda("h200")["gpu_compute_capability"] == "9.0"


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
        "stopped": True,
        "exact": True,
    }
    common = {
        "what": what, "round": round, "load_s": 1.0, "load1": 0.1, "wall_s": 9.0, "queries": [query] * 4,
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
        made.append({"what": "batched", "round": round, "levels": {"32": level}})
    made.append({"what": "accuracy", "round": 0, "exact": right, "n": 100, "batch_size": 32})
    return made


def test_the_fastest_kernel_speaks_for_its_variant(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 2**20)
    names = ["merged", "int4@torch", "int4@marlin"]
    models = {name: plan.Model(tmp_path, "transformers", "float16") for name in names}
    made = {"merged": records(50.0, 94), "int4@torch": records(20.0, 93), "int4@marlin": records(90.0, 92)}
    found = gpu.files(
        models, {"int4@machete": "needs SM90"}, made, gpu.fingerprint(CARD), 7, aggregate.Watts(50.0)
    )
    assert set(found) == {"merged", "int4"}
    assert set(found["merged"]) == {"machine", "engine", "gpu", "energy", "batch_32", "accuracy"}
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
    assert int4["batch_32"]["energy_j_per_token"] == pytest.approx(500 / 1600)
    assert int4["batch_32"]["energy_j_per_query"] == pytest.approx(500 / 128)


def test_what_does_not_run_is_left_out_with_its_reason(tmp_path: Path) -> None:
    plain = {"merged": plan.Model(tmp_path, "transformers", "float16")}
    given = ({"int4": tmp_path}, "cuda", "float16", ["a", "b"], "dvc repro")
    found, unsupported = gpu.models(plain, *given, lambda model: "broken" if model.kernel else "")
    assert list(found) == ["merged"]
    assert unsupported == {"int4@a": "broken", "int4@b": "broken"}
    with pytest.raises(UserError, match="nothing runs on this card: broken; cartlm check-gpu"):
        gpu.models(plain, *given, lambda model: "broken")


def test_no_card_no_vram() -> None:
    assert vram.Vram("cpu").now("load") == {}


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_architecture_script_runs_without_our_other_packages(tmp_path: Path) -> None:
    """On the CPU and a small shape; with pydantic, DVC, gguf and llama-cpp-python hidden, as on a bare CUDA machine."""
    for package in ("pydantic", "dvc", "gguf", "llama_cpp", "rapidfuzz"):
        (tmp_path / "hidden" / package).mkdir(parents=True)
        (tmp_path / "hidden" / package / "__init__.py").write_text(
            f"raise ModuleNotFoundError(name={package!r})"
        )
    for folder in ("cartlm", "gpu"):
        shutil.copytree(
            ROOT / folder, tmp_path / "repo" / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    done = subprocess.run(
        [
            sys.executable, "-m", "gpu.architecture", "--device", "cpu", "--name", "toy", "--kernels", "torch_aten,marlin",
            "--rounds", "1", "--queries", "1", "--batches", "2", "--prompt", "16", "--new", "3", "--max-spread", "99",
        ],
        cwd=tmp_path / "repo", capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": f"{tmp_path / 'hidden'}:{tmp_path / 'repo'}", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1])["target"] == "try-toy"
    folder = tmp_path / "repo/metrics/bench/try-toy"
    assert {path.stem for path in folder.iterdir()} == {"machine", "float16", "bfloat16", "int4-g128"}
    found = read_metrics(folder / "int4-g128.json")
    assert found["kernels"]["fastest"] == "torch_aten"
    assert "marlin: GPTQ kernel marlin does not run" in found["kernels"]["unsupported"]
    assert found["engine"]["kernel"] == "TorchAtenLinear, float16 on cpu"
    for name in ("float16", "int4-g128"):
        values = read_metrics(folder / f"{name}.json")
        assert values["gpu"]["decode_tokens_per_s"] > 0
        assert values["batch_2"]["decode_tokens_per_s"] > 0
        assert not [key for key in values["gpu"] if key.startswith("vram_")], "no card, no VRAM"
    sizes = [read_metrics(folder / f"{name}.json")["gpu"]["size_mib"] for name in ("float16", "int4-g128")]
    assert sizes[1] < sizes[0]
