"""Locks and Dockerfiles, as far as they can be read: what they promise, and that they agree."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = (ROOT / "Dockerfile.gpu").read_text(encoding="utf-8")
LOCKS = ("data", "train", "cpu", "dev", "gpu")


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / f"docker/{name}.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_the_lock_is_complete_and_agrees_with_the_others() -> None:
    gpu = pins("gpu")
    for name in LOCKS:
        other = pins(name)
        assert not [each for each in other.keys() & gpu.keys() if other[each] != gpu[each]], name
        assert name == "dev" or other.keys() <= gpu.keys(), name


def test_the_driver_asked_for_is_that_of_the_locked_cuda() -> None:
    asked = re.search(r'NVIDIA_REQUIRE_CUDA="cuda>=([\d.]+)"', DOCKERFILE)
    assert asked
    assert pins("gpu")["cuda-toolkit"].startswith(asked[1] + ".")


def test_stages_come_from_arguments_or_earlier_stages() -> None:
    """So that it builds where no registry is, and with older builders."""
    stages: list[str] = []
    for line in DOCKERFILE.splitlines():
        if found := re.match(r"FROM (\S+) AS (\S+)", line):
            assert found[1] == "${BASE_IMAGE}" or found[1] in stages
            stages.append(found[2])
        for source in re.findall(r"from=([\w-]+)", line):
            assert source in stages, line
    assert stages
    assert not re.search(r"^# *syntax=|<<|--link|python3\.\d+/", DOCKERFILE, flags=re.MULTILINE)
