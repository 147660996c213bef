"""Replies of a server: empty, truncated, scored, kept on disk."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from cartlm.engines.openai import Budget, Reply
from cartlm.engines.replies import Request, append_reply, read_replies
from cartlm.evaluation.scoring import score
from tests.fixtures.toy import toy_rows

REPLY = Reply("yes", "stop", 50, 20, 0.25, 1, 2, "m-1", "host", "openai 1", "2026-01-02T03:04:05+00:00")
ROW = toy_rows(1)[0]


@pytest.mark.parametrize(
    ("reason", "text", "outcome"),
    [
        ("stop", ROW.completion, "exact"), ("length", ROW.completion, "truncated"), ("content_filter", "", "unparseable"),
        ("stop", "```json\n{}\n```", "unparseable"),
    ],
)  # fmt: skip
def test_answers_are_scored_as_everywhere(reason: str, text: str, outcome: str) -> None:
    assert score(ROW, replace(REPLY, text=text, finish_reason=reason).answer()).outcome == outcome


@pytest.mark.parametrize("reason", ["length", "MAX_TOKENS", "max_output_tokens"])
def test_truncated_in_any_word_and_case(reason: str) -> None:
    assert replace(REPLY, finish_reason=reason).answer().finish_reason == "length"


@pytest.mark.parametrize(("tokens", "empty"), [(0, False), (1, False), (20, True), (None, True)])
def test_a_completion_may_end_at_once(tokens: int | None, empty: bool) -> None:
    reply = replace(REPLY, text="", completion_tokens=tokens)
    assert (reply.is_empty(chat=False), reply.is_empty(chat=True)) == (empty, True)


@pytest.mark.parametrize(
    "tail", ['{"key": "abc", "re', "not json\n", "[]\n", '{"key": "k", "reply": {}}\n', "\n"]
)
def test_a_broken_line_costs_only_itself(tmp_path: Path, tail: str) -> None:
    path = tmp_path / "replies" / "m.jsonl"
    for number in (1, 2):
        append_reply(path, Request(f"r{number}", {"messages": []}, f"k{number}"), REPLY)
        with path.open("a") as file:
            file.write(tail)
    before = path.read_bytes()
    append_reply(path, Request("r3", {"messages": []}, "k3"), REPLY)
    assert path.read_bytes().startswith(before), "no line is rewritten"
    assert read_replies(path) == dict.fromkeys(("k1", "k2", "k3"), REPLY)


def test_an_empty_reply_of_an_older_run_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    old = {name: value for name, value in asdict(REPLY).items() if name != "refusal"}
    lines = [
        {"key": "whole", "request": {"messages": []}, "reply": old},
        {"key": "empty", "request": {"messages": []}, "reply": {**old, "text": ""}},
        {"key": "refused", "request": {"messages": []}, "reply": {**old, "text": "", "finish_reason": "content_filter"}},
    ]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_replies(path).keys() == {"whole", "refused"}


def test_a_budget_reserves_by_either_token_limit() -> None:
    for limit in ("max_tokens", "max_completion_tokens"):
        assert Budget(None, None).reserve({"model": "m", limit: 96}) > 96
