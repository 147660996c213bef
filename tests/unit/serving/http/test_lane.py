"""The queue in front of a reader: its bound, its time limit, and what a failing model leaves behind."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Coroutine
from typing import Any

import pytest

from cartlm.serving.http.failures import Refused
from cartlm.serving.http.lane import Lane, Timed
from cartlm.serving.http.limits import Limits
from cartlm.serving.reader import Prediction, Unreadable
from tests.fixtures.http_service import CATALOG, Engine, reader, wait_for


def lane(engine: Engine, queue: int = 3, timeout_s: float = 20) -> tuple[Lane, list[Timed]]:
    seen: list[Timed] = []
    return Lane(
        "first", "first", reader(engine), Limits(queue, timeout_s), lambda _, timed: seen.append(timed)
    ), seen


async def outcome(work: Coroutine[Any, Any, Any]) -> Any:
    """What it returns, or the Refused that it raises."""
    try:
        return await work
    except Refused as error:
        return error


def test_what_has_no_room_is_refused_at_once_and_all_else_is_answered() -> None:
    engine = Engine()
    made, seen = lane(engine)

    async def run() -> None:
        asked = [asyncio.create_task(outcome(made.ask(CATALOG, ["tea"]))) for _ in range(10)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        refused = [task.result() for task in asked if task.done()]
        assert [each.status for each in refused] == [429] * 6
        assert all(int(each.headers["Retry-After"]) >= 1 for each in refused)
        assert made.waiting == 3
        engine.gate.set()
        found = [each for each in await asyncio.gather(*asked) if not isinstance(each, Refused)]
        assert [each[0].intent.product for each in found] == [CATALOG[0]] * 4
        assert made.waiting == 0
        assert len(await made.ask(CATALOG, ["tea"] * 4)) == 4  # there is room again

    asyncio.run(run())
    assert [timed.outcome for timed in seen] == ["answered"] * 8
    made.close()


def test_a_batch_is_taken_whole_or_not_at_all() -> None:
    engine = Engine()
    made, _ = lane(engine)

    async def run() -> None:
        first = asyncio.create_task(made.ask(CATALOG, ["tea"] * 3))
        await asyncio.sleep(0)
        assert (await outcome(made.ask(CATALOG, ["tea"] * 2))).status == 429
        assert (await outcome(made.ask(CATALOG, ["tea"] * 5))).status == 422  # it never fits
        engine.gate.set()
        assert len(await first) == 3

    asyncio.run(run())
    assert engine.begun == 3
    made.close()


def test_what_is_not_read_in_time_is_refused_and_never_read() -> None:
    engine = Engine()
    made, seen = lane(engine, timeout_s=0.2)

    async def run() -> None:
        both = await asyncio.gather(*(outcome(made.ask(CATALOG, ["tea"])) for _ in range(3)))
        assert [each.status for each in both] == [503] * 3
        engine.gate.set()

    asyncio.run(run())
    wait_for(lambda: made._accepted == 0)
    made.close()
    assert engine.begun == 1  # the others were still in the queue
    assert sorted(timed.outcome for timed in seen) == ["answered", "late", "late"]


def test_an_error_that_comes_too_late_is_not_told_with_its_words(caplog: pytest.LogCaptureFixture) -> None:
    engine = Engine()
    made, seen = lane(engine, timeout_s=0.1)

    async def run() -> None:
        assert (await outcome(made.ask(CATALOG, ["fail for Ana Horvat"]))).status == 503
        engine.gate.set()
        await asyncio.to_thread(made.close)
        gc.collect()

    asyncio.run(run())
    assert [timed.outcome for timed in seen] == ["failed"]
    assert "Horvat" not in caplog.text


def test_what_would_be_late_is_refused_before_it_waits() -> None:
    engine = Engine()
    made, _ = lane(engine, queue=100, timeout_s=10)
    made._mean_s = 4.0  # seconds for a message, as it was measured

    async def run() -> None:
        asked = [asyncio.create_task(outcome(made.ask(CATALOG, ["tea"]))) for _ in range(9)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        refused = [task.result() for task in asked if task.done()]
        assert {each.status for each in refused} == {429}
        assert len(refused) == 6  # one is being read, two wait up to 8 s
        assert int(refused[0].headers["Retry-After"]) == 4
        assert (await outcome(made.ask(CATALOG, ["tea"] * 4))).status == 429
        engine.gate.set()
        await asyncio.gather(*asked)

    asyncio.run(run())
    made.close()


def test_a_batch_that_would_be_late_on_an_idle_lane_is_not_told_to_come_again() -> None:
    engine = Engine()
    engine.gate.set()
    made, _ = lane(engine, queue=100, timeout_s=10)
    made._mean_s = 4.0

    async def run() -> None:
        refused = await outcome(made.ask(CATALOG, ["tea"] * 4))
        assert (refused.status, refused.message) == (
            422,
            "4 messages take more than 10 s: send at most 3 at once",
        )
        assert len(await made.ask(CATALOG, ["tea"] * 3)) == 3

    asyncio.run(run())
    made.close()


def test_a_failing_model_fails_its_message_alone() -> None:
    engine = Engine()
    engine.gate.set()
    made, seen = lane(engine)

    async def run() -> None:
        with pytest.raises(RuntimeError, match="failed at"):
            await made.ask(CATALOG, ["tea", "fail", "fail"])
        found = await made.ask(CATALOG, ["tea", "unclear", "  "])
        assert [type(each) for each in found] == [Prediction, Unreadable, Unreadable]

    asyncio.run(run())
    made.close()
    assert [timed.outcome for timed in seen].count("failed") == 2
    assert made.waiting == 0


def test_closing_answers_what_was_accepted() -> None:
    engine = Engine()
    made, seen = lane(engine)

    async def run() -> None:
        asked = asyncio.create_task(made.ask(CATALOG, ["tea"] * 4))
        await asyncio.sleep(0)
        closing = threading.Thread(target=made.close)
        closing.start()
        assert not engine.closed
        engine.gate.set()
        assert len(await asked) == 4
        await asyncio.to_thread(closing.join)

    asyncio.run(run())
    assert engine.closed
    assert len(seen) == 4
