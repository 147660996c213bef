"""pytest-benchmark of the pure Python on the way of every query; `make test` runs each once, unmeasured. To measure:

python -m pytest tests/benchmarks --benchmark-enable
"""

from __future__ import annotations

import random

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from cartlm.task import intent
from cartlm.task.prompt import PromptBuilder, render_prompt

ANSWER = '{"action": "add", "product": "Coconut Water (330ml can)", "quantity": 2}'
CATALOG = [f"Product number {i} (500 g)" for i in range(20)]
MESSAGE = "molim te dodaj dvije kokosove vode, one male"


def test_read_an_answer(benchmark: BenchmarkFixture) -> None:
    assert benchmark(intent.parse_intent, ANSWER).quantity == 2


def test_read_a_broken_answer(benchmark: BenchmarkFixture) -> None:
    def read() -> str:
        with pytest.raises(ValueError, match="line 1") as error:
            intent.parse_intent(ANSWER[:-5])
        return str(error.value)

    assert benchmark(read)


def test_build_a_prompt(benchmark: BenchmarkFixture) -> None:
    """Rendering and ids, with a tokenizer that costs next to nothing."""
    builder = PromptBuilder(lambda text: [ord(letter) + 3 for letter in text], 1, 2, "\n")
    catalog = random.Random(7).sample(CATALOG, len(CATALOG))

    def build() -> list[int]:
        return builder.prompt_ids(render_prompt(catalog, MESSAGE))

    assert len(benchmark(build)) > 500
