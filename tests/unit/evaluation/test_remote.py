"""Requests for test rows and their keys; latency and cost in the metrics."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cartlm.engines.config import Remote
from cartlm.engines.openai import Reply
from cartlm.engines.replies import Request
from cartlm.evaluation.remote import engine_section, remote_section, row_request
from cartlm.task.rows import Row
from tests.fixtures.toy import toy_rows

ROWS = toy_rows(2)
REPLY = Reply("yes", "stop", 50, 20, 0.25, 1, 2, "m-1", "host", "openai 1", "2026-01-02T03:04:05+00:00")
PRICES = {"input_price": 2.0, "output_price": 8.0, "price_source": "the list of May"}


def remote(**changes: Any) -> Remote:
    values = {
        "engine": "openai", "base_url": None, "model": "m", "api": "chat", "api_key_env": None, "instruction": "JSON",
        "max_new_tokens": 96, "token_limit": "max_tokens", "temperature": 0.0, "concurrency": 1, "max_retries": 0,
        "timeout_s": 5.0, "input_price": None, "output_price": None, "price_source": None,
    }  # fmt: skip
    return Remote.model_validate({**values, **changes})


def request(row: Row = ROWS[0], separator: str = "\n", **changes: Any) -> Request:
    return row_request(row, remote(**changes), separator)


def test_a_chat_request() -> None:
    assert request().body == {
        "model": "m", "temperature": 0, "max_tokens": 96,
        "messages": [{"role": "system", "content": "JSON"}, {"role": "user", "content": ROWS[0].prompt}],
    }  # fmt: skip
    assert [message["role"] for message in request(instruction=None).body["messages"]] == ["user"]


def test_a_completion_has_the_prompt_of_fine_tuning() -> None:
    body = request(api="completions", instruction=None, separator="###").body
    assert body["prompt"] == f"{ROWS[0].prompt}###"


def test_whatever_changes_the_answer_changes_the_key() -> None:
    assert request().key == request(separator="###").key, "chat has no separator"
    others = [
        request(ROWS[1]), request(model="n"), request(api="completions", instruction=None), request(instruction="X"),
        request(max_new_tokens=5), request(base_url="http://127.0.0.1:1/v1"), request(temperature=None),
        request(token_limit="max_completion_tokens"),
    ]  # fmt: skip
    assert len({request().key, *(one.key for one in others)}) == 1 + len(others)


def test_the_key_is_that_of_older_runs() -> None:
    """Answers are paid for: a changed key would buy them again."""
    row = replace(ROWS[0], prompt="Catalog:\nTea\n\nUser:\nadd tea")
    assert request(row).key == "2c1c0f979c7af171"
    assert request(row, api="completions", instruction=None, temperature=0.7).key == "87ce9b36cc62bb5e"


@pytest.mark.parametrize(("temperature", "limit"), [(None, "max_completion_tokens"), (0.7, "max_tokens")])
def test_sampling_is_sent_as_params_say(temperature: float | None, limit: str) -> None:
    body = request(temperature=temperature, token_limit=limit).body
    assert body.get("temperature") == temperature
    assert ("temperature" in body) == (temperature is not None)
    assert body[limit] == 96
    assert len({"max_tokens", "max_completion_tokens"} & set(body)) == 1


def test_latency_tokens_and_cost() -> None:
    replies = [replace(REPLY, latency_s=number / 1000, retries=0) for number in range(1, 101)]
    replies[-1] = replace(REPLY, latency_s=0.1)
    assert remote_section(replies, remote(**PRICES)) == {
        "requests": 100, "retries": 1, "concurrency": 2,
        "latency_ms_p50": pytest.approx(50.5), "latency_ms_p95": pytest.approx(95.05),
        "latency_ms_p99": pytest.approx(99.01), "prompt_tokens": 5000, "completion_tokens": 2000,
        "asked_from": REPLY.asked, "asked_to": REPLY.asked, "price_source": "the list of May",
        "cost_usd": pytest.approx(0.026), "cost_usd_per_1000_queries": pytest.approx(0.26),
    }  # fmt: skip


@pytest.mark.parametrize("unknown", ["prompt_tokens", "completion_tokens"])
def test_what_is_not_measured_is_absent(unknown: str) -> None:
    assert not any("cost" in name for name in remote_section([REPLY], remote()))
    section = remote_section([REPLY, replace(REPLY, **{unknown: None})], remote(**PRICES))
    assert {"cost_usd", "price_source", unknown}.isdisjoint(section)


def test_the_engine_section_names_every_model_that_answered() -> None:
    assert engine_section([REPLY, replace(REPLY, model="m-2")], remote()) == {
        "name": "openai", "version": "openai 1", "api": "chat", "model": "m", "served_model": "m-1, m-2",
        "server": "host",
    }  # fmt: skip
