"""`cartlm pin`: revisions come from a hub (a local server that answers as its API does), and params.yaml keeps its comments."""

from __future__ import annotations

import datetime
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from huggingface_hub import constants

from cartlm import cli, params, yaml_files
from cartlm.errors import UserError
from cartlm.pipeline.revisions import Pin, write
from tests import ROOT
from tests.fixtures import fixed_params

SHAS = {
    "/api/models/meta-llama/Llama-3.2-1B": "a" * 40,
    "/api/datasets/jtlicardo/ecommerce-intent-3k": "b" * 40,
    "/api/datasets/jtlicardo/ecommerce-intent-eval": "c" * 40,
}
Run = Callable[[], Result]


@pytest.fixture
def shas() -> dict[str, str]:
    return dict(SHAS)


@pytest.fixture
def hub(shas: dict[str, str]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            sha = shas.get(path)
            body = json.dumps({"id": path.split("/", 3)[-1], "sha": sha}).encode()
            self.send_response(200 if sha else 404)
            if not sha:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def pin(tmp_path: Path, hub: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    text = fixed_params.text(fixed_params.PAPER)
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "ENDPOINT", hub)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return lambda: CliRunner().invoke(cli.main, ["pin"])


def test_all_three_are_pinned_and_nothing_else_changes(
    pin: Run, tmp_path: Path, shas: dict[str, str]
) -> None:
    path = tmp_path / "params.yaml"
    before = path.read_text(encoding="utf-8").split("\n")
    done = pin()
    assert done.exit_code == 0, done.stderr
    found = params.load(path)
    assert (found.base.revision, found.data.revision, found.data.held_out_revision) == (
        "a" * 40, "b" * 40, "c" * 40,
    )  # fmt: skip
    after = path.read_text(encoding="utf-8").split("\n")
    changed = [new for old, new in zip(before, after, strict=True) if old != new]
    assert [re.sub(r'"\w{40}"|\d{4}-\d\d-\d\d', "?", line) for line in changed] == [
        "  revision: ? # the hub's default branch on ?",
        "  revision: ? # the hub's default branch on ?",
        "  held_out_revision: ? # the hub's default branch on ?",
    ]
    assert "was not pinned" in done.stdout

    again = pin()
    assert again.stdout.count("unchanged") == 3
    shas["/api/datasets/jtlicardo/ecommerce-intent-3k"] = "d" * 40
    moved = pin()
    assert f"was {'b' * 40}" in moved.stdout
    assert params.load(path).data.revision == "d" * 40


def test_a_tag_is_followed_and_comments_and_line_ends_stay(
    pin: Run, tmp_path: Path, shas: dict[str, str]
) -> None:
    path = tmp_path / "params.yaml"
    text = path.read_text(encoding="utf-8").replace(
        "  held_out_revision: null", "  held_out_revision: v1.0 # as in the paper"
    )
    path.write_bytes(text.replace("\n", "\r\n").encode())
    shas["/api/datasets/jtlicardo/ecommerce-intent-eval/revision/v1.0"] = "e" * 40
    assert pin().exit_code == 0
    data = path.read_bytes()
    assert data.count(b"\r\n") == data.count(b"\n")
    line = next(line for line in data.decode().split("\r\n") if "held_out_revision" in line)
    day = "\\d{4}-\\d\\d-\\d\\d"
    assert re.fullmatch(
        rf'  held_out_revision: "{"e" * 40}" # the hub\'s v1.0 on {day}; as in the paper', line
    ), line
    shas["/api/datasets/jtlicardo/ecommerce-intent-eval"] = "f" * 40
    assert pin().exit_code == 0
    line = next(line for line in path.read_text(encoding="utf-8").split("\n") if "held_out_revision" in line)
    assert re.fullmatch(
        rf'  held_out_revision: "{"f" * 40}" # the hub\'s default branch on {day}; as in the paper', line
    ), line


BASE = Pin("base", "revision", "model", "a/b", None)


@pytest.mark.parametrize(
    "line", ["null", "~", "", "main", "'main'", '"v1#2"', "2e-05", "on", "1_000", "null # why"]
)
def test_a_pinned_value_reads_back_whatever_stood_there(tmp_path: Path, line: str) -> None:
    path = tmp_path / "params.yaml"
    for front, end in (("", "\n"), ("\ufeff", "\r\n"), ("---\n", "\n")):
        text = f"{front}base:\n  path: a/b\n  revision: {line}\ndata:\n  revision: null\n"
        path.write_bytes(text.replace("\n", end).encode())
        write(path, {BASE: "1" * 40}, datetime.date(2026, 1, 2))
        found = yaml_files.parse(path.read_bytes())
        assert found == {"base": {"path": "a/b", "revision": "1" * 40}, "data": {"revision": None}}


@pytest.mark.parametrize(
    "text",
    [
        "base: {path: a/b, revision: null}\n", "base:\n  revision: &r null\nother: *r\n", "'base':\n  revision: null\n",
        "base:\n  revision: >-\n    main\n", "base:\n  deep:\n    revision: 1\n  revision: null\n",
    ],
)  # fmt: skip
def test_a_value_written_in_another_way_is_pinned_or_left(tmp_path: Path, text: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    wanted = yaml_files.parse(text)
    wanted["base"]["revision"] = "1" * 40
    try:
        write(path, {BASE: "1" * 40}, datetime.date(2026, 1, 2))
    except UserError:
        assert path.read_text(encoding="utf-8") == text
    else:
        assert yaml_files.parse(path.read_bytes()) == wanted


def test_what_the_hub_does_not_know_changes_nothing(pin: Run, tmp_path: Path, shas: dict[str, str]) -> None:
    path = tmp_path / "params.yaml"
    before = path.read_bytes()
    del shas["/api/datasets/jtlicardo/ecommerce-intent-eval"]
    done = pin()
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "no dataset jtlicardo/ecommerce-intent-eval" in done.stderr
    assert "set data.held_out" in done.stderr
    assert path.read_bytes() == before


def test_a_hub_that_is_not_there_is_one_line(
    pin: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (tmp_path / "params.yaml").read_bytes()
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    done = pin()
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "does not send the model meta-llama/Llama-3.2-1B" in done.stderr
    assert (tmp_path / "params.yaml").read_bytes() == before


def test_where_all_is_local_there_is_nothing_to_pin(pin: Run, tmp_path: Path) -> None:
    fixed_params.write(tmp_path)
    done = pin()
    assert done.exit_code == 0, done.stderr
    assert "nothing to pin" in done.stdout


DOCKER = """#!/bin/sh
# Stands in for docker and its registry, which are not here.
case "$1" in
    pull)
        [ -n "$DIGEST" ] || { echo "dial tcp: no route to host" >&2; exit 1; }
        echo "3.11-slim-bookworm: Pulling from library/python"
        echo "Digest: $DIGEST"
        echo "Status: Image is up to date for $2"
        ;;
esac
"""


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Result]:
    (tmp_path / "docker").mkdir()
    for name in ("Dockerfile.cpu", "Dockerfile.gpu", "docker/compose.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/docker").write_text(DOCKER)
    (tmp_path / "bin/docker").chmod(0o755)

    def run(digest: str) -> Result:
        monkeypatch.setenv("DIGEST", digest)
        return CliRunner().invoke(cli.main, ["pin-images"])

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")

    return run


def test_images_get_their_digest(tmp_path: Path, images: Callable[[str], Result]) -> None:
    before = (tmp_path / "Dockerfile.cpu").read_text()
    for digit in "ab":
        done = images(f"sha256:{digit * 64}")
        assert done.exit_code == 0, done.stderr
        assert done.stdout.count("\n") == 4
        text = (tmp_path / "Dockerfile.cpu").read_text()
        assert re.search(
            f"^ARG BASE_IMAGE=python:3.11.\\d+-slim-bookworm@sha256:{digit * 64}$", text, re.MULTILINE
        )
        assert text.count("The registry's digest on") == 1
        assert len(text.splitlines()) == len(before.splitlines()) + 1
        compose = (tmp_path / "docker/compose.yaml").read_text()
        assert compose.count("# The registry's digest on") == compose.count(f"@sha256:{digit * 64}}}") == 2
        now, then = yaml.safe_load(compose), yaml.safe_load((ROOT / "docker/compose.yaml").read_text())
        for name, service in now["services"].items():
            image = then["services"][name]["image"]
            pinned = image.replace("}", f"@sha256:{digit * 64}}}") if "/" in image else image
            assert service == then["services"][name] | {"image": pinned}
    again = images(f"sha256:{'b' * 64}")
    assert again.stdout.count("unchanged") == 4
    assert (tmp_path / "Dockerfile.cpu").read_text() == text


@pytest.mark.parametrize(
    ("digest", "said"), [("", "no route to host"), ("sha256:1", "no registry answers for python:3.11")]
)
def test_without_an_answer_nothing_is_written(
    tmp_path: Path, images: Callable[[str], Result], digest: str, said: str
) -> None:
    done = images(digest)
    assert done.exit_code == 0
    assert done.stderr.count("\n") == 3
    assert said in done.stderr
    assert (tmp_path / "Dockerfile.gpu").read_text() == (ROOT / "Dockerfile.gpu").read_text()
