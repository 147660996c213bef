"""Images take long to build: their tests run only when asked for, `make test ARGS="-m container"`, where docker answers."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent
ENVIRON = {**os.environ, "DOCKER_BUILDKIT": "1"}
ASKED = "-m container"
ARCHITECTURE, KERNELS = "9.0", ("exllamav2", "pack_block_cpu")


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRON)


def client() -> Path | None:
    """The first docker on the PATH that can build with BuildKit (a bare one of another version may stand before it)."""
    for folder in os.get_exec_path():
        docker = Path(folder) / "docker"
        if os.access(docker, os.X_OK) and run(docker, "build", "--help").returncode == 0:
            return docker
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip them with the reason: nobody asked, or what is missing."""
    ours = [item for item in items if item.get_closest_marker("container")]
    if not ours:
        return
    reason = ""
    if "container" not in config.getoption("markexpr"):
        reason = f'images are built only when asked for: make test ARGS="{ASKED}"'
    elif (docker := client()) is None:
        reason = "no docker that can build with BuildKit; install it: apt-get install docker.io"
    elif run(docker, "info").returncode:
        reason = "no docker daemon answers; start it: dockerd (DOCKER_HOST names another socket)"
    for item in ours if reason else []:
        item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def docker() -> Path:
    found = client()
    assert found
    return found


@pytest.fixture(scope="session")
def base_image() -> str:
    """CARTLM_BASE_IMAGE; else a stand-in for python:3.11-slim, made of this machine's packages (needs root)."""
    named = os.environ.get("CARTLM_BASE_IMAGE")
    if named:
        return named
    made = run(FOLDER / "make-base-image.sh", "docker")
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


@pytest.fixture(scope="session")
def gpu_image(docker: Path, base_image: str) -> str:
    """Dockerfile.gpu, with the small ones of GPTQ's kernels for one architecture: Marlin takes long on few cores."""
    tag = "localhost/cartlm:gpu"
    arguments = (
        f"BASE_IMAGE={base_image}",
        f"CUDA_ARCHITECTURES={ARCHITECTURE}",
        f"GPTQ_KERNELS={' '.join(KERNELS)}",
        "COMMIT=test",
    )
    options = [part for each in arguments for part in ("--build-arg", each)]
    built = run(docker, "build", *options, "-f", ROOT / "Dockerfile.gpu", "-t", tag, ROOT)
    assert built.returncode == 0, built.stderr[-4000:]
    return tag
