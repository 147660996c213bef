"""The card's benchmark where no card is: what it refuses, how kernels become sections, and its script on the CPU.

Nothing here has seen a CUDA card. Where one is, tests/engines/test_stepping.py replays a graph; VRAM and NVML energy have
no test of their own there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cartlm.bench import gpu
from cartlm.errors import UserError
from cartlm.metrics import read_metrics
from tests.fixtures import working_tree
from tests.fixtures.toy256 import ROOT, one_line, stage

NO_CARD = pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a CUDA card")


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
    working_tree.copy(tmp_path / "repo", "cartlm", "gpu")
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
    written = tmp_path / "repo/metrics/bench/try-toy"
    assert {path.stem for path in written.iterdir()} == {
        "machine", "rounds", "float16", "bfloat16", "int4-g128", "reference",
    }  # fmt: skip
    found = read_metrics(written / "int4-g128.json")
    assert found["kernels"]["fastest"] == "torch_aten"
    assert "marlin: GPTQ kernel marlin does not run" in found["kernels"]["unsupported"]
    assert found["engine"]["kernel"] == "TorchAtenLinear, float16 on cpu"
    for name in ("float16", "int4-g128"):
        values = read_metrics(written / f"{name}.json")
        assert values["gpu"]["decode_tokens_per_s"] > 0
        assert values["batch_2"]["decode_tokens_per_s"] > 0
        assert not [key for key in values["gpu"] if key.startswith("vram_")], "no card, no VRAM"
    sizes = [read_metrics(written / f"{name}.json")["gpu"]["size_mib"] for name in ("float16", "int4-g128")]
    assert sizes[1] < sizes[0]
