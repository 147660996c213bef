"""Dockerfile.cpu and docker/compose.yaml, for real: the image built, the chain run in it, containers killed."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.containers.conftest import USER, Checkout, Inside, run
from tests.test_docker import pins

pytestmark = [pytest.mark.container, pytest.mark.slow, pytest.mark.timeout(2 * 3600)]

GB = 10**9
# Not ninja, which only starts them: gptqmodel brings it.
COMPILERS = (
    "gcc",
    "g++",
    "cc",
    "c++",
    "cpp",
    "cc1",
    "cc1plus",
    "clang",
    "as",
    "ld",
    "cmake",
    "nvcc",
    "rustc",
)
CACHES = (
    "/root/.cache",
    "/home/cartlm/.cache",
    "/var/cache/apt/*.bin",
    "/var/lib/apt/lists/*_*",
    "/build",
    "/wheels/*",
)
SECRETS = (
    "*.pem",
    "*.key",
    "id_rsa*",
    "id_ed25519*",
    ".env",
    ".netrc",
    ".pypirc",
    "config.local",
    "*credential*",
)


@pytest.fixture
def inside(docker: Path, cpu_image: str) -> Inside:
    return Inside(docker, cpu_image)


def test_everything_is_imported(inside: Inside) -> None:
    done = inside("python", "docker/check_imports.py")
    assert done.returncode == 0, done.stderr
    versions = dict(line.split(" ") for line in done.stdout.splitlines() if line.count(" ") == 1)
    assert versions["torch"].partition("+")[0] == pins("cpu")["torch"]
    assert {"gptqmodel", "llama_cpp", "bitsandbytes", "peft", "trl", "dvc", "cartlm"} <= versions.keys()


def test_its_settings(inside: Inside) -> None:
    config = inside.config()
    environ = dict(line.split("=", 1) for line in config["Env"])
    assert config["User"] == "1000:1000"
    assert environ["CARTLM_IMAGE"] == "cpu"
    assert config["Entrypoint"][0] == "tini"
    assert config["Labels"]["org.opencontainers.image.revision"] == "test"


def test_the_health_check_is_the_doctor(inside: Inside) -> None:
    done = inside.health()
    assert done.returncode == 0, done.stderr
    assert "hardware target  the image for cpu" in done.stdout
    assert "portable build of llama-cpp-python" in done.stdout


def test_a_benchmark_of_the_other_target_is_refused(inside: Inside) -> None:
    done = inside("python", "-m", "stages.bench_gpu")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "this is the image for cpu" in done.stderr
    assert done.stderr.endswith("; make bench TARGET=gpu\n")


def test_size(docker: Path, inside: Inside) -> None:
    size = int(run(docker, "image", "inspect", "--format", "{{.Size}}", inside.image).stdout)
    print(run(docker, "history", "--format", "{{.Size}}\t{{.CreatedBy}}", inside.image).stdout)
    assert size < 3 * GB


def test_no_compiler_no_cache_no_secret(docker: Path, inside: Inside, base_image: str) -> None:
    """In the files that the image adds to its base, and in what `docker history` tells of how it was made."""
    names, secrets = (" -o ".join(f"-name '{name}'" for name in each) for each in (COMPILERS, SECRETS))
    script = (
        f"find / -xdev -type f -perm /111 \\( {names} \\); ls -d {' '.join(CACHES)} 2>/dev/null;"
        f"find / -xdev -type f \\( {secrets} \\) -not -name '*.py' -not -name '*.pyc'; true"
    )
    found = [
        set(
            run(
                docker, "run", "--rm", "--user", "0", "--entrypoint", "sh", image, "-c", script
            ).stdout.split()
        )
        for image in (inside.image, base_image)
    ]
    authorities = {
        path
        for path in found[0]
        if path.endswith(("certifi/cacert.pem", "grpc/_cython/_credentials/roots.pem"))
    }
    assert found[0] - found[1] - authorities == set()
    history = run(docker, "history", "--no-trunc", "--format", "{{.CreatedBy}}", inside.image).stdout.lower()
    for word in ("token", "password", "secret=", "api_key", "extra-index"):
        assert word not in history


def test_a_change_of_the_source_makes_only_the_last_layers_anew(docker: Path, inside: Inside) -> None:
    """By the order of the layers: from the copy of the source on, they are small."""
    lines = run(docker, "history", "--no-trunc", "--format", "{{.Size}}\t{{.CreatedBy}}", inside.image).stdout
    last = []
    for line in lines.splitlines():  # the newest first
        last.append(line)
        if "COPY . ." in line:
            break
    else:
        pytest.fail("no layer copies the source")
    assert not [line for line in last if "GB\t" in line.split("\t")[0] + "\t"]


def owned(folder: Path) -> set[int]:
    return {path.lstat().st_uid for path in [folder, *folder.rglob("*")]}


def test_the_chain_ends_cut_off_and_read_only(
    whole: tuple[Checkout, subprocess.CompletedProcess[str]],
) -> None:
    """`make repro TARGET=cpu` on toy sizes: no network, a user of the host, a read-only root, two CPUs, 8 GiB."""
    checkout, done = whole
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "\nq4_k_m " in done.stdout, "no table"
    assert owned(checkout.path) == {int(USER)}
    machine = checkout.repo.json("metrics/bench/cpu/machine.json")
    assert machine["machine"]["name"].endswith("8 GiB, image")
    assert machine["details"]["image"] == "cpu"
    assert machine["details"]["memory_limit_gib"] == 8
    assert machine["details"]["quota_cpus"] == 2
    assert machine["details"]["build"].startswith("portable")
    again = checkout.make("repro", "TARGET=cpu")
    assert again.returncode == 0
    assert "Running stage" not in again.stdout


def kill_when(checkout: Checkout, ready: Callable[[], bool]) -> None:
    """`docker kill` of the container in which the chain runs, once `ready`."""
    with checkout.start("repro", "TARGET=cpu") as process:
        deadline = time.monotonic() + 1200
        while not ready():
            assert process.poll() is None, "ended before the kill"
            assert time.monotonic() < deadline, "never ready to be killed"
            time.sleep(0.01)
        (container,) = checkout.containers()
        assert run(checkout.docker, "kill", container).returncode == 0
        process.wait()
        assert process.returncode != 0


def test_a_killed_container_is_taken_up_by_the_next(
    checkouts: Callable[[str], Checkout], whole: tuple[Checkout, subprocess.CompletedProcess[str]]
) -> None:
    """Killed twice, in fine-tuning and in an evaluation; the accuracy is that of a run never killed."""
    checkout = checkouts("killed")
    path = checkout.path
    kill_when(checkout, lambda: any(path.glob("runs/finetune/*/checkpoint-2")))
    assert '"pid"' in (path / ".dvc/tmp/rwlock").read_text()
    kill_when(checkout, lambda: (path / "runs/eval/q4_k_m.part.jsonl").exists())
    done = checkout.make("repro", "TARGET=cpu")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "which a killed run left" in done.stderr + done.stdout
    assert checkout.repo.accuracy() == whole[0].repo.accuracy()


def test_a_mistake_is_one_line(checkouts: Callable[[str], Checkout]) -> None:
    checkout = checkouts("mistaken")
    for wanted, environ, said in (
        (("repro", "TARGET=tpu"), {}, "there is no service 'repro-tpu'"),
        (("bench", "TARGET=gpu"), {"CARTLM_GPU_IMAGE": "none:none"}, "there is no image none:none"),
        (("image", "TARGET=tpu"), {}, "TARGET is 'tpu', not cpu, gpu or test"),
        (
            ("repro", "TARGET=cpu"),
            {"DOCKER_HOST": "unix:///nowhere"},
            "no docker daemon answers unix:///nowhere",
        ),
    ):
        done = checkout.make(*wanted, **environ)
        assert done.returncode == 2
        assert done.stderr.splitlines()[0].startswith(f"compose.sh: {said}")
