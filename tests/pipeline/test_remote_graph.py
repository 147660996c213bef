"""remote/dvc.yaml under real DVC: never part of a bare repro, resumable, and nothing that was paid for is lost."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cartlm.task import rows as row_files
from tests.fixtures import wordsmith
from tests.fixtures.servers import Naughty
from tests.pipeline import toy_repo
from tests.pipeline.toy_repo import Repo

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
KEY = "sk-test-9876543210-never-to-be-seen"
ANSWERS, METRICS, OUTCOMES = (
    "data/answers/gpt.jsonl",
    "metrics/remote/gpt.json",
    "metrics/remote_outcomes/gpt.csv",
)


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repo:
    """A repository with toy data params, a DVC remote, and nothing run yet; it has no base model."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    result = toy_repo.copy_code(tmp_path / "repo")
    params = yaml.safe_dump(toy_repo.toy_params(), sort_keys=False)
    (result.path / "params.yaml").write_text(params, encoding="utf-8")
    result.run("git", "init", "-q", "-b", "main")
    result.dvc("remote", "add", "-q", "-d", "store", str(tmp_path / "store"))
    result.commit("toy")
    return result


@pytest.fixture
def naughty() -> Iterator[Naughty]:
    with Naughty({}) as server:
        yield server


def list_server(repo: Repo, url: str, **other: Any) -> None:
    entry = {
        "engine": "openai", "base_url": url, "model": "m", "api": "chat", "api_key_env": None, "instruction": None,
        "max_new_tokens": 40, "token_limit": "max_tokens", "temperature": 0, "concurrency": 1, "max_retries": 0, "timeout_s": 10.0, "input_price": None,
        "output_price": None, "price_source": None, **other,
    }  # fmt: skip
    repo.set(lambda values: values.update(remote={"gpt": entry}))


def learn(repo: Repo, naughty: Naughty) -> list[str]:
    """Teach the server the right answers; returns the prompts."""
    rows = row_files.read(repo.path / "data/test.jsonl")
    naughty.said |= {row.prompt: row.completion for row in rows}
    return [row.prompt for row in rows]


def lines(repo: Repo) -> list[str]:
    return (repo.path / ANSWERS).read_text(encoding="utf-8").splitlines()


@pytest.mark.nightly
def test_without_servers_everything_works(repo: Repo) -> None:
    assert repo.params()["remote"] == {}
    repo.dvc("repro", "data")
    for command in (("metrics", "diff", "--json"), ("metrics", "show"), ("status",)):
        done = repo.dvc(*command)
        assert "remote" not in done.stdout + done.stderr
    assert not (repo.path / "remote/dvc.lock").exists()
    refused = repo.run(sys.executable, "-m", "cartlm.cli", "check-remote", check=False)
    assert refused.returncode == 2
    assert refused.stderr.startswith("cartlm: error: params.yaml lists no server under remote; ")
    assert refused.stderr.count("\n") == 1


@pytest.mark.nightly
def test_a_bare_repro_does_not_ask_a_server(repo: Repo, naughty: Naughty) -> None:
    list_server(repo, naughty.url)
    listed = repo.dvc("stage", "list", "--name-only").stdout.split()
    assert "data" in listed
    assert not [name for name in listed if "remote" in name]
    repo.dvc("repro", check=False)  # stops at the base model, which this repository lacks
    assert naughty.seen == []


def test_answers_and_numbers_outlive_failures_and_changes(repo: Repo, naughty: Naughty) -> None:
    repo.dvc("repro", "data")
    prompts = learn(repo, naughty)
    list_server(repo, naughty.url)

    naughty.plan[prompts[5]] = ["500"]
    failed = repo.dvc("repro", "remote/dvc.yaml", check=False)
    assert failed.returncode != 0
    assert "failed: 500" in failed.stderr
    assert len(lines(repo)) == 5
    assert not (repo.path / METRICS).exists()

    naughty.seen.clear()
    repo.dvc("repro", "--pull", "remote/dvc.yaml")
    assert [prompt for prompt, _ in naughty.seen] == prompts[5:]
    assert repo.json(METRICS)["free"]["exact_match"] == 1.0
    assert (repo.path / OUTCOMES).exists()
    assert METRICS in json.loads(repo.dvc("metrics", "diff", "--json").stdout)
    repo.dvc("push")
    repo.commit("measured")

    naughty.seen.clear()
    assert "didn't change" in repo.dvc("repro", "--pull", "remote/dvc.yaml").stdout
    list_server(repo, naughty.url, concurrency=2)
    repo.dvc("repro", "--pull", "remote/dvc.yaml")
    assert naughty.seen == [], "another concurrency costs nothing"

    repo.set(lambda values: values["data"].update(seed=8))  # other test rows
    repo.dvc("repro", "data")
    prompts = learn(repo, naughty)
    numbers = {name: (repo.path / name).read_bytes() for name in (METRICS, OUTCOMES)}
    kept = lines(repo)
    naughty.plan[prompts[20]] = ["500"]
    assert repo.dvc("repro", "--pull", "remote/dvc.yaml", check=False).returncode != 0
    assert {name: (repo.path / name).read_bytes() for name in numbers} == numbers
    partly = lines(repo)
    assert partly[: len(kept)] == kept
    assert len(partly) > len(kept) + 10

    naughty.seen.clear()
    repo.dvc("repro", "--pull", "remote/dvc.yaml")
    assert lines(repo)[: len(partly)] == partly
    assert len(naughty.seen) == len(lines(repo)) - len(partly) < len(prompts)


@pytest.mark.nightly
def test_another_clone_does_not_buy_what_the_dvc_remote_holds(
    repo: Repo, naughty: Naughty, tmp_path: Path
) -> None:
    repo.dvc("repro", "data")
    learn(repo, naughty)
    list_server(repo, naughty.url)
    repo.dvc("repro", "remote/dvc.yaml")
    repo.commit("measured")
    check = (sys.executable, "-m", "cartlm.cli", "check-remote")

    repo.run("git", "clone", "-q", str(repo.path), str(tmp_path / "clone"))
    clone = Repo(tmp_path / "clone")
    list_server(
        clone, naughty.url, concurrency=2
    )  # the stage has changed: `dvc repro --pull` fetches nothing of it
    assert f"{ANSWERS} was paid for and is in no DVC remote" in clone.run(*check).stderr
    repo.dvc("push")
    assert clone.run(*check).stderr == ""
    assert lines(clone) == lines(repo)
    naughty.seen.clear()
    clone.dvc("repro", "--pull", "remote/dvc.yaml")
    assert naughty.seen == []

    (clone.path / ANSWERS).unlink()
    shutil.rmtree(clone.path / ".dvc/cache")
    clone.dvc("remote", "modify", "store", "url", "ssh://nobody@127.0.0.1:1/nowhere")
    refused = clone.run(*check, check=False)
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"cartlm: error: {ANSWERS} was paid for and cannot be fetched: ")
    assert refused.stderr.count("\n") == 1


@pytest.mark.nightly
def test_another_clone_does_not_buy_rows_that_a_model_worded_again(
    repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "log").mkdir()
    monkeypatch.setenv("CARTLM_TEST_KEY", KEY)

    def came() -> int:
        return (tmp_path / "log/server.jsonl").read_text(encoding="utf-8").count('"came"')

    with wordsmith.served(tmp_path / "log", 0.0) as url:
        repo.set(lambda values: values["data"].update(source="openai"))
        repo.set(
            lambda values: values["data"]["openai"].update(
                base_url=url, api_key_env="CARTLM_TEST_KEY", prompts=8
            )
        )
        done = repo.dvc("repro", "-v", "data")
        repo.commit("worded")
        bought = came()
        assert bought > 10
        repo.run("git", "clone", "-q", str(repo.path), str(tmp_path / "clone"))
        clone = Repo(tmp_path / "clone")
        clone.set(lambda values: values["data"]["noise"].update(typo=0.1))  # needs no other answers
        refused = clone.dvc("repro", "data", check=False)
        assert "data/responses.jsonl was paid for and is missing; make repro" in refused.stderr
        fetch = (sys.executable, "-m", "cartlm.cli", "fetch-paid")
        repo.dvc("push")
        assert clone.run(*fetch).stderr == ""
        clone.dvc("repro", "data")
        assert came() == bought
    assert "data" in (repo.path / "dvc.lock").read_text(encoding="utf-8")
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert kept == [], "the key is in no file, dvc.lock and DVC's own files and remote among them"
    assert KEY not in done.stdout + done.stderr + refused.stdout + refused.stderr
    for folder in (repo.path, clone.path):
        assert (folder / "docs/data.md").read_text(encoding="utf-8").startswith("# Data card")


@pytest.mark.nightly
def test_only_a_server_that_left_params_is_forgotten(repo: Repo, naughty: Naughty) -> None:
    repo.dvc("repro", "data")
    learn(repo, naughty)
    list_server(repo, naughty.url)
    repo.dvc("repro", "remote/dvc.yaml")
    files = [repo.path / name for name in (METRICS, OUTCOMES)]
    prune = [sys.executable, "-m", "cartlm.cli", "prune"]
    assert "gpt" not in repo.run(*prune).stdout
    assert all(path.exists() for path in files)
    assert "didn't change" in repo.dvc("repro", "remote/dvc.yaml").stdout

    repo.set(lambda values: values.update(remote={}))
    gone = repo.run(*prune).stdout
    assert "eval-remote@gpt" in gone
    assert not any(path.exists() for path in files)
    assert "gpt" not in (repo.path / "remote/dvc.lock").read_text(encoding="utf-8")
    assert lines(repo), "paid for"
    repo.run("make", "clean")
    assert lines(repo), "paid for"
    assert not (repo.path / "data/test.jsonl").exists()
