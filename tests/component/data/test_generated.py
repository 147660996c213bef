"""Rows that a model words: the two levels, what is refused, money, and a server that fails in every way it can."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from cartlm import params
from cartlm.data import generated, metaprompt
from cartlm.data.wording_model import WordingModel
from cartlm.engines.openai import Budget, Reply
from cartlm.engines.replies import Request, read_replies
from cartlm.errors import UserError
from cartlm.task import rows as row_files
from stages import data as data_stage
from tests import ROOT
from tests.fixtures import fixed_params
from tests.fixtures.wordsmith import Wordsmith, served

SIZES = {"train": 90, "validation": 12, "calibration": 12, "test": 30}
KEY = "sk-do-not-show-this-anywhere"


def settings(**changes: Any) -> params.Data:
    found = fixed_params.load().data.model_dump()
    openai = {**found["openai"], "prompts": 8, "api_key_env": None, **changes.pop("openai", {})}
    return params.Data(**{**found, "source": "openai", **SIZES, "openai": openai, **changes})


class Model:
    """Answers in this process, with the words of the test server; `spoil` says what is wrong with the n-th answer."""

    def __init__(self, spoil: Mapping[int, str] | None = None) -> None:
        self.smith, self.spoil = Wordsmith.__new__(Wordsmith), dict(spoil or {})
        self.asked: list[Request] = []

    def __call__(self, requests: Sequence[Request], what: str) -> dict[str, Reply]:
        import random

        found = {}
        for request in requests:
            fault = self.spoil.get(len(self.asked), "")
            self.asked.append(request)
            text, _ = self.smith.content(request.body, fault, random.Random(request.key))
            found[request.key] = Reply(
                text, "stop", 100, 50, 0.1, 0, 1, "m", "s", "c", "2026-01-01T00:00:00+00:00"
            )
        return found


def test_splits_are_balanced_apart_and_the_same_again() -> None:
    given = settings()
    made = generated.Generator(given, Model()).splits()
    assert {name: len(rows) for name, rows in made.items()} == SIZES
    assert made == generated.Generator(given, Model()).splits()
    train = made["train"]
    assert Counter(row.language for row in train) == dict.fromkeys(given.languages, 30)
    assert Counter(row.intent.action for row in train) == {"add": 45, "remove": 45}
    novel = [row for row in made["test"] if row.tags["novel"]]
    assert len(novel) == round(given.test * given.novel)
    seen = {row.tags["template"] for row in [*train, *made["validation"]]}
    assert not seen & {row.tags["template"] for row in novel}
    lines = {line.split(" (")[0] for row in train for line in row.catalog}
    assert not lines & {row.intent.product.split(" (")[0] for row in novel}
    noisy = sum(row.tags["noise"] != "clean" for row in train) / len(train)
    assert 0.3 < noisy < 0.7


def test_a_model_words_training_rows_of_some_languages_and_a_test_of_all() -> None:
    made = generated.Generator(settings(train_languages=["spanish"]), Model()).splits()
    fitted = [row for name in ("train", "validation", "calibration") for row in made[name]]
    assert {row.language for row in fitted} == {"spanish"}
    assert {row.language for row in made["test"]} == {*settings().languages}


def test_refused_messages_are_sampled_and_asked_for_anew() -> None:
    """Spoilt answers of all four kinds: counted by reason, and no row is missing or bad."""
    faults = dict(zip(range(8, 24), ("no json", "other language", "left out", "leak") * 4, strict=True))
    model = Model(faults)
    generator = generated.Generator(settings(noise={**settings().noise.model_dump(), "clean": 1.0}), model)
    made = generator.splits()
    assert {name: len(rows) for name, rows in made.items()} == SIZES
    refused = generator.model.refused
    assert refused["other language"] >= 4
    assert refused["missing"] >= 4
    assert refused["leak"] >= 4
    assert refused["not JSON"] >= 4
    assert not [row for rows in made.values() for row in rows if "{" in row.message]
    metrics = generator.model.metrics()
    assert metrics["requests"] == len(model.asked) == len({request.key for request in model.asked})
    assert metrics["refused_other_language"] == refused["other language"]
    assert metrics["prompt_tokens"] == 100 * len(model.asked)
    assert "cost_usd" not in metrics


def test_cost_stands_in_the_metrics_where_prices_are_given() -> None:
    priced = settings(openai={"input_price": 2.0, "output_price": 8.0, "price_source": "a page, 2026-01-01"})
    generator = generated.Generator(priced, Model())
    generator.splits()
    metrics = generator.model.metrics()
    assert metrics["cost_usd"] == pytest.approx(metrics["requests"] * (100 * 2.0 + 50 * 8.0) / 1e6)  # type: ignore[operator]


def test_a_model_that_never_answers_soundly_is_one_line() -> None:
    hopeless = Model(dict.fromkeys(range(6, 100_000), "no json"))
    with pytest.raises(UserError, match=r"labels stay refused after 8 attempts: \d+ not JSON"):
        generated.Generator(settings(), hopeless).splits()
    hopeless = Model(dict.fromkeys(range(100_000), "no json"))
    with pytest.raises(UserError, match=r"no usable generation prompts in 8 attempts: 48 prompts not JSON"):
        generated.Generator(settings(), hopeless).splits()


def test_answers_that_are_mostly_unreadable_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    def thinking(requests: Sequence[Request], what: str) -> dict[str, Reply]:
        text = "<think>well</think> {}"
        return {
            one.key: Reply(text, "stop", 1, 5, 0.1, 0, 1, "m", "s", "c", "2026-01-01") for one in requests
        }

    with pytest.raises(UserError):
        generated.Generator(settings(), thinking).splits()
    said = capsys.readouterr().err.splitlines()
    assert said
    assert all("<think>" in line and "reasoning" in line for line in said)


def test_sampling_is_sent_as_params_say() -> None:
    model = Model()
    given = settings(openai={"temperature": None, "token_limit": "max_completion_tokens", "max_tokens": 77})
    generated.generation_prompts(given, WordingModel(given.openai, model))
    for request in model.asked:
        assert request.body["max_completion_tokens"] == 77
        assert not {"temperature", "max_tokens"} & set(request.body)


def test_noise_can_be_asked_of_the_model() -> None:
    model = Model()
    made = generated.Generator(settings(openai={"noise": "asked"}), model).splits()
    kinds = Counter(row.tags["noise"] for row in made["train"])
    assert set(kinds) <= {"clean", *metaprompt.NOISE}
    assert len(kinds) > 3
    assert any(
        "one or two typing slips" in request.body["messages"][-1]["content"] for request in model.asked
    )


def test_the_requests_of_both_levels() -> None:
    model = Model()
    generated.Generator(settings(), model).splits()
    first, last = model.asked[0].body, model.asked[-1].body
    assert first["response_format"]["json_schema"]["strict"] is True
    assert "Write 8 different prompts" in first["messages"][0]["content"]
    labels = json.loads(last["messages"][1]["content"])
    assert {"n", "action", "product", "quantity", "catalog"} == labels[0].keys()
    assert labels[0]["product"] in labels[0]["catalog"]
    plain = Model()
    generated.Generator(settings(openai={"structured": False}), plain).splits()
    assert "response_format" not in plain.asked[-1].body
    assert 'one JSON object {"messages": [...]}' in plain.asked[-1].body["messages"][0]["content"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('{"messages": [{"n": 2, "message": " b\\n b "}, {"n": 1, "message": "a"}]}', ["a", "b b"]),
        ('```json\n{"messages": [{"n": 1, "message": "a"}]}\n```', ["a", ""]),
        ('{"messages": [{"n": "1", "message": "a"}, {"message": "c"}, {"n": 9, "message": "d"}]}', ["", ""]),
        ("no", ValueError),
        ('{"messages": {}}', ValueError),
        ("[" * 100_000, ValueError),
    ],
)
def test_messages_of_an_answer(text: str, wanted: Any) -> None:
    if wanted is ValueError:
        with pytest.raises(ValueError, match=r"."):
            metaprompt.parse_messages(text, 2)
    else:
        assert metaprompt.parse_messages(text, 2) == wanted


def test_a_budget_is_never_passed() -> None:
    body = {"model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": "x" * 200}]}
    budget = Budget(2, None)
    budget.reserve(body)
    budget.reserve(body)
    with pytest.raises(Exception, match=r"max_requests=2 new requests are used up"):
        budget.reserve(body)
    budget = Budget(None, 500)
    reserved = budget.reserve(body)
    assert 200 < reserved < 260
    budget.settle(reserved, None)
    assert budget.tokens == reserved  # a time-out may have cost as much
    budget.settle(reserved, 80)
    assert budget.tokens == 80
    budget.reserve(body)
    with pytest.raises(Exception, match=r"of max_total_tokens=500 are used up"):
        budget.reserve(body)


def write_params(folder: Path, url: str, openai: Mapping[str, Any] | None = None, **data: Any) -> None:
    values = fixed_params.values()
    values["data"] |= {"source": "openai", **SIZES, **data}
    values["data"]["noise"] |= {"clean": 1.0}
    values["data"]["openai"] |= {
        "base_url": url, "prompts": 8, "api_key_env": "CARTLM_TEST_KEY", "concurrency": 8, "max_retries": 8,
        "timeout_s": 3.0, **(openai or {}),
    }  # fmt: skip
    (folder / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")


def environment(key: str | None = KEY) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    own = {"PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1", "CARTLM_BATCH_POLL_S": "0.1"}
    return {**kept, **own, **({"CARTLM_TEST_KEY": key} if key else {})}


def stage(folder: Path, *arguments: str, key: str | None = KEY) -> Result:
    """The stage in this process."""
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.delenv("OPENAI_BASE_URL", raising=False)
        patch.setattr(data_stage, "POLL_S", 0.1)
        return CliRunner(env={**environment(key), "CARTLM_TEST_KEY": key}).invoke(data_stage.main, arguments)


def one_line(done: Result) -> str:
    assert done.exit_code == 2, done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("cartlm: error: ")]
    assert len(errors) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return errors[0]


def digests(folder: Path) -> dict[str, str]:
    names = [*(f"data/{name}.jsonl" for name in SIZES), "metrics/data.json"]
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def answers(folder: Path) -> int:
    path = folder / "data/responses.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def start_and_kill(folder: Path, at: int) -> None:
    """Start the stage and `kill -9` it once `at` answers are stored."""
    with subprocess.Popen(
        [sys.executable, "-m", "stages.data"], cwd=folder, env=environment(), stderr=subprocess.DEVNULL
    ) as running:
        deadline = time.monotonic() + 300
        while answers(folder) < at:
            assert running.poll() is None, "it ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        running.send_signal(signal.SIGKILL)


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_server_that_fails_and_runs_that_are_killed_lose_nothing(
    tmp_path: Path,
) -> None:
    """30 % of all answers spoilt, two kills: nothing is lost, nothing bad kept, nothing whole is sent again."""
    sizes = {"train": 420, "validation": 60, "calibration": 30, "test": 120}
    with served(tmp_path, 0.3) as url:
        write_params(tmp_path, url, **sizes)
        for at in (15, 60):
            start_and_kill(tmp_path, at)
        done = stage(tmp_path)
        assert done.exit_code == 0, done.stderr[-2000:]
    made = {name: row_files.read(tmp_path / f"data/{name}.jsonl") for name in sizes}
    assert {name: len(rows) for name, rows in made.items()} == sizes

    log = [json.loads(line) for line in (tmp_path / "server.jsonl").read_text(encoding="utf-8").splitlines()]
    good = {one["message"]: one for entry in log if entry["what"] == "whole" for one in entry["good"]}
    for row in (*made["train"], *made["validation"], *made["test"]):
        said = good[row.message]  # KeyError: a bad message was kept
        assert (said["action"], said["product"], said["quantity"]) == (
            row.intent.action, row.intent.product, row.intent.quantity
        )  # fmt: skip
        assert said["language"] == row.language

    whole = Counter(entry["key"] for entry in log if entry["what"] == "whole" and entry["level"] == 2)
    repeated = sum(count - 1 for count in whole.values())
    assert repeated <= 2 * 8, "more than what was in flight at two kills was sent again"
    faults = Counter(entry["fault"] for entry in log if entry["what"] == "came" and entry["fault"])
    came = sum(entry["what"] == "came" for entry in log)
    assert len(faults) == 9
    assert 0.2 < faults.total() / came < 0.4

    before = digests(tmp_path)
    for name in before:
        (tmp_path / name).unlink()
    done = stage(tmp_path, key=None)  # the server is gone, and so is the key
    assert done.exit_code == 0, done.stderr[-2000:]
    assert digests(tmp_path) == before


def test_the_batch_api_goes_on_after_a_kill_and_hands_nothing_in_twice(tmp_path: Path) -> None:
    with served(tmp_path, 0.3) as url:
        write_params(tmp_path, url, {"batch": True})
        command = [sys.executable, "-m", "stages.data"]
        with subprocess.Popen(
            command, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True
        ) as running:
            assert running.stderr
            while "submitted" not in running.stderr.readline():
                assert running.poll() is None
            running.kill()  # a batch is on the server, nothing of it here
        assert answers(tmp_path) == 0
        done = stage(tmp_path)
        assert done.exit_code == 0, done.stderr
    assert {name: len(row_files.read(tmp_path / f"data/{name}.jsonl")) for name in SIZES} == SIZES
    log = [json.loads(line) for line in (tmp_path / "server.jsonl").read_text(encoding="utf-8").splitlines()]
    whole = Counter(entry["key"] for entry in log if entry["what"] == "whole" and entry["good"])
    assert set(whole.values()) == {1}  # what a batch answered is in no other batch
    assert not [entry for entry in log if entry["what"] == "came"]
    assert sum(entry["what"] == "batch" for entry in log) > 4  # failed ones went into another batch
    before = digests(tmp_path)
    for name in before:
        (tmp_path / name).unlink()
    assert stage(tmp_path, key=None).exit_code == 0
    assert digests(tmp_path) == before


def test_a_batch_whose_receipt_was_lost_is_not_handed_in_again(tmp_path: Path) -> None:
    def handed_in() -> list[int]:
        lines = (tmp_path / "server.jsonl").read_text(encoding="utf-8").splitlines()
        return [entry["n"] for entry in map(json.loads, lines) if entry["what"] == "batch"]

    with served(tmp_path, "cut batch") as url:
        write_params(tmp_path, url, {"batch": True})
        failed = stage(tmp_path)
        assert "does not answer" in one_line(failed)
        assert handed_in() == [6]
        done = stage(tmp_path)
        assert done.exit_code == 0, done.stderr
        assert "batch-0 completed, 6 new answers" in done.stderr
        assert handed_in()[1] != 6  # the next one is of the test rows


def test_the_key_stands_nowhere(tmp_path: Path) -> None:
    """Also where the server quotes it in its errors."""
    said = []
    with served(tmp_path, "500") as url:
        write_params(tmp_path, url, {"max_retries": 0})
        failed = stage(tmp_path)
        assert "500" in one_line(failed)
        said += [failed.stdout, failed.stderr]
        assert KEY in (tmp_path / "server.jsonl").read_text()  # it did quote it
        (tmp_path / "server.jsonl").unlink()
    with served(tmp_path, 0.0) as url:
        write_params(tmp_path, url)
        done = stage(tmp_path)
        assert done.exit_code == 0
        said += [done.stdout, done.stderr]
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "server.jsonl"]
    assert len(written) > 6
    assert not [path for path in written if KEY in path.read_text("utf-8")]
    assert not [text for text in said if KEY in text]


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    with served(tmp_path, 0.0) as url:
        write_params(tmp_path, url)
        assert "CARTLM_TEST_KEY is not set" in one_line(stage(tmp_path, key=None))
        write_params(tmp_path, url, {"max_requests": 10})
        said = one_line(stage(tmp_path))
        assert "max_requests=10 new requests are used up" in said
        assert "dvc repro data asks only for what is missing" in said
        assert answers(tmp_path) == 10  # nothing that was paid for is lost
        write_params(tmp_path, url, {"max_total_tokens": 5000})
        assert "max_total_tokens=5000" in one_line(stage(tmp_path))
        write_params(tmp_path, url)
        assert stage(tmp_path).exit_code == 0
    write_params(tmp_path, url, {"max_retries": 0, "model": "another"})
    assert "does not answer" in one_line(stage(tmp_path))
    (tmp_path / "server.jsonl").unlink()
    with served(tmp_path, "500") as url:  # each try counts
        write_params(tmp_path, url, {"max_requests": 10, "model": "a third"})
        assert "max_requests=10 new requests are used up" in one_line(stage(tmp_path))
        assert (tmp_path / "server.jsonl").read_text().count('"came"') == 10


def test_what_was_paid_for_is_not_bought_again_where_the_file_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(tmp_path, 0.0) as url:
        write_params(tmp_path, url)
        out = {"path": "data/responses.jsonl", "md5": "0" * 32, "size": 1000}
        lock = {"schema": "2.0", "stages": {"data": {"cmd": "c", "outs": [out]}}}
        (tmp_path / "dvc.lock").write_text(yaml.safe_dump(lock))
        said = one_line(stage(tmp_path))
        assert "data/responses.jsonl was paid for and is missing; make repro fetches it" in said
        (tmp_path / "data").mkdir()
        (tmp_path / "data/responses.jsonl").touch()  # as the offline preset leaves it
        assert "was paid for and is missing" in one_line(stage(tmp_path))
        assert not (tmp_path / "server.jsonl").read_text()
        monkeypatch.setenv("CARTLM_FORGET_PAID", "1")
        assert stage(tmp_path).exit_code == 0


def test_a_dry_run_asks_nothing_and_says_what_it_would_cost(tmp_path: Path) -> None:
    with served(tmp_path, 0.0) as url:
        prices = {"input_price": 2.0, "output_price": 8.0, "price_source": "a page, 2026-01-01"}
        write_params(tmp_path, url, prices)
        done = stage(tmp_path, "--dry-run", key=None)
        assert done.exit_code == 0, done.stderr
        planned = int(done.stdout.split()[0])
        assert "US dollars" in done.stdout
        assert not (tmp_path / "server.jsonl").read_text()
        assert not (tmp_path / "data/responses.jsonl").exists()
        assert stage(tmp_path).exit_code == 0
        assert planned <= answers(tmp_path) <= planned + 3  # some labels were refused or said before
        said = stage(tmp_path, "--dry-run").stdout
        assert said.startswith(
            "0 new requests of about 0 prompt and 0 completion tokens (about 0.00 US dollars)"
        )
        tokens = [
            reply.prompt_tokens or 0 for reply in read_replies(tmp_path / "data/responses.jsonl").values()
        ]
        estimated = int(done.stdout.split("of about ")[1].split()[0].replace(",", ""))
        assert 0.5 < estimated / sum(tokens) < 2
    write_params(tmp_path, url, source="rules")
    assert stage(tmp_path, "--dry-run").stdout == "data.source=rules asks no model\n"
