"""The locks agree with each other and have hashes; the Dockerfiles install by them and promise what we promise."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from tests import ROOT

DOCKERFILES = {
    name: (ROOT / f"Dockerfile.{name}").read_text(encoding="utf-8").replace("\\\n", "")
    for name in ("cpu", "gpu")
}
LOCKS = ("data", "train", "cpu", "serve", "dev", "gpu")


def pins(name: str) -> dict[str, str]:
    """The version of each package in docker/NAME.txt."""
    lines = (ROOT / f"docker/{name}.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_locks_agree_and_the_one_for_cards_is_complete() -> None:
    gpu = pins("gpu")
    for name in LOCKS:
        other = pins(name)
        assert not [each for each in other.keys() & gpu.keys() if other[each] != gpu[each]], name
        assert name in ("serve", "dev") or other.keys() <= gpu.keys(), name


def test_every_locked_package_takes_the_oldest_python_that_is_promised() -> None:
    """Debian 12 has 3.11.2, and pip says only that there is no such version."""
    promised = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "requires-python"
    ]
    oldest = f"{promised.removeprefix('>=')}.0"
    wanted = {name: distribution(name).metadata["Requires-Python"] for name in pins("dev")}
    assert {name: each for name, each in wanted.items() if each and oldest not in SpecifierSet(each)} == {}


def test_the_required_driver_is_that_of_the_locked_cuda() -> None:
    required = re.search(r'NVIDIA_REQUIRE_CUDA="cuda>=([\d.]+)"', DOCKERFILES["gpu"])
    assert required
    assert pins("gpu")["cuda-toolkit"].startswith(required[1] + ".")


def test_every_pinned_version_has_its_hashes() -> None:
    """All but torch, whose CPU builds have an index of their own, and llama.cpp, which its script checks."""
    text = (ROOT / "docker/hashes.txt").read_text(encoding="utf-8")
    hashed = dict(re.findall(r"^(\S+)==(\S+) \\\n    --hash=sha256:[0-9a-f]{64}", text, flags=re.MULTILINE))
    pinned = {name: version for lock in LOCKS for name, version in pins(lock).items() if name != "torch"}
    assert hashed == pinned, "stale: python docker/lock.py --hashes"


@pytest.mark.parametrize("target", DOCKERFILES)
def test_images_install_with_the_hashes_and_the_locked_uv(target: str) -> None:
    text = DOCKERFILES[target]
    installs = [line for line in text.splitlines() if "uv pip install" in line and "$REMOTES" not in line]
    assert installs
    assert all("--verify-hashes" in line and "-c /build/docker/hashes.txt" in line for line in installs)
    assert f"ARG UV_VERSION={pins('dev')['uv']}\n" in text


@pytest.mark.parametrize("target", DOCKERFILES)
def test_what_every_image_promises(target: str) -> None:
    text = DOCKERFILES[target]
    final = text.rpartition("\nFROM ")[2]
    assert "\nUSER 1000:1000\n" in final
    assert "org.opencontainers.image.revision" in final
    assert 'ENTRYPOINT ["tini", "--", "python", "/opt/cartlm/entrypoint.py"]' in text
    assert f"CARTLM_IMAGE={target}" in text
    source = final.index("COPY . .")  # what changes often comes last
    assert not re.search(r"apt-get|uv pip|COPY --from", final[source:])


@pytest.mark.parametrize("target", DOCKERFILES)
def test_llama_cpp_is_built_with_the_files_that_check_it(target: str) -> None:
    """tests/component/system/test_llama_cpp_check.py runs the script with no more than these files."""
    stage = DOCKERFILES[target].partition(" AS llama-cpp\n")[2].partition("\nFROM ")[0]
    copied, _, build = stage.partition("RUN ")
    assert "/build/docker/llama_cpp.sh --portable" in build
    files = [
        f"{line.split()[-1]}{Path(name).name}"
        for line in copied.splitlines()
        if line.startswith("COPY ")
        for name in line.split()[1:-1]
    ]
    script = (ROOT / "docker/llama_cpp.sh").read_text(encoding="utf-8")
    check = re.search(r'^check=.*/\.\." && pwd\)/(\S+)"$', script, flags=re.MULTILINE)
    assert check
    probe = Path(check[1]).with_name("llama_cpp_probe.py")
    assert set(files) == {"/build/docker/llama_cpp.sh", f"/build/{check[1]}", f"/build/{probe}"}


@pytest.mark.parametrize("target", DOCKERFILES)
def test_stages_come_from_arguments_or_earlier_stages(target: str) -> None:
    """So that it builds where no registry is, and with older builders."""
    stages: list[str] = []
    for line in DOCKERFILES[target].splitlines():
        if match := re.match(r"FROM (\S+) AS (\S+)", line):
            assert match[1] in ("${BASE_IMAGE}", "${WHEELS_IMAGE}") or match[1] in stages
            stages.append(match[2])
        for source in re.findall(r"from=([\w-]+)", line):
            assert source in stages, line
    assert stages
    assert not re.search(r"^# *syntax=|<<|--link|python3\.\d+/", DOCKERFILES[target], flags=re.MULTILINE)
