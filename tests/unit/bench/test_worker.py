"""Of measured queries, correct is what scoring calls exact: the completion byte for byte, and ended by itself."""

from __future__ import annotations

from typing import Any

import pytest

from cartlm.bench import aggregate, worker
from cartlm.bench.energy import Watts
from cartlm.engines.answer import Answer
from cartlm.evaluation.scoring import score
from cartlm.task.intent import Intent
from cartlm.task.rows import make

ROW = make("r", "english", ["Tea", "Milk"], "2 teas", Intent("add", "Tea", 2), {})
ANSWERS = [
    (ROW.completion, "stop", True), (ROW.completion, "length", False), (f"{ROW.completion} ", "stop", False),
    ("", "stop", False), ("", "length", False), (ROW.completion[:-1], "length", False),
]  # fmt: skip


class Engine:
    """Gives one answer, as it is."""

    def __init__(self, text: str, reason: Any) -> None:
        self.given = Answer(text, (5,), reason, 9, 1, 0, 0.1, 0.1)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None: ...

    def answer(self, prompt_ids: list[int], max_new_tokens: int) -> Answer:
        return self.given

    def answers(self, prompts: list[list[int]], max_new_tokens: int, size: int) -> list[Answer]:
        return [self.given for _ in prompts]


@pytest.mark.parametrize(("text", "reason", "right"), ANSWERS)
def test_an_answer_counts_alike_wherever_it_is_counted(
    monkeypatch: pytest.MonkeyPatch, text: str, reason: str, right: bool
) -> None:
    engine = Engine(text, reason)
    assert (score(ROW, engine.given).outcome == "exact") is right
    (query,) = worker.answer_each(engine, list, [([1], ROW.completion)], 9)  # type: ignore[arg-type]
    assert query["exact"] is right
    monkeypatch.setattr(worker, "_loader", lambda job: lambda: engine)
    job = {"prompts": [[[1], ROW.completion]], "max_new_tokens": 9, "accuracy_batch": 1}
    assert worker.accuracy(job)["exact"] == right


@pytest.mark.parametrize(("text", "reason", "right"), ANSWERS)
def test_energy_of_a_correct_answer_knows_no_other(text: str, reason: str, right: bool) -> None:
    made = worker.answer_each(Engine(text, reason), list, [([1], ROW.completion)] * 4, 9)  # type: ignore[arg-type]
    record = {"queries": [{**query, "latency_s": 1.0} for query in made], "cpu_s": 4.0}
    watts = Watts(10.0, load=20.0)
    found = aggregate.joules([record], watts, 7)
    assert found["energy_j_per_query"] == pytest.approx(10.0)
    assert found.get("energy_j_per_correct") == (pytest.approx(10.0) if right else None)
