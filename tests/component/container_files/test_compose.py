"""docker/compose.yaml and docker/compose.sh, with a stand-in for docker: tests/container has the real one."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from cartlm import cli
from tests import ROOT
from tests.fixtures import working_tree

COMPOSE = yaml.safe_load((ROOT / "docker/compose.yaml").read_text(encoding="utf-8"))
ALL: dict[str, dict[str, Any]] = COMPOSE["services"]
OF_SERVING = {"serve", "serve-gpu", "prometheus", "grafana"}
SERVICES = {name: service for name, service in ALL.items() if name not in OF_SERVING}
"""Those of the chain."""
DOCKER = """#!/bin/sh
# Prints its arguments and settings; NONE is an image that does not exist.
[ "$1" = info ] && { echo "$SECURITY"; exit "${DAEMON:-0}"; }
[ "$1 $2" = "image inspect" ] && { [ "$3" != "$NONE" ]; exit; }
[ "$1 $2" = "compose version" ] && exit 0
echo "$@"
env | grep ^CARTLM_ | sort
exit "${CODE:-0}"
"""


@pytest.mark.parametrize("name", SERVICES)
def test_every_service(name: str) -> None:
    """The checkout at one place, no privileges, limits on what it may use."""
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


@pytest.mark.parametrize("name", sorted(OF_SERVING))
def test_what_answers_others_may_do_little(name: str) -> None:
    """No privileges, nothing writable but its own volume, no port that other machines reach, no image without a version."""
    service = ALL[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith(("127.0.0.1:", "${CARTLM_ADDRESS:-127.0.0.1:")) for port in service["ports"])
    writable = [volume for volume in service["volumes"] if not volume.endswith(":ro")]
    assert len(writable) == 1
    assert writable[0].partition(":")[0] in COMPOSE["volumes"]
    image = service["image"].partition(":-")[2].removesuffix("}")
    assert re.fullmatch(r"[\w/-]+:(cpu|gpu|v?\d+\.\d+\.\d+)(@sha256:[0-9a-f]{64})?", image)
    for volume in service["volumes"]:
        source = volume.partition(":")[0]
        made_by_stages = source in ("../models", "../metrics")
        assert source in COMPOSE["volumes"] or made_by_stages or (ROOT / "docker" / source).is_file(), source


def test_serve_is_the_command_as_it_is() -> None:
    """Its options exist, it does not start without a key, and it has time to answer what it accepted."""
    for name in ("serve", "serve-gpu"):
        service = ALL[name]
        program, verb, *options = shlex.split(
            service["command"].replace("${CARTLM_VARIANTS:-}", "q4_k_m f16")
        )
        assert (program, verb) == ("cartlm", "serve")
        given = cli.main.commands[verb].make_context(verb, options).params
        assert given["sources"] == ("q4_k_m", "f16")
        assert COMPOSE["secrets"].keys() >= {*service["secrets"]}
        assert f"/run/secrets/{service['secrets'][0]}" == str(given["key_file"])
        assert str(given["catalogs"].parent) in [each.split(":")[1] for each in service["volumes"]]
        assert service["ports"][0].endswith(f":{given['port']}")
        assert int(service["stop_grace_period"].removesuffix("s")) > 2 * given["timeout_s"] + 5
        assert "/readyz" in service["healthcheck"]["test"][-1]
        assert service["networks"]["default"]["aliases"] == ["serve"]
    scraped = yaml.safe_load((ROOT / "docker/monitoring/prometheus.yaml").read_text("utf-8"))[
        "scrape_configs"
    ][0]
    assert scraped["static_configs"][0]["targets"] == ["serve:8000"]
    assert scraped["authorization"]["credentials_file"] == f"/run/secrets/{ALL['prometheus']['secrets'][0]}"
    assert {name for name, each in ALL.items() if each.get("profiles") == ["monitoring"]} == {
        "prometheus",
        "grafana",
    }


def test_both_images_have_what_it_needs() -> None:
    for target in ("cpu", "gpu"):
        text = (ROOT / f"Dockerfile.{target}").read_text("utf-8").replace("\\\n", "")
        (install,) = [
            line
            for line in text.splitlines()
            if "hashes.txt" in line and f"-r /build/docker/{target}.txt" in line
        ]
        assert "/build/docker/serve.txt" in install
        assert re.search(r"chmod 1777 .*/var/lib/cartlm ", text)


def test_compose_reads_the_file() -> None:
    if shutil.which("docker-compose") is None:
        pytest.skip("docker-compose is missing; install it: apt-get install docker-compose")
    command = [
        "docker-compose",
        "-f",
        "docker/compose.yaml",
        "--profile",
        "monitoring",
        "config",
        "--services",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == ALL.keys()


def test_their_commands_are_make_s_own() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for service in SERVICES.values():
        command, target = service["command"]
        assert command == "make"
        assert f"\n{target}: setup" in makefile


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    working_tree.copy(tmp_path, "Makefile", "pyproject.toml", "docker")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/docker").write_text(DOCKER)
    (tmp_path / "bin/docker").chmod(0o755)
    return tmp_path


def environment(checkout: Path) -> dict[str, str]:
    """Without the user's own settings, and with the stand-in."""
    own = ("CACHE_VOLUME", "CARTLM_", "COMPOSE_", "CPU", "MAKE", "MEMORY", "NETWORK")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(own)}
    return kept | {"PATH": f"{checkout / 'bin'}:{os.environ['PATH']}"}


def make(checkout: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *words], cwd=checkout, env=environment(checkout) | environ, capture_output=True, text=True
    )


def test_a_run_gets_its_limits_and_its_owner(checkout: Path) -> None:
    done = make(checkout, "bench", "TARGET=cpu", "CPUSET=0", "MEMORY=8g", "CHECK=1", "NETWORK=none")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"compose -p cartlm-{os.getuid()} -f docker/compose.yaml ")
    assert lines[0].endswith("run --rm -T bench-cpu")
    assert {
        "CARTLM_CPUSET=0", "CARTLM_MEMORY=8g", "CARTLM_CPUS=0", "CARTLM_NETWORK=none", "CARTLM_BENCH_CHECK=1",
        f"CARTLM_UID={os.getuid()}", f"CARTLM_GID={os.getgid()}",
    } <= set(lines)  # fmt: skip
    assert (checkout / ".dvc/cache").is_dir()


@pytest.mark.parametrize("name", ["pull", "push", "doctor", "stale", "remote"])
def test_other_commands_run_in_the_image_too(checkout: Path, name: str) -> None:
    output = make(checkout, name, "TARGET=gpu", "ARGS=--json").stdout.splitlines()[0]
    assert output.endswith(f"run --rm -T repro-gpu make {name} ARGS=--json")


def test_the_architecture_of_each_target(checkout: Path) -> None:
    for target, command in (("cpu", "make architecture"), ("gpu", "python -m gpu.architecture")):
        output = make(checkout, "architecture", f"TARGET={target}").stdout
        assert output.splitlines()[0].endswith(f"run --rm -T repro-{target} {command}")


def test_what_runs_in_no_image_says_so(checkout: Path) -> None:
    makefile = (checkout / "Makefile").read_text(encoding="utf-8")
    helped = set(re.findall(r"^([a-z-]+):.*## ", makefile, flags=re.MULTILINE)) - {"help", "clean", "image"}
    inside = {"repro", "bench", "test", "pull", "push", "doctor", "stale", "remote", "architecture"}
    for name in helped - inside:
        done = make(checkout, name, "TARGET=cpu")
        assert done.returncode == 2
        assert f"make {name} runs outside of images" in done.stderr
    assert "not cpu or gpu" in make(checkout, "repro", "TARGET=tpu").stderr
    assert "make test TARGET=cpu" in make(checkout, "test", "TARGET=gpu").stderr


def test_a_remote_that_is_a_folder_is_mounted(checkout: Path) -> None:
    """Where DVC in the container looks for it; a bucket, a folder of the checkout and one that is not there are not."""
    shared = checkout.parent / "shared"
    for folder in (shared, checkout / "own"):
        folder.mkdir()
    link = checkout.parent / "link"
    link.symlink_to(shared)
    urls = [shared, "../../shared", "s3://bucket/x", "/nowhere/x", "../own", link]
    lines = "".join(f"    url = {url}\n" for url in urls)
    (checkout / ".dvc/config").write_text(f"['remote \"r\"']\n{lines}")
    output = make(checkout, "push", "TARGET=cpu").stdout.splitlines()[0]
    assert sorted(re.findall(r"-v (\S+)", output)) == sorted(
        [f"{shared}:{shared}", f"{shared}:/shared", f"{shared}:{link}"]
    )


def test_a_rootless_engine_s_caller_is_its_root(checkout: Path) -> None:
    done = make(checkout, "repro", "TARGET=cpu", SECURITY="[name=seccomp name=rootless]")
    assert "CARTLM_UID=0\n" in done.stdout


def test_its_exit_code_is_the_run_s(checkout: Path) -> None:
    done = subprocess.run(
        ["docker/compose.sh", "run", "repro-cpu"], cwd=checkout, env=environment(checkout) | {"CODE": "137"}
    )
    assert done.returncode == 137


def test_an_image_knows_its_commit(checkout: Path) -> None:
    commit = ["git", "-c", "user.name=toy", "-c", "user.email=toy@example.invalid", "commit", "-qm", "toy"]
    subprocess.run(["git", "add", "-A"], cwd=checkout, check=True)
    subprocess.run(commit, cwd=checkout, check=True)
    sha = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True
    ).stdout.strip()
    output = make(checkout, "image", "TARGET=gpu", "ARGS=--pull").stdout.splitlines()[0]
    assert output == f"build -f Dockerfile.gpu -t cartlm:gpu --build-arg COMMIT={sha} --pull ."
    (checkout / "more").touch()
    assert f"COMMIT={sha}-changed " in make(checkout, "image").stdout


MISTAKES = [
    ("repro TARGET=gpu", {"NONE": "cartlm:gpu"}, "there is no image cartlm:gpu; make image TARGET=gpu"),
    ("repro TARGET=cpu", {"NONE": "mine", "CARTLM_CPU_IMAGE": "mine"}, "there is no image mine; "),
    ("repro TARGET=cpu", {"DAEMON": "1"}, "no docker daemon answers"),
    ("repro TARGET=cpu MEMORY=lots", {}, "MEMORY is 'lots'; write MEMORY=16g"),
    ("repro TARGET=cpu CPUS=two", {}, "CPUS is 'two'; write CPUS=2"),
    ("repro TARGET=cpu CPUSET=all", {}, "CPUSET is 'all'; write CPUSET=2-5"),
    ("repro TARGET=cpu CPUSET=0-9999", {}, "CPUSET is '0-9999', and this machine has CPUs 0 to "),
    ("repro TARGET=cpu CPUSET=9999,0", {}, "CPUSET is '9999,0', and this machine has CPUs 0 to "),
]


@pytest.mark.parametrize(("words", "environ", "error"), MISTAKES)
def test_a_mistake_is_one_line(checkout: Path, words: str, environ: dict[str, str], error: str) -> None:
    done = make(checkout, *words.split(), **environ)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0].startswith(f"compose.sh: {error}")


def test_a_worktree_is_refused(checkout: Path) -> None:
    """Its .git is a file that names a folder which the container does not see."""
    shutil.rmtree(checkout / ".git")
    (checkout / ".git").write_text("gitdir: /elsewhere\n")
    done = make(checkout, "repro", "TARGET=cpu")
    assert done.returncode == 2
    assert ".git is no folder" in done.stderr
