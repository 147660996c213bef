"""The load script asks by the clock, and finds answers that are not the reader's own."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.benchmarks.load_serve import ask_all, wrong_answers
from tests.component.serving.http.conftest import Server
from tests.fixtures.toy import toy_rows


def test_every_answer_is_compared_with_the_readers_own(server: Server, toy_gguf: Path) -> None:
    rows = toy_rows()[:6]
    outcomes = asyncio.run(ask_all(server.url, rows, rate=40, seconds=0.3, variant="toy"))
    assert [(number, status) for number, status, _, _ in outcomes] == [(each % 6, 200) for each in range(12)]
    assert wrong_answers(outcomes, rows, str(toy_gguf)) == 0
    number, status, took, intent = outcomes[0]
    outcomes[0] = (number, status, took, intent | {"quantity": 99})
    outcomes[1] = (1, 429, took, None)
    assert wrong_answers(outcomes, rows, str(toy_gguf)) == 1
    unknown = asyncio.run(ask_all(server.url, rows, rate=40, seconds=0.05, variant="none"))
    assert [status for _, status, _, _ in unknown] == [404, 404]
