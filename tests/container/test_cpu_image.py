"""Dockerfile.cpu and docker/compose.yaml, for real: the image built, the chain run in it, containers killed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.container.conftest import USER, Checkout, Inside, run
from tests.fixtures import working_tree
from tests.unit.docker.test_locks import pins

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
    versions = inside.versions()
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
    assert inside.refuses("stages.bench_gpu", "cpu", "gpu")


def test_size(docker: Path, inside: Inside) -> None:
    size = int(run(docker, "image", "inspect", "--format", "{{.Size}}", inside.image).stdout)
    print(run(docker, "history", "--format", "{{.Size}}\t{{.CreatedBy}}", inside.image).stdout)
    assert size < 3 * GB


def layers(docker: Path, image: str, folder: Path) -> Iterator[list[str]]:
    """The files of each layer, from `docker save`: also those that a later layer hides."""
    saved = folder / "image.tar"
    assert run(docker, "save", "--output", saved, image).returncode == 0
    with tarfile.open(saved) as archive:
        manifest = archive.extractfile("manifest.json")
        assert manifest
        for name in json.load(manifest)[0]["Layers"]:
            with tarfile.open(fileobj=archive.extractfile(name)) as layer:
                yield [f"/{entry.name}" for entry in layer if entry.isfile()]


def test_no_compiler_no_cache_no_secret(
    docker: Path, inside: Inside, base_image: str, tmp_path: Path
) -> None:
    """In any layer that the image adds to its base, and in `docker history`."""
    base = run(docker, "image", "inspect", "--format", "{{len .RootFS.Layers}}", base_image)
    added = list(layers(docker, inside.image, tmp_path))[int(base.stdout) :]
    assert len(added) > 3
    files = [file for layer in added for file in layer]
    assert "/opt/venv/bin/dvc" in files
    assert not [file for file in files if Path(file).name in COMPILERS and "/bin/" in file]
    assert not [file for file in files if any(fnmatch(file, f"{cache}*") for cache in CACHES)]
    secrets = [file for file in files if any(fnmatch(Path(file).name, name) for name in SECRETS)]
    public = ("certifi/cacert.pem", ".py", ".pyc")
    assert not [file for file in secrets if not file.endswith(public)]
    history = run(docker, "history", "--no-trunc", "--format", "{{.CreatedBy}}", inside.image).stdout.lower()
    for word in ("token", "password", "secret=", "api_key", "extra-index"):
        assert word not in history


def test_a_change_of_the_source_makes_only_the_last_layers_anew(
    docker: Path, inside: Inside, base_image: str, wheels: dict[str, str], tmp_path: Path
) -> None:
    """Built again with one file changed: all but the last layers come from the cache."""
    working_tree.copy(tmp_path)
    with (tmp_path / "cartlm/errors.py").open("a") as file:
        file.write("# changed\n")
    arguments = {"BASE_IMAGE": base_image, "COMMIT": "test", **wheels}
    options = [part for name, value in arguments.items() for part in ("--build-arg", f"{name}={value}")]
    built = run(docker, "build", "--progress", "plain", *options, "-f", tmp_path / "Dockerfile.cpu", tmp_path)
    assert built.returncode == 0, built.stderr[-3000:]
    steps = dict(re.findall(r"^#(\d+) (\[.*)$", built.stderr, flags=re.MULTILINE))
    cached = set(re.findall(r"^#(\d+) CACHED$", built.stderr, flags=re.MULTILINE))
    anew = [
        step
        for number, step in steps.items()
        if number not in cached and "FROM" not in step and "internal" not in step
    ]
    assert [re.sub(r"^\[runtime +\d+/\d+\] ", "", step)[:24] for step in anew] == [
        "COPY . .",
        "RUN python -m pip instal",
    ]


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
    assert "which a killed container left" in done.stderr + done.stdout
    assert checkout.repo.accuracy() == whole[0].repo.accuracy()


def test_a_checkout_that_may_not_be_written_is_one_line(checkouts: Callable[[str], Checkout]) -> None:
    checkout = checkouts("foreign")
    subprocess.run(["chown", "-R", "0:0", checkout.path], check=True)
    done = checkout.make("doctor", "TARGET=cpu")
    assert done.returncode == 2
    assert (
        "cartlm: error: /repo belongs to user 0, and this container runs as 4321" in done.stderr + done.stdout
    )


def test_a_remote_on_the_host_is_reached(checkouts: Callable[[str], Checkout], tmp_path: Path) -> None:
    """`make push TARGET=cpu` to a folder: mounted, or refused, but never into a folder that goes with the container."""
    checkout = checkouts("pushing")
    remote = checkout.path.parent / "shared"
    checkout.repo.dvc("remote", "add", "-q", "-d", "shared", str(remote))
    checkout.repo.dvc("repro", "-q", "base")  # outside, with the cache in the checkout
    subprocess.run(["chown", "-R", f"{USER}:{USER}", checkout.path], check=True)
    environ = {"CACHE_VOLUME": str(checkout.path / ".dvc/cache")}
    done = checkout.make("push", "TARGET=cpu", **environ)
    assert done.returncode == 2
    assert "the folder of the DVC remote shared is not there" in done.stderr + done.stdout
    remote.mkdir()
    os.chown(remote, int(USER), int(USER))
    done = checkout.make("push", "TARGET=cpu", **environ)
    assert done.returncode == 0, done.stderr
    assert [path for path in remote.rglob("*") if path.is_file()]


def test_a_mistake_is_one_line(checkouts: Callable[[str], Checkout]) -> None:
    checkout = checkouts("mistaken")
    for words, environ, error in (
        (("bench", "TARGET=gpu"), {"CARTLM_GPU_IMAGE": "none:none"}, "there is no image none:none"),
        (
            ("repro", "TARGET=cpu"),
            {"DOCKER_HOST": "unix:///nowhere"},
            "no docker daemon answers unix:///nowhere",
        ),
    ):
        done = checkout.make(*words, **environ)
        assert done.returncode == 2
        assert done.stderr.splitlines()[0].startswith(f"compose.sh: {error}")
