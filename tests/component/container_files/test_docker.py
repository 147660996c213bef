"""Locks and Dockerfiles, as far as they can be read: what they promise, and that they agree."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests import ROOT

DOCKERFILES = {
    name: (ROOT / f"Dockerfile.{name}").read_text(encoding="utf-8").replace("\\\n", "")
    for name in ("cpu", "gpu")
}
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
    asked = re.search(r'NVIDIA_REQUIRE_CUDA="cuda>=([\d.]+)"', DOCKERFILES["gpu"])
    assert asked
    assert pins("gpu")["cuda-toolkit"].startswith(asked[1] + ".")


def test_every_pinned_version_has_its_hashes() -> None:
    """All but torch, whose CPU builds stand in an index of their own, and llama.cpp, which its script checks."""
    text = (ROOT / "docker/hashes.txt").read_text(encoding="utf-8")
    hashed = dict(re.findall(r"^(\S+)==(\S+) \\\n    --hash=sha256:[0-9a-f]{64}", text, flags=re.MULTILINE))
    wanted = {name: version for lock in LOCKS for name, version in pins(lock).items() if name != "torch"}
    assert hashed == wanted, "stale: python docker/lock.py --hashes"


@pytest.mark.parametrize("right", [True, False])
def test_a_file_with_another_hash_is_refused(tmp_path: Path, right: bool) -> None:
    """uv checks the hashes of a constraints file where there are some, as the images count on; pip cannot."""
    for name in ("toy", "other"):
        with zipfile.ZipFile(tmp_path / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}.py", "")
            wheel.writestr(
                f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
            )
            wheel.writestr(
                f"{name}-1.0.dist-info/WHEEL",
                "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            )
            wheel.writestr(f"{name}-1.0.dist-info/RECORD", "")
    digest = hashlib.sha256(
        (tmp_path / "toy-1.0-py3-none-any.whl").read_bytes() if right else b""
    ).hexdigest()
    (tmp_path / "hashes.txt").write_text(f"toy==1.0 \\\n    --hash=sha256:{digest}\n")
    (tmp_path / "lock.txt").write_text("toy==1.0\nother==1.0\n")
    options = [
        "--verify-hashes",
        "--no-index",
        "--find-links",
        tmp_path,
        "--target",
        tmp_path / "out",
        "--no-config",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "uv", "pip", "install", *options, "-r", "lock.txt", "-c", "hashes.txt"],
        cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "UV_CACHE_DIR": str(tmp_path / "cache")},
    )  # fmt: skip
    assert (tmp_path / "out/toy.py").exists() == right, done.stderr
    assert (done.returncode == 0) == right
    assert right or "Hash mismatch for `toy==1.0`" in done.stderr


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
    assert 'CMD ["cartlm", "doctor"]' in text
    assert "org.opencontainers.image.revision" in final
    assert 'ENTRYPOINT ["tini", "--", "python", "/opt/cartlm/entrypoint.py"]' in text
    assert f"CARTLM_IMAGE={target}" in text
    assert re.search(r"ARG BASE_IMAGE=python:3\.11\.\d+-slim-bookworm(@sha256:[0-9a-f]{64})?\n", text)
    source = final.index("COPY . .")  # what changes often stands last
    assert not re.search(r"apt-get|uv pip|COPY --from", final[source:])


@pytest.mark.parametrize("target", DOCKERFILES)
def test_llama_cpp_proves_itself_in_every_image(target: str) -> None:
    """The script has what it checks a build with; tests/test_llama_cpp_check.py runs it with no more than these files."""
    stage = DOCKERFILES[target].partition(" AS llama-cpp\n")[2].partition("\nFROM ")[0]
    assert "COPY docker/llama_cpp.sh /build/docker/\n" in stage
    assert "COPY cartlm/system/llama_cpp_probe.py cartlm/system/llama_cpp_check.py /build/cartlm/\n" in stage
    assert stage.index("COPY cartlm/") < stage.index(
        "RUN CARTLM_CACHE=/build/cache /build/docker/llama_cpp.sh --portable"
    )


@pytest.mark.parametrize("target", DOCKERFILES)
def test_stages_come_from_arguments_or_earlier_stages(target: str) -> None:
    """So that it builds where no registry is, and with older builders."""
    stages: list[str] = []
    for line in DOCKERFILES[target].splitlines():
        if found := re.match(r"FROM (\S+) AS (\S+)", line):
            assert found[1] in ("${BASE_IMAGE}", "${WHEELS_IMAGE}") or found[1] in stages
            stages.append(found[2])
        for source in re.findall(r"from=([\w-]+)", line):
            assert source in stages, line
    assert stages
    assert not re.search(r"^# *syntax=|<<|--link|python3\.\d+/", DOCKERFILES[target], flags=re.MULTILINE)


def test_the_tests_of_make_bench_load_with_what_the_cpu_image_has() -> None:
    """It has pytest and three of its plugins, and not xdist."""
    code = (
        "import sys; sys.modules['xdist'] = None; import pytest;"
        "sys.exit(pytest.main(['--collect-only', '-q', 'tests/benchmarks', '-p', 'pytest_timeout', '-p', 'pytest_benchmark.plugin']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
    install = next(line for line in DOCKERFILES["cpu"].splitlines() if "pytest-benchmark" in line)
    assert "xdist" not in install
