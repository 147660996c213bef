"""The load script asks by the clock, and finds answers that are not the reader's own."""

from __future__ import annotations

import asyncio

from tests.benchmarks.load_serve import ask_all, wrong_answers
from tests.component.serving.http.conftest import Server
from tests.fixtures.toy import toy_rows


def test_every_answer_is_compared_with_the_readers_own(server: Server) -> None:
    rows = toy_rows()[:6]
    outcomes = asyncio.run(ask_all(server.url, rows, rate=40, seconds=0.3, variant="toy"))
    assert [(each.row, each.status) for each in outcomes] == [(number % 6, 200) for number in range(12)]
    assert all(0 <= each.late_ms <= each.ms for each in outcomes)
    assert wrong_answers(outcomes, rows, server.reader) == 0
    outcomes[0] = outcomes[0]._replace(intent=outcomes[0].intent | {"quantity": 99})
    outcomes[1] = outcomes[1]._replace(status=429, intent=None)
    assert wrong_answers(outcomes, rows, server.reader) == 1
    unknown = asyncio.run(ask_all(server.url, rows, rate=40, seconds=0.05, variant="none"))
    assert [each.status for each in unknown] == [404, 404]
