"""Requests and their keys, answers kept for good, what is measured, and the stage against a server that misbehaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from cartlm.engines import remote
from cartlm.engines.openai import Reply, Server
from cartlm.errors import UserError
from cartlm.metrics import read_metrics, read_outcomes
from cartlm.task import rows as row_files
from cartlm.text import help_to_read
from tests import ROOT
from tests.fixtures.base_gguf import base_gguf
from tests.fixtures.servers import Naughty, free_port, llama_server, no_surroundings
from tests.fixtures.toy import toy_rows

__all__ = ["base_gguf", "no_surroundings"]
KEY = "sk-test-0123456789-never-to-be-seen"
ROWS = toy_rows(8)
REPLY = Reply("yes", "stop", 50, 20, 0.25, 1, 2, "m-1", "host", "openai 1", "2026-01-02T03:04:05+00:00")


@pytest.fixture
def naughty() -> Iterator[Naughty]:
    """Knows all rows' answers, for both APIs."""
    said = {row.prompt: row.completion for row in ROWS}
    with Naughty(said | {f"{prompt}\n": text for prompt, text in said.items()}) as server:
        yield server


def request(row: row_files.Row = ROWS[0], **other: Any) -> remote.Request:
    usual: dict[str, Any] = {
        "base_url": None, "model": "m", "api": "chat", "instruction": "JSON", "separator": "\n", "max_new_tokens": 96,
    }  # fmt: skip
    return remote.request(row, **{**usual, **other})


def server(url: str, **other: Any) -> Server:
    usual: dict[str, Any] = {
        "timeout_s": 5.0,
        "max_retries": 0,
        "concurrency": 1,
        "key_env": None,
        "key": None,
    }
    return Server(url, **{**usual, **other})


def test_a_chat_request() -> None:
    assert request().body == {
        "model": "m", "temperature": 0, "max_tokens": 96,
        "messages": [{"role": "system", "content": "JSON"}, {"role": "user", "content": ROWS[0].prompt}],
    }  # fmt: skip
    assert [message["role"] for message in request(instruction=None).body["messages"]] == ["user"]


def test_a_completion_is_prompted_as_in_fine_tuning() -> None:
    body = request(api="completions", instruction=None, separator="###").body
    assert body["prompt"] == f"{ROWS[0].prompt}###"


def test_whatever_changes_the_answer_changes_the_key() -> None:
    assert request().key == request(separator="###").key, "chat has no separator"
    others = [
        request(ROWS[1]), request(model="n"), request(api="completions", instruction=None), request(instruction="X"),
        request(max_new_tokens=5), request(base_url="http://127.0.0.1:1/v1"),
    ]  # fmt: skip
    keys = {request().key, *(one.key for one in others)}
    assert len(keys) == 1 + len(others)


@pytest.mark.parametrize(("temperature", "limit"), [(None, "max_completion_tokens"), (0.7, "max_tokens")])
def test_sampling_is_sent_as_params_say(temperature: float | None, limit: str) -> None:
    asked = request(temperature=temperature, token_limit=limit)
    assert asked.body.get("temperature") == temperature
    assert ("temperature" in asked.body) == (temperature is not None)
    assert asked.body[limit] == 96
    assert len({"max_tokens", "max_completion_tokens"} & set(asked.body)) == 1
    assert asked.key != request().key
    assert request(temperature=0.0).key == request().key, "answers of older runs keep their key"
    assert remote.Budget(None, None).take(asked.body) > 96


def test_an_empty_answer_that_an_older_run_kept_is_asked_again(naughty: Naughty, tmp_path: Path) -> None:
    path, asked = tmp_path / "m.jsonl", [request(row) for row in ROWS]
    remote.collect(asked, server(naughty.url), path, "m")
    lines = path.read_text().splitlines()
    old = [json.loads(line) for line in lines]
    for line in old:
        line["reply"].pop("refusal")
    old[2]["reply"]["text"] = ""
    old[5]["reply"] |= {"text": "", "finish_reason": "content_filter"}
    path.write_text("".join(json.dumps(line) + "\n" for line in old))
    naughty.seen.clear()
    found = remote.collect(asked, server(naughty.url), path, "m")
    assert [prompt for prompt, _ in naughty.seen] == [ROWS[2].prompt]
    assert found[asked[2].key].text == ROWS[2].completion
    assert found[asked[5].key].text == ""


def test_a_missing_finish_reason_is_noted(
    naughty: Naughty, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for row in ROWS[:3]:
        naughty.plan[row.prompt] = ["unfinished"]
    remote.collect([request(row) for row in ROWS], server(naughty.url), tmp_path / "m.jsonl", "m")
    assert "m: 3 answers name no finish_reason" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("<think>two of them</think>{}", "reasoning"),
        ("```json\n{}\n```", "the hint"),
        ("Sure! {}", "the hint"),
    ],
)
def test_answers_that_cannot_be_read_are_shown(text: str, hint: str) -> None:
    line = help_to_read([text] * 6, 10, "the hint")
    assert line.startswith("6 of 10 answers")
    assert text[:8].strip() in line
    assert "\n" not in line
    assert hint in line
    assert help_to_read([text] * 5, 10, "the hint") == ""


def test_all_are_asked_once_and_never_again(naughty: Naughty, tmp_path: Path) -> None:
    path = tmp_path / "answers" / "m.jsonl"
    asked = [request(row) for row in [*ROWS, ROWS[0]]]  # one prompt twice
    naughty.delay_s = 0.05
    found = remote.collect(asked, server(naughty.url, concurrency=3), path, "m")
    assert [found[one.key].text for one in asked] == [row.completion for row in [*ROWS, ROWS[0]]]
    assert list(found) == [one.key for one in asked[:-1]]
    assert len(naughty.seen) == len(path.read_text().splitlines()) == 8
    assert naughty.most_at_once == 3
    kept = path.read_bytes()
    naughty.close()
    assert remote.collect(asked, server(naughty.url, key_env="NO_KEY"), path, "m") == found
    assert path.read_bytes() == kept


@pytest.mark.parametrize(
    "misdeed", ["429", "500", "400", "cut", "garbage", "empty", {"message": {"content": None}}]
)
def test_a_failure_is_told_never_stored_and_asked_again(
    naughty: Naughty, tmp_path: Path, misdeed: Any
) -> None:
    path = tmp_path / "m.jsonl"
    asked = [request(row) for row in ROWS]
    naughty.plan[ROWS[3].prompt] = [misdeed]
    with pytest.raises(UserError) as caught:
        remote.collect(asked, server(naughty.url), path, "gpt")
    said = str(caught.value)
    assert "\n" not in said
    assert "gpt: the request of row toy-0003 failed: " in said
    assert "5 of 8 answers are missing" in said
    assert said.endswith("make remote asks only for what is missing")
    kept = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["row"] for line in kept] == ["toy-0000", "toy-0001", "toy-0002"]
    assert all(line["reply"]["text"] and line["request"]["messages"] for line in kept)

    naughty.seen.clear()
    found = remote.collect(asked, server(naughty.url), path, "gpt")
    assert [prompt for prompt, _ in naughty.seen] == [row.prompt for row in ROWS[3:]]
    assert [reply.text for reply in found.values()] == [row.completion for row in ROWS]


def test_what_is_in_flight_when_another_fails_is_kept(naughty: Naughty, tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    naughty.plan[ROWS[0].prompt] = ["400"]
    naughty.plan[ROWS[1].prompt] = ["slow"]
    naughty.delay_s = 1.0  # so that both are under way before the first one fails
    with pytest.raises(UserError, match="row toy-0000 failed: 400 "):
        remote.collect([request(row) for row in ROWS], server(naughty.url, concurrency=2), path, "gpt")
    assert [json.loads(line)["row"] for line in path.read_text().splitlines()] == ["toy-0001"]
    assert len(naughty.seen) == 2


def test_a_full_disk_stops_and_names_the_file(
    naughty: Naughty, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    path = tmp_path / "m.jsonl"
    with pytest.raises(OSError, match="No space left") as caught:
        remote.collect([request(row) for row in ROWS], server(naughty.url), path, "gpt")
    assert caught.value.filename == str(path)
    assert len(naughty.seen) == 1, "no answer is bought that cannot be kept"


@pytest.mark.parametrize(
    "tail", ['{"key": "abc", "re', "not json\n", "[]\n", '{"key": "k", "reply": {}}\n', "\n"]
)
def test_a_broken_line_costs_only_itself(naughty: Naughty, tmp_path: Path, tail: str) -> None:
    path = tmp_path / "m.jsonl"
    asked = [request(row) for row in ROWS]
    remote.collect(asked[:2], server(naughty.url), path, "m")
    with path.open("a") as file:
        file.write(tail)
    before = path.read_bytes()
    naughty.seen.clear()
    assert len(remote.collect(asked, server(naughty.url), path, "m")) == 8
    assert len(naughty.seen) == 6
    assert path.read_bytes().startswith(before), "no line is rewritten"
    assert len(remote.stored(path)) == 8


def test_what_is_measured() -> None:
    replies = [replace(REPLY, latency_s=number / 1000, retries=0) for number in range(1, 101)]
    assert remote.measured([*replies[:-1], replace(REPLY, latency_s=0.1)], 2.0, 8.0, "the list of May") == {
        "requests": 100, "retries": 1, "concurrency": 2,
        "latency_ms_p50": pytest.approx(50.5), "latency_ms_p95": pytest.approx(95.05),
        "latency_ms_p99": pytest.approx(99.01), "prompt_tokens": 5000, "completion_tokens": 2000,
        "asked_from": "2026-01-02T03:04:05+00:00", "asked_to": "2026-01-02T03:04:05+00:00",
        "cost_usd": pytest.approx(0.026), "cost_usd_per_1000_queries": pytest.approx(0.26),
        "price_source": "the list of May",
    }  # fmt: skip


@pytest.mark.parametrize("open_count", ["prompt_tokens", "completion_tokens"])
def test_what_is_not_measured_is_absent(open_count: str) -> None:
    assert not any("cost" in name for name in remote.measured([REPLY], None, None, None))
    found = remote.measured([REPLY, replace(REPLY, **{open_count: None})], 2.0, 8.0, "a list")
    assert {"cost_usd", "price_source", open_count}.isdisjoint(found)
    with pytest.raises(ValueError, match="no replies"):
        remote.measured([], None, None, None)


def test_the_engine_section_names_every_model_that_answered() -> None:
    found = remote.engine([REPLY, replace(REPLY, model="m-2")], "chat", "m")
    assert found == {
        "name": "openai", "version": "openai 1", "api": "chat", "model": "m", "served_model": "m-1, m-2",
        "server": "host",
    }  # fmt: skip


ENTRY: dict[str, Any] = {
    "engine": "openai", "base_url": "", "model": "m", "api": "chat", "api_key_env": "SHOP_KEY",
    "instruction": "JSON", "max_new_tokens": 40, "token_limit": "max_tokens", "temperature": 0, "concurrency": 1, "max_retries": 1, "timeout_s": 5.0,
    "input_price": 2.0, "output_price": 8.0, "price_source": "a list, 2026-01-01",
}  # fmt: skip


def write_params(folder: Path, **entry: Any) -> None:
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    values["remote"] = {"gpt": {**ENTRY, **entry}}
    (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


@pytest.fixture
def shop(tmp_path: Path, naughty: Naughty) -> Path:
    """A folder with params.yaml and eight test rows."""
    write_params(tmp_path, base_url=naughty.url)
    row_files.write(tmp_path / "data/test.jsonl", ROWS)
    return tmp_path


def stage(shop: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    surroundings = {name: value for name, value in os.environ.items() if name != "SHOP_KEY"}
    return subprocess.run(
        [sys.executable, "-m", "stages.evaluate_remote", "gpt"], cwd=shop, capture_output=True, text=True,
        env={**surroundings, "PYTHONPATH": str(ROOT), **environ}, timeout=120,
    )  # fmt: skip


def everything(shop: Path) -> bytes:
    return b"".join(path.read_bytes() for path in shop.rglob("*") if path.is_file())


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def test_the_stage_scores_measures_and_counts(shop: Path, naughty: Naughty) -> None:
    naughty.said[ROWS[1].prompt] = "I would add it."
    naughty.said[ROWS[2].prompt] = ROWS[2].completion.replace(": ", ":")
    done = stage(shop, SHOP_KEY=KEY)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"remote": "gpt", "n": 8, "exact_match": 0.75}
    found = read_metrics(shop / "metrics/remote/gpt.json")
    assert set(found) == {"free", "free_slices", "remote", "engine"}
    assert (found["free"]["n"], found["free"]["parsed_equal"], found["free"]["unparseable"]) == (
        8,
        0.875,
        0.125,
    )
    assert found["remote"]["cost_usd"] == pytest.approx(8 * (50 * 2 + 20 * 8) / 1e6)
    assert found["engine"]["served_model"] == "m-2026-01-01"
    assert found["engine"]["server"] in naughty.url
    outcomes = read_outcomes(shop / "metrics/remote_outcomes/gpt.csv")
    assert [one.outcome for one in outcomes[:4]] == ["exact", "unparseable", "parsed_equal", "exact"]
    assert {headers["authorization"] for _, headers in naughty.seen} == {f"Bearer {KEY}"}
    assert KEY.encode() not in everything(shop) + (done.stdout + done.stderr).encode()

    before = {path: path.read_bytes() for path in (shop / "metrics").rglob("*.*")}
    naughty.close()
    again = stage(shop)  # no key, no server
    assert again.returncode == 0, again.stderr
    assert {path: path.read_bytes() for path in (shop / "metrics").rglob("*.*")} == before


def test_the_stage_shows_an_answer_that_cannot_be_read(shop: Path, naughty: Naughty) -> None:
    naughty.said = {row.prompt: f"<think>hm</think>\n{row.completion}" for row in ROWS}
    done = stage(shop, SHOP_KEY=KEY)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if "8 of 8 answers" in line]
    assert len(lines) == 1
    assert "<think>" in lines[0]


def test_the_stage_says_that_most_answers_were_cut(shop: Path, naughty: Naughty) -> None:
    naughty.finish_reason = "length"
    done = stage(shop, SHOP_KEY=KEY)
    assert done.returncode == 0, done.stderr
    assert any("8 of 8 answers" in line and "max_new_tokens" in line for line in done.stderr.splitlines())


def test_the_stage_sends_what_newer_models_want(shop: Path, naughty: Naughty) -> None:
    write_params(shop, base_url=naughty.url, token_limit="max_completion_tokens", temperature=None)
    assert stage(shop, SHOP_KEY=KEY).returncode == 0
    assert all(body.keys() == {"model", "messages", "max_completion_tokens"} for body in naughty.bodies)


def test_a_missing_key_is_one_line_and_asks_nothing(shop: Path, naughty: Naughty) -> None:
    done = stage(shop)
    assert last_line(done).startswith("cartlm: error: SHOP_KEY is not set")
    assert done.stderr.count("\n") == 1
    assert naughty.seen == []
    assert not (shop / "metrics").exists()


@pytest.mark.slow
@pytest.mark.parametrize("misdeed", ["401", "400", "500", "garbage"])
def test_the_key_is_in_no_file_and_no_output(shop: Path, naughty: Naughty, misdeed: str) -> None:
    """Neither with the traceback that CARTLM_DEBUG shows, nor in the client's own log."""
    naughty.plan[ROWS[2].prompt] = [misdeed] * 9
    done = stage(shop, SHOP_KEY=KEY, CARTLM_DEBUG="1", OPENAI_LOG="debug")
    assert "row toy-0002 failed" in last_line(done)
    assert KEY in str(naughty.seen)
    assert KEY.encode() not in everything(shop) + (done.stdout + done.stderr).encode()
    assert not (shop / "metrics").exists()
    assert len(remote.stored(shop / "data/answers/gpt.jsonl")) == 2


def test_an_unknown_name_says_which_there_are(shop: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stages.evaluate_remote", "gtp"], cwd=shop, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert "no 'gtp' under remote in params.yaml; there are: gpt" in last_line(done)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_goes_on_where_it_stopped(shop: Path, naughty: Naughty, how: signal.Signals) -> None:
    # a busy machine may take a second to end the run: some requests must still be unanswered then
    naughty.delay_s = 1.0
    path = shop / "data/answers/gpt.jsonl"
    with subprocess.Popen(
        [sys.executable, "-m", "stages.evaluate_remote", "gpt"], cwd=shop, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), "SHOP_KEY": KEY},
        # what a shell runs in the background ignores Ctrl-C, and so would all that pytest starts there
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as running:  # fmt: skip
        deadline = time.monotonic() + 60
        while not path.exists() or path.read_bytes().count(b"\n") < 3:
            assert running.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        running.send_signal(how)
        assert running.stderr
        said = running.stderr.read().decode()
    kept = set(remote.stored(path))
    assert 3 <= len(kept) < 8
    if how == signal.SIGINT:
        assert running.returncode == 2
        assert said.splitlines()[-1].startswith("cartlm: error: interrupted")
    naughty.seen.clear()
    naughty.delay_s = 0.0
    done = stage(shop, SHOP_KEY=KEY)
    assert done.returncode == 0, done.stderr
    assert len(naughty.seen) == 8 - len(kept)
    assert read_metrics(shop / "metrics/remote/gpt.json")["free"]["exact_match"] == 1.0


def test_the_stage_on_a_real_llama_server(shop: Path, base_gguf: Path) -> None:
    with llama_server(base_gguf, shop / "llama.log") as url:
        write_params(
            shop, base_url=url, model="base", api="completions", instruction=None, api_key_env=None, concurrency=2,
            input_price=None, output_price=None, price_source=None,
        )  # fmt: skip
        done = stage(shop)
    assert done.returncode == 0, done.stderr
    found = read_metrics(shop / "metrics/remote/gpt.json")
    assert found["free"]["n"] == found["remote"]["requests"] == 8
    assert found["remote"]["prompt_tokens"] > 8 * 20
    assert 0 < found["remote"]["latency_ms_p50"] <= found["remote"]["latency_ms_p99"]
    assert "cost_usd" not in found["remote"]


def test_a_server_that_is_down_is_one_line(shop: Path) -> None:
    write_params(shop, base_url=f"http://127.0.0.1:{free_port()}/v1", max_retries=0)
    assert "does not answer" in (line := last_line(stage(shop, SHOP_KEY=KEY)))
    assert "8 of 8 answers are missing; start the server; make remote asks only" in line
