"""Our images, built and run: `make test ARGS="-m container"`, where a docker daemon answers.

CARTLM_BASE_IMAGE names the images' base; CARTLM_WHEELS a folder of wheels to prefer, such as a CPU build of torch.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import ROOT
from tests.pipeline import toy_repo
from tests.pipeline.toy_repo import Repo

FOLDER = Path(__file__).parent
ENVIRON = {**os.environ, "DOCKER_BUILDKIT": "1"}
USER = "4321"  # nobody in the images
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


@pytest.fixture(scope="session")
def docker() -> Path:
    docker = client()
    if docker is None:
        pytest.skip("no docker that can build with BuildKit; install it: apt-get install docker.io")
    if run(docker, "info").returncode:
        pytest.skip("no docker daemon answers; start it: dockerd (DOCKER_HOST names another socket)")
    return docker


@pytest.fixture(scope="session")
def base_image(docker: Path) -> str:
    """CARTLM_BASE_IMAGE; else a stand-in for python:3.11-slim, made of this machine's packages (needs root)."""
    named = os.environ.get("CARTLM_BASE_IMAGE")
    if named:
        return named
    done = run(FOLDER / "make-base-image.sh", "docker")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def build(docker: Path, file: str, tag: str, *options: str, **arguments: str) -> str:
    """Build an image of this working tree, as a stranger's checkout would; returns its name."""
    build_args = [part for name, value in arguments.items() for part in ("--build-arg", f"{name}={value}")]
    built = run(docker, "build", *build_args, *options, "-f", ROOT / file, "-t", tag, ROOT)
    assert built.returncode == 0, built.stderr[-4000:]
    return tag


@pytest.fixture(scope="session")
def wheels(docker: Path) -> dict[str, str]:
    """Build arguments for torch's CPU build: from the folder of CARTLM_WHEELS, or where pip looks for wheels; else uv's."""
    folder = (
        os.environ.get("CARTLM_WHEELS") or run("pip", "config", "get", "global.find-links").stdout.strip()
    )
    if not folder or not any(Path(folder).glob("torch-*cpu*.whl")):
        return {}
    tag = "localhost/cartlm-wheels"
    with subprocess.Popen(["tar", "-C", folder, "-c", "."], stdout=subprocess.PIPE) as tar:
        subprocess.run([docker, "import", "-", tag], stdin=tar.stdout, check=True, capture_output=True)
    return {"WHEELS_IMAGE": tag, "TORCH_BACKEND": ""}


@pytest.fixture(scope="session")
def cpu_image(docker: Path, base_image: str, wheels: dict[str, str]) -> str:
    """Dockerfile.cpu, whole."""
    return build(
        docker, "Dockerfile.cpu", "localhost/cartlm:cpu", BASE_IMAGE=base_image, COMMIT="test", **wheels
    )


@pytest.fixture(scope="session")
def gpu_image(docker: Path, base_image: str) -> str:
    """Dockerfile.gpu, with the small ones of GPTQ's kernels for one architecture: Marlin takes long on few cores."""
    return build(
        docker, "Dockerfile.gpu", "localhost/cartlm:gpu",
        BASE_IMAGE=base_image, COMMIT="test", CUDA_ARCHITECTURES=ARCHITECTURE, GPTQ_KERNELS=" ".join(KERNELS),
    )  # fmt: skip


@dataclass(frozen=True)
class Inside:
    """Commands in a fresh container, by a user whom the image does not know, without network and card."""

    docker: Path
    image: str

    def __call__(self, *command: str) -> subprocess.CompletedProcess[str]:
        options = ("--rm", "--network", "none", "--user", f"{USER}:{USER}")
        return run(self.docker, "run", *options, self.image, *command)

    def config(self) -> dict[str, Any]:
        return json.loads(run(self.docker, "image", "inspect", self.image).stdout)[0]["Config"]

    def versions(self) -> dict[str, str]:
        """The version of each package that the image imports."""
        done = self("python", "docker/check_imports.py")
        assert done.returncode == 0, done.stderr
        return dict(line.split(" ") for line in done.stdout.splitlines() if line.count(" ") == 1)

    def refuses(self, module: str, mine: str, other: str) -> bool:
        """Whether the benchmark of target `other` stops with one line in this image, which is for `mine`."""
        done = self("python", "-m", module)
        named = f"this is the image for {mine}" in done.stderr
        line = done.stderr.count("\n") == 1 and done.stderr.endswith(f"; make bench TARGET={other}\n")
        return done.returncode == 2 and named and line

    def health(self) -> subprocess.CompletedProcess[str]:
        kind, *command = self.config()["Healthcheck"]["Test"]
        assert kind == "CMD"
        return self(*command)


@pytest.fixture(scope="session")
def volumes(docker: Path) -> Iterator[str]:
    """A compose project of its own, whose volumes go at the end."""
    project = f"cartlm-test-{os.getpid()}"
    yield project
    left = run(docker, "volume", "ls", "--quiet", "--filter", f"name={project}").stdout.split()
    run(docker, "volume", "rm", *left)


@dataclass(frozen=True)
class Checkout:
    """A toy repository that belongs to USER, run through its own docker/compose.sh as `make repro TARGET=cpu` does."""

    docker: Path
    repo: Repo
    environ: dict[str, str]

    @property
    def path(self) -> Path:
        return self.repo.path

    def make(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["make", *arguments],
            cwd=self.path,
            env={**self.environ, **environ},
            capture_output=True,
            text=True,
        )

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["make", *arguments], cwd=self.path, env=self.environ,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def containers(self) -> list[str]:
        project = self.environ["COMPOSE_PROJECT_NAME"]
        return run(self.docker, "ps", "--quiet", "--filter", f"name={project}").stdout.split()


@pytest.fixture(scope="session")
def checkouts(
    docker: Path, cpu_image: str, volumes: str, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Checkout]:
    """Makes fresh ones of the same bytes, by name: cut off from the network, two CPUs and 8 GiB allowed."""
    folder = tmp_path_factory.mktemp("checkouts")
    for path in (folder, folder.parent):
        path.chmod(0o755)
    fresh = toy_repo.make(folder / "fresh")
    (fresh.path / ".dvc/cache").mkdir(parents=True)
    who = {"CARTLM_UID": USER, "CARTLM_GID": USER, "COMPOSE_PROJECT_NAME": volumes}
    limits = {"NETWORK": "none", "CPUS": "2", "MEMORY": "8g"}
    environ = {**ENVIRON, **who, **limits, "CARTLM_CPU_IMAGE": cpu_image}
    environ.pop("CARTLM_IMAGE", None)

    def make(name: str) -> Checkout:
        # of its own: a run with another one's cache would restore instead of run
        cache = folder / f"{name}-cache"
        cache.mkdir()
        repo = toy_repo.copy(fresh, folder / name)
        subprocess.run(["chown", "-R", f"{USER}:{USER}", repo.path, cache], check=True)
        return Checkout(docker, repo, {**environ, "CACHE_VOLUME": str(cache)})

    return make


@pytest.fixture(scope="session")
def whole(checkouts: Callable[[str], Checkout]) -> tuple[Checkout, subprocess.CompletedProcess[str]]:
    """A checkout in which `make repro TARGET=cpu` ran, and its output. Not to be changed by a test."""
    checkout = checkouts("whole")
    return checkout, checkout.make("repro", "TARGET=cpu")
