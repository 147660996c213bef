"""Which engine and model a variant means, answers on disk, disagreement between batch sizes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cartlm import command
from cartlm.engines.answer import Answer
from cartlm.engines.collect import Job
from cartlm.errors import UserError
from cartlm.evaluation import answers as evaluation
from cartlm.evaluation.config import References
from tests.fixtures.toy import toy_rows

REFERENCE = References.model_validate({
    "baseline": {"engine": "rules"}, "base": {"engine": "transformers"}, "merged": {"engine": "transformers"},
    "f16": {"engine": "llama.cpp"},
})  # fmt: skip


class Engine:
    """Answers with the batch's size, or always alike."""

    def __init__(self, depends_on_batch: bool) -> None:
        self.depends_on_batch, self.replicas = depends_on_batch, [self]

    def answers(self, prompts: list[list[int]], max_new_tokens: int, batch_size: int) -> list[Answer]:
        text = str(len(prompts)) if self.depends_on_batch else "same"
        return [Answer(text, (1,), "stop", len(ids), 1, 0, 0.0, 0.0) for ids in prompts]

    def answer(self, prompt_ids: list[int], max_new_tokens: int) -> Answer:
        return self.answers([prompt_ids], max_new_tokens, 1)[0]

    def describe(self) -> dict[str, str | int]:
        return {"name": "toy"}


def test_a_variant_names_its_engine() -> None:
    assert evaluation.engine_name("baseline", REFERENCE, ["q4_k_m"], []) == "rules"
    assert evaluation.engine_name("merged", REFERENCE, ["q4_k_m"], []) == "transformers"
    assert evaluation.engine_name("q4_k_m", REFERENCE, ["q4_k_m"], []) == "llama.cpp"
    assert evaluation.engine_name("int8", REFERENCE, ["q4_k_m"], ["int8"]) == "transformers"
    with pytest.raises(UserError, match=r"no variant 'q9'.*baseline, base, merged, f16, q4_k_m"):
        evaluation.engine_name("q9", REFERENCE, ["q4_k_m"], [])


@pytest.mark.parametrize(
    ("variant", "engine", "maker"),
    [
        ("merged", "transformers", "dvc repro merge"), ("f16", "llama.cpp", "dvc repro convert-gguf"),
        ("q6_k", "llama.cpp", "dvc repro"), ("int8", "transformers", "dvc repro"),
        ("baseline", "rules", "dvc repro baseline"),
    ],
)  # fmt: skip
def test_a_missing_model_names_what_makes_it(
    variant: str, engine: str, maker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        evaluation.model_path(Path("models"), variant, engine)
    assert f"{variant}" in caught.value.filename
    assert str(command.explain(caught.value)).endswith(f" is missing; {maker}")


@pytest.mark.parametrize(("n", "count"), [(10, 3), (10, 10), (3, 10), (1000, 100), (5, 0)])
def test_evenly_spaced_indices(n: int, count: int) -> None:
    indices = evaluation.evenly_spaced(n, count)
    assert len(indices) == len(set(indices)) == min(n, count)
    assert all(0 <= index < n for index in indices)
    assert indices == sorted(indices)
    if count and n > count:
        assert indices[-1] > n * 0.5


@pytest.mark.parametrize(("depends_on_batch", "flips"), [(False, 0), (True, 3)])
def test_batches_are_compared_with_batch_1(tmp_path: Path, depends_on_batch: bool, flips: int) -> None:
    engine, job = Engine(depends_on_batch), Job("m", [[1] * n for n in range(1, 7)], 4, 2)
    answers = engine.answers(list(job.prompts[:2]), 4, 2) * 3
    section = evaluation.batch_disagreement(engine, job, answers, 3, tmp_path / "part.jsonl")
    assert section == {"batching": {"batch_size": 2, "flip_rows": 3, "flips": flips}}
    assert evaluation.batch_disagreement(engine, job, answers, 0, tmp_path / "part.jsonl") == {}


def test_answers_come_back_under_their_key_only(tmp_path: Path) -> None:
    rows, raw = toy_rows(4), tmp_path / "f16.jsonl"
    engine, job = Engine(False), Job("m", [[1, 2]] * 4, 4)
    answers, _ = evaluation.answer_rows(engine, rows, job, raw)
    assert evaluation.read_answers(raw, job.key(engine)) == answers
    assert evaluation.read_answers(raw, "other") is None
    assert evaluation.read_answers(tmp_path / "none.jsonl", "other") is None
    assert [json.loads(line)["id"] for line in raw.read_text().splitlines()] == [row.id for row in rows]
