"""docker/compose.yaml and docker/compose.sh, with a stand-in for docker: tests/containers has the real one."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
COMPOSE = yaml.safe_load((ROOT / "docker/compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKER = """#!/bin/sh
# Says what it was asked, and with which settings; NONE is an image that is not there.
[ "$1" = info ] && exit "${DAEMON:-0}"
[ "$1 $2" = "image inspect" ] && { [ "$3" != "$NONE" ]; exit; }
[ "$1 $2" = "compose version" ] && exit 0
echo "$@"
env | grep ^CARTLM_ | sort
exit "${CODE:-0}"
"""


@pytest.mark.parametrize("name", SERVICES)
def test_every_service(name: str) -> None:
    """The same place, nobody's rights, nothing beside what is measured."""
    service = SERVICES[name]
    assert "..:/repo" in service["volumes"]
    assert any(volume.endswith(":/repo/.dvc/cache") for volume in service["volumes"])
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["user"] == "${CARTLM_UID:-1000}:${CARTLM_GID:-1000}"
    assert service["healthcheck"] == {"disable": True}
    assert {"cpuset", "cpus", "mem_limit", "network_mode"} <= service.keys()
    assert ("deploy" in service) == name.endswith("-gpu")
    target = name.partition("-")[2] or name
    assert service["image"] == f"${{CARTLM_{target.upper()}_IMAGE:-cartlm:{target}}}"


def test_services_are_those_promised() -> None:
    assert SERVICES.keys() == {"repro-cpu", "bench-cpu", "repro-gpu", "bench-gpu", "test"}
    rapl = yaml.safe_load((ROOT / "docker/compose.rapl.yaml").read_text(encoding="utf-8"))["services"]
    assert rapl.keys() < SERVICES.keys()
    assert all(volume.endswith(":ro") for service in rapl.values() for volume in service["volumes"])


def test_their_commands_are_make_s_own() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for service in SERVICES.values():
        command, target = service["command"]
        assert command == "make"
        assert f"\n{target}: setup" in makefile


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml", "docker"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/docker").write_text(DOCKER)
    (tmp_path / "bin/docker").chmod(0o755)
    return tmp_path


def make(checkout: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("CARTLM_", "MAKE"))}
    path = f"{checkout / 'bin'}:{os.environ['PATH']}"
    return subprocess.run(
        ["make", *words], cwd=checkout, env={**kept, "PATH": path, **environ}, capture_output=True, text=True
    )


def test_a_run_gets_its_limits_and_its_owner(checkout: Path) -> None:
    done = make(checkout, "bench", "TARGET=cpu", "CPUSET=0-1", "MEMORY=8g", "CHECK=1", "NETWORK=none")
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[0].startswith("compose -p cartlm -f docker/compose.yaml ")
    assert said[0].endswith("run --rm -T bench-cpu")
    assert {
        "CARTLM_CPUSET=0-1", "CARTLM_MEMORY=8g", "CARTLM_CPUS=0", "CARTLM_NETWORK=none", "CARTLM_BENCH_CHECK=1",
        f"CARTLM_UID={os.getuid()}", f"CARTLM_GID={os.getgid()}",
    } <= set(said)  # fmt: skip
    assert (checkout / ".dvc/cache").is_dir()


@pytest.mark.parametrize("name", ["pull", "push", "doctor", "stale", "architecture", "remote"])
def test_other_commands_run_in_the_image_too(checkout: Path, name: str) -> None:
    assert (
        make(checkout, name, "TARGET=gpu")
        .stdout.splitlines()[0]
        .endswith(f"run --rm -T repro-gpu make {name}")
    )


def test_its_exit_code_is_the_run_s(checkout: Path) -> None:
    done = subprocess.run(
        ["docker/compose.sh", "run", "repro-cpu"], cwd=checkout,
        env={**os.environ, "PATH": f"{checkout / 'bin'}:{os.environ['PATH']}", "CODE": "137"},
    )  # fmt: skip
    assert done.returncode == 137


def test_an_image_knows_its_commit(checkout: Path) -> None:
    commit = ["git", "-c", "user.name=toy", "-c", "user.email=toy@example.invalid", "commit", "-qm", "toy"]
    subprocess.run(["git", "add", "Makefile"], cwd=checkout, check=True)
    subprocess.run(commit, cwd=checkout, check=True)
    sha = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True
    ).stdout.strip()
    said = make(checkout, "image", "TARGET=gpu", "ARGS=--pull").stdout.splitlines()[0]
    assert said == f"build -f Dockerfile.gpu -t cartlm:gpu --build-arg COMMIT={sha} --pull ."
    with (checkout / "Makefile").open("a") as file:
        file.write("\n")
    assert f"COMMIT={sha}-changed " in make(checkout, "image").stdout


@pytest.mark.parametrize(
    ("words", "environ", "said"),
    [
        (("repro", "TARGET=tpu"), {}, "there is no service 'repro-tpu'; TARGET is cpu or gpu"),
        (
            ("repro", "TARGET=gpu"),
            {"NONE": "cartlm:gpu"},
            "there is no image cartlm:gpu; make image TARGET=gpu",
        ),
        (("repro", "TARGET=cpu"), {"NONE": "mine", "CARTLM_CPU_IMAGE": "mine"}, "there is no image mine; "),
        (("image", "TARGET=tpu"), {}, "TARGET is 'tpu', not cpu, gpu or test; make image TARGET=cpu"),
        (("repro", "TARGET=cpu"), {"DAEMON": "1"}, "no docker daemon answers"),
    ],
)
def test_a_mistake_is_one_line(
    checkout: Path, words: tuple[str, ...], environ: dict[str, str], said: str
) -> None:
    done = make(checkout, *words, **environ)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0].startswith(f"compose.sh: {said}")


def test_a_worktree_is_refused(checkout: Path) -> None:
    """Its .git is a file that names a folder which the container does not see."""
    shutil.rmtree(checkout / ".git")
    (checkout / ".git").write_text("gitdir: /elsewhere\n")
    done = make(checkout, "repro", "TARGET=cpu")
    assert done.returncode == 2
    assert ".git is no folder" in done.stderr
