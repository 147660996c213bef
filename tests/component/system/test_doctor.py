"""cartlm doctor: what it finds here and in trees of files, and when its exit code says no."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cartlm import cli
from cartlm.system import doctor, llama_cpp_check
from tests import ROOT


def run(cwd: Path, *options: str, **environ: str) -> Result:
    with contextlib.chdir(cwd):
        return CliRunner().invoke(cli.main, ["doctor", *options], env=environ)


def test_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' machine has all that is needed; each line that says `--` tells what that costs."""
    done = run(ROOT)
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert {line[:2] for line in lines} <= {"ok", "--"}
    assert all("missing: " in line for line in lines if line.startswith("--"))
    monkeypatch.setattr(
        llama_cpp_check, "check", lambda prefix: llama_cpp_check.Verdict()
    )  # proven once is enough
    names = {found["name"] for found in json.loads(run(ROOT, "--json").stdout)}
    assert {"CPU", "memory", "disk", "llama.cpp", "torch", "CUDA card", "energy, CPU", "DVC remote"} <= names


def test_nothing_heavy_is_imported() -> None:
    """It is the images' health check."""
    code = (
        "import sys; from pathlib import Path; from cartlm.system import doctor; doctor.examine(Path('.'));"
        "print(sorted({'torch', 'transformers', 'llama_cpp', 'dvc', 'pandas'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_without_llama_cpp(tmp_path: Path) -> None:
    done = run(tmp_path, CARTLM_LLAMA_CPP=str(tmp_path / "none"))
    assert done.exit_code == 2
    assert done.stderr.startswith(
        f"cartlm: error: llama.cpp is missing: there is no llama.cpp in {tmp_path}/none: "
    )
    assert done.stderr.count("\n") == 1
    assert "NO  llama.cpp" in done.stdout
    assert "--  repository       missing: no git and DVC repository here" in done.stdout
    assert done.stderr.endswith("make setup\n")


def test_what_an_image_lacks_is_not_mended_from_inside(tmp_path: Path) -> None:
    done = run(tmp_path, CARTLM_IMAGE="cpu", CARTLM_LLAMA_CPP=str(tmp_path / "none"))
    assert done.stderr.endswith("make image TARGET=cpu, outside of this container\n")


def test_the_image_for_cards_needs_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_cpp_check, "check", lambda prefix: llama_cpp_check.Verdict())
    if any(each.name == "CUDA card" and each.found for each in doctor.examine(ROOT)):
        pytest.skip("a CUDA card is here")
    assert run(tmp_path, CARTLM_IMAGE="cpu").exit_code == 0
    done = run(tmp_path, CARTLM_IMAGE="gpu")
    assert done.exit_code == 2
    assert done.stderr.startswith("cartlm: error: CUDA card is missing: ")
