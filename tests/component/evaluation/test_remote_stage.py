"""eval-remote against a server that misbehaves, and against a real llama-server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from cartlm.engines.replies import read_replies
from cartlm.metrics import read_metrics, read_outcomes
from cartlm.task import rows as row_files
from stages import evaluate_remote
from tests import ROOT
from tests.fixtures import fixed_params
from tests.fixtures.base_gguf import base_gguf
from tests.fixtures.servers import Naughty, free_port, llama_server, no_surroundings
from tests.fixtures.toy import toy_rows

__all__ = ["base_gguf", "no_surroundings"]
KEY = "sk-test-0123456789-never-to-be-seen"
ROWS = toy_rows(8)
ENTRY: dict[str, Any] = {
    "engine": "openai", "base_url": "", "model": "m", "api": "chat", "api_key_env": "SHOP_KEY",
    "instruction": "JSON", "max_new_tokens": 40, "token_limit": "max_tokens", "temperature": 0, "concurrency": 1,
    "max_retries": 1, "timeout_s": 5.0, "input_price": 2.0, "output_price": 8.0, "price_source": "a list, 2026-01-01",
}  # fmt: skip


@pytest.fixture
def naughty() -> Iterator[Naughty]:
    """Knows all rows' answers."""
    with Naughty({row.prompt: row.completion for row in ROWS}) as server:
        yield server


def write_params(folder: Path, **entry: Any) -> None:
    values = fixed_params.values()
    values["remote"] = {"gpt": {**ENTRY, **entry}}
    (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


@pytest.fixture
def shop(tmp_path: Path, naughty: Naughty, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with params.yaml and eight test rows; the key is set."""
    write_params(tmp_path, base_url=naughty.url)
    row_files.write(tmp_path / "data/test.jsonl", ROWS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHOP_KEY", KEY)
    return tmp_path


def stage(name: str = "gpt") -> Result:
    return CliRunner().invoke(evaluate_remote.main, [name])


def error_line(result: Result) -> str:
    assert result.exit_code == 2, result.output
    return result.stderr.splitlines()[-1]


def everything(shop: Path) -> bytes:
    return b"".join(path.read_bytes() for path in shop.rglob("*") if path.is_file())


def test_the_stage_scores_measures_and_counts(
    shop: Path, naughty: Naughty, monkeypatch: pytest.MonkeyPatch
) -> None:
    naughty.said[ROWS[1].prompt] = "I would add it."
    naughty.said[ROWS[2].prompt] = ROWS[2].completion.replace(": ", ":")
    result = stage()
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout.splitlines()[-1]) == {"remote": "gpt", "n": 8, "exact_match": 0.75}
    metrics = read_metrics(shop / "metrics/remote/gpt.json")
    assert set(metrics) == {"free", "free_slices", "remote", "engine"}
    free = metrics["free"]
    assert (free["n"], free["parsed_equal"], free["unparseable"], free["truncated"]) == (8, 0.875, 0.125, 0)
    assert metrics["remote"]["cost_usd"] == pytest.approx(8 * (50 * 2 + 20 * 8) / 1e6)
    assert metrics["engine"]["served_model"] == "m-2026-01-01"
    assert metrics["engine"]["server"] in naughty.url
    outcomes = read_outcomes(shop / "metrics/remote_outcomes/gpt.csv")
    assert [one.outcome for one in outcomes[:4]] == ["exact", "unparseable", "parsed_equal", "exact"]
    assert {headers["authorization"] for _, headers in naughty.seen} == {f"Bearer {KEY}"}
    assert KEY.encode() not in everything(shop) + result.output.encode()

    before = {path: path.read_bytes() for path in (shop / "metrics").rglob("*.*")}
    naughty.close()
    monkeypatch.delenv("SHOP_KEY")
    assert stage().exit_code == 0, "neither server nor key is needed"
    assert {path: path.read_bytes() for path in (shop / "metrics").rglob("*.*")} == before


def test_answers_that_cannot_be_parsed_are_shown_with_a_hint(shop: Path, naughty: Naughty) -> None:
    naughty.said = {row.prompt: f"<think>hm</think>\n{row.completion}" for row in ROWS}
    (line,) = [line for line in stage().stderr.splitlines() if "8 of 8 answers" in line]
    assert "<think>" in line
    assert "reasoning" in line


def test_truncated_answers_get_another_hint(shop: Path, naughty: Naughty) -> None:
    naughty.finish_reason = "length"
    assert any("8 of 8 answers" in line and "max_new_tokens" in line for line in stage().stderr.splitlines())
    assert read_metrics(shop / "metrics/remote/gpt.json")["free"]["truncated"] == 1.0


def test_the_stage_sends_what_newer_models_want(shop: Path, naughty: Naughty) -> None:
    write_params(shop, base_url=naughty.url, token_limit="max_completion_tokens", temperature=None)
    assert stage().exit_code == 0
    assert all(body.keys() == {"model", "messages", "max_completion_tokens"} for body in naughty.bodies)


def test_a_missing_key_is_one_line_and_asks_nothing(
    shop: Path, naughty: Naughty, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SHOP_KEY")
    result = stage()
    assert "SHOP_KEY is not set" in error_line(result)
    assert result.stderr.count("\n") == 1
    assert naughty.seen == []
    assert not (shop / "metrics").exists()


def test_an_unknown_name_lists_the_servers(shop: Path) -> None:
    assert "no 'gtp' under remote in params.yaml; there are: gpt" in error_line(stage("gtp"))


def test_a_server_that_is_down_is_one_line(shop: Path) -> None:
    write_params(shop, base_url=f"http://127.0.0.1:{free_port()}/v1", max_retries=0)
    line = error_line(stage())
    assert "does not answer" in line
    assert "8 of 8 answers are missing" in line
    assert "start the server" in line


def process(shop: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stages.evaluate_remote", "gpt"], cwd=shop, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ}, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize("misdeed", ["401", "500"])
def test_the_key_is_in_no_file_and_no_output(shop: Path, naughty: Naughty, misdeed: str) -> None:
    """Neither in the traceback that CARTLM_DEBUG prints, nor in the client's own log."""
    naughty.plan[ROWS[2].prompt] = [misdeed] * 9
    done = process(shop, CARTLM_DEBUG="1", OPENAI_LOG="debug")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "row toy-0002 failed" in done.stderr.splitlines()[-1]
    assert KEY in str(naughty.seen)
    assert KEY.encode() not in everything(shop) + (done.stdout + done.stderr).encode()
    assert not (shop / "metrics").exists()
    assert len(read_replies(shop / "data/answers/gpt.jsonl")) == 2


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_goes_on_where_it_stopped(shop: Path, naughty: Naughty, how: signal.Signals) -> None:
    # a busy machine may take a second to end the run: some requests must still be unanswered then
    naughty.delay_s = 1.0
    path = shop / "data/answers/gpt.jsonl"
    with subprocess.Popen(
        [sys.executable, "-m", "stages.evaluate_remote", "gpt"], cwd=shop, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
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
        stderr = running.stderr.read().decode()
    kept = set(read_replies(path))
    assert 3 <= len(kept) < 8
    if how == signal.SIGINT:
        assert running.returncode == 2
        assert stderr.splitlines()[-1].startswith("cartlm: error: interrupted")
    naughty.seen.clear()
    naughty.delay_s = 0.0
    assert stage().exit_code == 0
    assert len(naughty.seen) == 8 - len(kept)
    assert read_metrics(shop / "metrics/remote/gpt.json")["free"]["exact_match"] == 1.0


def test_the_stage_on_a_real_llama_server(shop: Path, base_gguf: Path) -> None:
    with llama_server(base_gguf, shop / "llama.log") as url:
        write_params(
            shop, base_url=url, model="base", api="completions", instruction=None, api_key_env=None, concurrency=2,
            input_price=None, output_price=None, price_source=None,
        )  # fmt: skip
        result = stage()
    assert result.exit_code == 0, result.output
    metrics = read_metrics(shop / "metrics/remote/gpt.json")
    assert metrics["free"]["n"] == metrics["remote"]["requests"] == 8
    assert metrics["remote"]["prompt_tokens"] > 8 * 20
    assert 0 < metrics["remote"]["latency_ms_p50"] <= metrics["remote"]["latency_ms_p99"]
    assert "cost_usd" not in metrics["remote"]
