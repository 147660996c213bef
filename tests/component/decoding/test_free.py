"""Free decoding over a KV cache gives the engine's own answers, whatever the draft, and a right draft takes one pass."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cartlm.decoding import free
from cartlm.errors import UserError
from cartlm.evaluation.answers import open_engine
from cartlm.evaluation.reading import open_cache
from tests.fixtures.decoding import FakeCache
from tests.fixtures.drafts import drafts_of
from tests.fixtures.toy import toy_rows


@pytest.fixture(scope="module", params=["llama.cpp", "transformers"])
def opened(request: pytest.FixtureRequest) -> Iterator[tuple[Any, Any]]:
    path: Path = request.getfixturevalue("toy_gguf" if request.param == "llama.cpp" else "toy_model")
    with open_engine(request.param, path, 1) as engine, open_cache(request.param, engine) as cache:
        yield engine, cache


@pytest.mark.parametrize("close", [0.0, free.CLOSE, 1000.0])
@pytest.mark.parametrize("cap", [64, 5])
def test_a_draft_changes_nothing_but_the_number_of_passes(
    opened: tuple[Any, Any], cap: int, close: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, cache = opened
    monkeypatch.setattr(free, "CLOSE", close)
    made: list[int] = []
    forward = cache.forward
    monkeypatch.setattr(cache, "forward", lambda ids, wanted: made.append(len(ids)) or forward(ids, wanted))
    builder = engine.prompt_builder("\n")
    for row in toy_rows()[:: len(toy_rows()) // 8]:
        ids = builder.prompt_ids(row.prompt)
        cache.reserve(len(ids) + 64)
        wanted = engine.answer(ids, cap)
        for draft in drafts_of(wanted.token_ids, builder.eos_id):
            found = free.complete(cache, ids, cap, engine.end_ids, draft)
            assert (found.token_ids, found.finish_reason) == (wanted.token_ids, wanted.finish_reason), draft
            assert cache.ids[: len(ids)] == ids
        made.clear()
        free.complete(cache, ids, cap, engine.end_ids, wanted.token_ids)
        if close == 0.0:
            assert made == [len(ids) + len(wanted.token_ids)]


@pytest.mark.parametrize("places", [(3,), (2, 3, 6)])
def test_a_close_token_is_decided_in_a_pass_of_its_own_and_the_draft_goes_on(
    opened: tuple[Any, Any], places: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, cache = opened
    builder, made = engine.prompt_builder("\n"), list[int]()
    ids = builder.prompt_ids(toy_rows()[0].prompt)
    wanted = engine.answer(ids, 64)
    forward, seen = cache.forward, list[int]()

    def close(logits: object, token: int) -> bool:
        seen.append(1)
        return len(seen) - 1 in places

    monkeypatch.setattr(free, "is_close", close)
    monkeypatch.setattr(cache, "forward", lambda ids, wanted: made.append(len(ids)) or forward(ids, wanted))
    found = free.complete(cache, ids, 64, engine.end_ids, wanted.token_ids)
    assert (found.token_ids, found.finish_reason) == (wanted.token_ids, "stop")
    again = [1] if len(places) == 1 else [1, 1, 2, 1]  # what lies between two of them is read once more
    assert made == [len(ids) + len(wanted.token_ids), *again]


def test_the_pass_over_prompt_and_draft_can_be_looked_at(opened: tuple[Any, Any]) -> None:
    engine, cache = opened
    ids = engine.prompt_builder("\n").prompt_ids(toy_rows()[0].prompt)
    wanted, seen = engine.answer(ids, 64), list[int]()
    free.complete(
        cache,
        ids,
        64,
        engine.end_ids,
        wanted.token_ids,
        lambda rows: seen.extend(int(row.argmax()) for row in rows),
    )
    assert seen[:-1] == list(wanted.token_ids)
    assert seen[-1] in engine.end_ids


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_is_an_error(value: float) -> None:
    cache = FakeCache(seed=0)
    cache.logits = lambda ids: np.full(50, value)  # type: ignore[method-assign]
    cache.reserve(20)
    with pytest.raises(UserError, match="the model computes"):
        free.complete(cache, [1, 2, 3], 5, {2})
