"""cartlm doctor: what it finds in trees of files."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from cartlm.errors import UserError
from cartlm.system import doctor, llama_cpp_check
from tests import ROOT


@pytest.fixture(autouse=True)
def sound_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_cpp_check, "check", lambda prefix: llama_cpp_check.Verdict(variant="native"))


@pytest.mark.parametrize(
    ("gone", "image", "needed"),
    [
        ("dvc", "", True), ("torch", "", False), ("torch", "cpu", True), ("gptqmodel", "", False),
        ("bitsandbytes", "gpu", True), ("trl", "", False), ("trl", "cpu", False), ("trl", "gpu", True),
        ("openai", "", False), ("openai", "cpu", False), ("datasets", "gpu", False),
    ],
)  # fmt: skip
def test_only_what_all_need_is_needed(
    monkeypatch: pytest.MonkeyPatch, gone: str, image: str, needed: bool
) -> None:
    """An optional package that is missing is told, with its cost, and is no failure."""
    version = importlib.metadata.version

    def without(name: str) -> str:
        if name == gone:
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", without)
    found = doctor.examine(ROOT, {"CARTLM_IMAGE": image} if image else {})
    assert next(each.cost for each in found if each.name == gone)
    assert (gone in {each.name for each in doctor.broken(found)}) is needed
    line = next(line for line in doctor.text(found).splitlines() if line[4:].startswith(f"{gone} "))
    assert line.startswith("NO  " if needed else "--  ")
    assert line.endswith(" -> make setup" if not image else "outside of this container")


def test_little_memory_and_a_meter(tmp_path: Path) -> None:
    """A constructed /proc and /sys."""
    files = {
        "proc/cpuinfo": "model name : Toy 9000\n",
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/cgroup.controllers": "memory\n",
        "sys/fs/cgroup/memory.max": f"{2**30}\n",
        "sys/class/powercap/intel-rapl:0/name": "package-0\n",
        "sys/class/powercap/intel-rapl:0/energy_uj": "1\n",
        "sys/class/powercap/intel-rapl:0/max_energy_range_uj": "65532610987\n",
    }
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    found = {each.name: each for each in doctor.examine(tmp_path, {"HF_TOKEN": "secret"}, tmp_path)}
    assert found["memory"].cost == "1.0 GiB, by a limit, less than 4: stages may be killed"
    assert found["energy, CPU"].found == "RAPL package-0"
    assert found["HF_TOKEN"].found == "set"
    assert "secret" not in doctor.text(found.values())
    assert found["OPENAI_API_KEY"].cost


@pytest.mark.parametrize("file", [".dvc/config", ".dvc/config.local"])
def test_the_default_remote(tmp_path: Path, file: str) -> None:
    with pytest.raises(UserError, match="each clone makes all models itself"):
        doctor.remote(tmp_path)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / file).write_text("[core]\n    remote = shop\n['remote \"shop\"']\n    url = s3://bucket\n")
    assert doctor.remote(tmp_path) == "shop"


def test_a_broken_config_is_named(tmp_path: Path) -> None:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("no section\n")
    with pytest.raises(UserError, match="no section headers"):
        doctor.remote(tmp_path)
