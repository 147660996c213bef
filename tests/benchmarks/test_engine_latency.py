"""pytest-benchmark of llama.cpp through our engine, on the embedded base model: a whole query, prefill, one token.

The ids are fixed and a completion's length is capped, so that two runs do the same work.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from cartlm.task.prompt import render_prompt
from tests.fixtures.base_gguf import write_base_gguf

CATALOG = [f"Coconut Water ({size}ml can)" for size in range(200, 340, 10)]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from cartlm.engines import llama_cpp

    path: Path = tmp_path_factory.mktemp("base") / "model.gguf"
    write_base_gguf(path)
    with llama_cpp.load(path) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def ids(engine: Any) -> list[int]:
    made: list[int] = engine.prompt_builder("\n").prompt_ids(
        render_prompt(CATALOG, "add two 250ml coconut waters")
    )
    return made


def test_a_query(benchmark: BenchmarkFixture, engine: Any, ids: list[int]) -> None:
    assert benchmark(engine.answer, ids, 24).decoded_tokens <= 24


def test_prefill(benchmark: BenchmarkFixture, engine: Any, ids: list[int]) -> None:
    assert benchmark(engine.answer, ids, 1).prompt_tokens == len(ids)


def test_decode(benchmark: BenchmarkFixture, engine: Any) -> None:
    """From an almost empty cache, 32 tokens whatever they are."""
    assert benchmark(engine.benchmark_pp_tg, 1, 32)[1] > 0


def test_tokenize(benchmark: BenchmarkFixture, engine: Any, ids: list[int]) -> None:
    text = render_prompt(CATALOG, "add two 250ml coconut waters")
    builder = engine.prompt_builder("\n")
    assert benchmark(builder.prompt_ids, text) == ids
