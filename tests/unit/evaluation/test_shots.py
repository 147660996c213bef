"""A base model asked zero-shot and few-shot: the prompts, where an answer ends, and the sections."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cartlm.engines.answer import Answer
from cartlm.evaluation import shots
from cartlm.evaluation.config import Eval, Shots
from cartlm.task.prompt import PromptBuilder
from cartlm.task.rows import Row
from tests.fixtures.toy import toy_rows

ROWS = toy_rows(24)
TRAIN, TEST = ROWS[:12], ROWS[12:]
EVAL = Eval(
    max_new_tokens=200, batch_size=4, flip_rows=0, natural_rows=0, shots=Shots(count=2, seed=3, rows=6)
)
BUILDER = PromptBuilder(lambda text: [ord(letter) + 10 for letter in text], 1, 2, "\n")


class Parrot:
    """Answers what a table of prompts says, and goes on writing, as a base model does."""

    stopped = False

    def __init__(self, rows: Sequence[Row], only: str = "", max_positions: int = 4096) -> None:
        self.rows, self.only, self.max_positions = rows, only, max_positions
        self.asked: list[str] = []
        self.limits: set[int] = set()

    @property
    def replicas(self) -> list[Parrot]:
        return [self]

    def describe(self) -> dict[str, str]:
        return {"name": "parrot"}

    def answers(self, prompts: Sequence[list[int]], max_new_tokens: int, batch_size: int) -> list[Answer]:
        self.limits.add(max_new_tokens)
        return [self._answer(prompt) for prompt in prompts]

    def _answer(self, prompt: list[int]) -> Answer:
        text = "".join(chr(token - 10) for token in prompt[1:])
        self.asked.append(text)
        row = next(row for row in self.rows if text.endswith(f"{row.prompt}\n"))
        said = row.completion if text.startswith(self.only) else "well"
        return Answer(f"{said}\n\nCatalog:\n", (5,), "length", len(prompt), 1, 0, 0.1, 0.1)


def ask(tmp_path: Path, engine: Any) -> dict[str, dict[str, Any]]:
    return shots.sections(engine, BUILDER, TEST, TRAIN, EVAL, "model", tmp_path / "base")


def test_both_ways_are_asked_of_the_same_rows(tmp_path: Path) -> None:
    engine = Parrot(TEST)
    found = ask(tmp_path, engine)
    assert found.keys() == {"zero_shot", "few_shot"}
    assert {name: (each["n"], each["shots"]) for name, each in found.items()} == {
        "zero_shot": (6, 0),
        "few_shot": (6, 2),
    }
    zero, few = engine.asked[:6], engine.asked[6:]
    assert all(text.startswith(shots.INSTRUCTION) for text in zero)
    drawn = shots.examples(TRAIN, EVAL.shots)
    text = shots.text_of(drawn, "\n")
    assert all(each.startswith(text) for each in few)
    assert {each.removeprefix(text) for each in few} == {
        each.removeprefix(shots.INSTRUCTION) for each in zero
    }
    assert text == "".join(f"{row.prompt}\n{row.completion}\n\n" for row in drawn)
    assert found["zero_shot"]["rows"] != found["few_shot"]["rows"], "other examples are another measurement"


def test_an_answer_ends_with_its_first_line(tmp_path: Path) -> None:
    found = ask(tmp_path, Parrot(TEST))
    assert (found["zero_shot"]["exact_match"], found["few_shot"]["exact_match"]) == (1.0, 1.0)
    found = ask(tmp_path / "other", Parrot(TEST, only="Catalog:"))  # without the instruction
    assert (found["zero_shot"]["exact_match"], found["few_shot"]["exact_match"]) == (0.0, 1.0)
    assert found["zero_shot"]["unparseable"] == 1.0


def test_an_answer_without_an_end_is_truncated() -> None:
    cut = Answer('{"action": "add"', (5,), "length", 3, 1, 0, 0.1, 0.1)
    assert shots.first_line(cut) == cut


def test_no_more_is_decoded_than_an_exact_answer_needs(tmp_path: Path) -> None:
    engine = Parrot(TEST)
    ask(tmp_path, engine)
    (limit,) = engine.limits
    assert limit < EVAL.max_new_tokens
    assert limit >= max(len(row.completion) + 1 for row in TEST[::2])


def test_examples_are_training_rows_by_the_seed() -> None:
    drawn = [row.id for row in shots.examples(TRAIN, EVAL.shots)]
    assert len(drawn) == len(set(drawn)) == 2
    assert set(drawn) <= {row.id for row in TRAIN}
    assert drawn == [row.id for row in shots.examples(TRAIN, EVAL.shots)]
    others = [
        [row.id for row in shots.examples(TRAIN, Shots(count=2, seed=seed, rows=1))] for seed in range(9)
    ]
    assert len({tuple(each) for each in others}) > 3
    assert len(shots.examples(TRAIN[:1], EVAL.shots)) == 1


def test_no_prompt_is_longer_than_the_model_reads(tmp_path: Path) -> None:
    """transformers computes on beyond the last position, without an error."""
    engine = Parrot(TEST)
    whole = ask(tmp_path / "whole", engine)
    (limit,) = engine.limits
    zero, two = (max(map(len, each)) + 1 + limit for each in (engine.asked[:6], engine.asked[6:]))
    shown = {}
    for most in (two, two - 1, zero, zero - 1):
        found = ask(tmp_path / str(most), Parrot(TEST, max_positions=most))
        shown[most] = {name: section["shots"] for name, section in found.items()}
    assert whole["few_shot"]["shots"] == 2
    assert shown[two] == {"zero_shot": 0, "few_shot": 2}
    assert shown[two - 1] == {"zero_shot": 0, "few_shot": 1}
    assert shown[zero] == {"zero_shot": 0}
    assert shown[zero - 1] == {}


@pytest.mark.parametrize("rows", [1, 6, 500])
def test_the_number_of_rows_is_bounded(tmp_path: Path, rows: int) -> None:
    settings = EVAL.model_copy(update={"shots": Shots(count=1, seed=3, rows=rows)})
    found = shots.sections(Parrot(TEST), BUILDER, TEST, TRAIN, settings, "model", tmp_path / "base")
    assert found["few_shot"]["n"] == min(rows, 12)
