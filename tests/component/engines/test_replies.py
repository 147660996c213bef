"""Replies kept for good: what is asked, what is not asked again, and what a failure leaves behind."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cartlm.engines.config import Remote
from cartlm.engines.replies import Asking, Request, collect_replies, read_replies
from cartlm.errors import UserError
from cartlm.evaluation.remote import row_request
from tests.fixtures.servers import Naughty, no_surroundings
from tests.fixtures.toy import toy_rows

__all__ = ["no_surroundings"]
ROWS = toy_rows(8)


@pytest.fixture
def naughty() -> Iterator[Naughty]:
    with Naughty({row.prompt: row.completion for row in ROWS}) as server:
        yield server


@pytest.fixture
def asking(naughty: Naughty, tmp_path: Path) -> Asking:
    return asking_for(naughty, tmp_path)


def asking_for(naughty: Naughty, folder: Path, **changes: Any) -> Asking:
    values = {
        "engine": "openai", "base_url": naughty.url, "model": "m", "api": "chat", "api_key_env": None,
        "instruction": "JSON", "max_new_tokens": 96, "token_limit": "max_tokens", "temperature": 0.0, "concurrency": 1,
        "max_retries": 0, "timeout_s": 5.0, "input_price": None, "output_price": None, "price_source": None,
    }  # fmt: skip
    return Asking(Remote.model_validate({**values, **changes}), None, folder / "m.jsonl", label="gpt")


def requests(asking: Asking) -> list[Request]:
    assert isinstance(asking.server, Remote)
    return [row_request(row, asking.server, "\n") for row in ROWS]


def test_all_are_asked_once_and_never_again(naughty: Naughty, tmp_path: Path) -> None:
    asking = asking_for(naughty, tmp_path / "answers", concurrency=3)
    asked = [*requests(asking), requests(asking)[0]]  # one prompt twice
    naughty.delay_s = 0.05
    replies = collect_replies(asked, asking)
    assert [replies[one.key].text for one in asked] == [row.completion for row in [*ROWS, ROWS[0]]]
    assert list(replies) == [one.key for one in asked[:-1]]
    assert len(naughty.seen) == len(asking.path.read_text().splitlines()) == 8
    assert naughty.most_at_once == 3
    kept = asking.path.read_bytes()
    naughty.close()
    without_key = asking_for(naughty, tmp_path / "answers", api_key_env="NO_KEY")
    assert collect_replies(asked, without_key) == replies
    assert asking.path.read_bytes() == kept


@pytest.mark.parametrize(
    "misdeed", ["429", "500", "400", "cut", "garbage", "empty", {"message": {"content": None}}]
)
def test_a_failure_is_reported_never_stored_and_asked_again(
    naughty: Naughty, asking: Asking, misdeed: Any
) -> None:
    naughty.plan[ROWS[3].prompt] = [misdeed]
    with pytest.raises(UserError) as caught:
        collect_replies(requests(asking), asking)
    message = str(caught.value)
    assert "\n" not in message
    assert "gpt: the request of row toy-0003 failed: " in message
    assert "5 of 8 answers are missing" in message
    assert "make remote" in message
    kept = [json.loads(line) for line in asking.path.read_text().splitlines()]
    assert [line["row"] for line in kept] == ["toy-0000", "toy-0001", "toy-0002"]
    assert all(line["reply"]["text"] and line["request"]["messages"] for line in kept)

    naughty.seen.clear()
    replies = collect_replies(requests(asking), asking)
    assert [prompt for prompt, _ in naughty.seen] == [row.prompt for row in ROWS[3:]]
    assert [reply.text for reply in replies.values()] == [row.completion for row in ROWS]


def test_what_is_in_flight_when_another_fails_is_kept(naughty: Naughty, tmp_path: Path) -> None:
    asking = asking_for(naughty, tmp_path, concurrency=2)
    naughty.plan[ROWS[0].prompt] = ["400"]
    naughty.plan[ROWS[1].prompt] = ["slow"]
    naughty.delay_s = 0.5  # so that both are under way before the first one fails
    with pytest.raises(UserError, match="row toy-0000 failed: 400 "):
        collect_replies(requests(asking), asking)
    assert [json.loads(line)["row"] for line in asking.path.read_text().splitlines()] == ["toy-0001"]
    assert len(naughty.seen) == 2


def test_a_full_disk_stops_and_names_the_file(
    naughty: Naughty, asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        collect_replies(requests(asking), asking)
    assert caught.value.filename == str(asking.path)
    assert len(naughty.seen) == 1, "no answer is bought that cannot be kept"


def test_an_empty_reply_of_an_older_run_is_asked_again(naughty: Naughty, asking: Asking) -> None:
    collect_replies(requests(asking), asking)
    lines = [json.loads(line) for line in asking.path.read_text().splitlines()]
    lines[2]["reply"]["text"] = ""
    asking.path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    naughty.seen.clear()
    replies = collect_replies(requests(asking), asking)
    assert [prompt for prompt, _ in naughty.seen] == [ROWS[2].prompt]
    assert len(replies) == len(read_replies(asking.path)) == 8


def test_a_missing_finish_reason_is_reported(
    naughty: Naughty, asking: Asking, capsys: pytest.CaptureFixture[str]
) -> None:
    for row in ROWS[:3]:
        naughty.plan[row.prompt] = ["unfinished"]
    collect_replies(requests(asking), asking)
    assert "gpt: 3 answers have no finish_reason" in capsys.readouterr().err
