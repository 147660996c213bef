"""A run that was killed goes on where it stopped, and ends with the answers of an undisturbed one."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import pytest

from cartlm.engines.answer import Answer
from cartlm.engines.collect import Job, collect_answers, file_digest
from cartlm.errors import UserError

PROMPTS = [[1] * length for length in (3, 9, 5, 7, 2, 8, 4)]


class Kill(BaseException):
    """Stands for kill -9: nothing below catches it."""


class Engine:
    """Answers depend on the batch, so that another cut would show; dies before call `dies_at`."""

    def __init__(self, dies_at: int = 10**9, version: str = "1") -> None:
        self.calls, self.dies_at, self.version = 0, dies_at, version
        self.replicas: list[Engine] = [self]

    def answers(self, prompts: list[list[int]], max_new_tokens: int, batch_size: int) -> list[Answer]:
        self.calls += 1
        if self.calls == self.dies_at:
            raise Kill
        shape = "+".join(str(len(ids)) for ids in prompts)
        return [
            Answer(f"{len(ids)} of {shape}\u2028\x85", (len(ids),), "stop", len(ids), 1, 0, 0.0, 0.0)
            for ids in prompts
        ]

    def answer(self, prompt_ids: list[int], max_new_tokens: int) -> Answer:
        return self.answers([prompt_ids], max_new_tokens, 1)[0]

    def verify_draft(self, prompt_ids: list[int], max_new_tokens: int, draft: Sequence[int]) -> Answer:
        return replace(self.answer(prompt_ids, max_new_tokens), text=f"verified {list(draft)}")

    def describe(self) -> dict[str, str | int]:
        return {"name": "toy", "version": self.version, "threads": self.calls}


@pytest.mark.parametrize("batch_size", [1, 2, 3])
@pytest.mark.parametrize("cut", [0, 1, 30])
def test_resuming_asks_only_for_what_is_missing(tmp_path: Path, batch_size: int, cut: int) -> None:
    job = Job("model", PROMPTS, 8, batch_size)
    undisturbed = Engine()
    wanted = collect_answers(undisturbed, job, tmp_path / "other.part.jsonl", "toy")
    assert [one.prompt_tokens for one in wanted] == [len(ids) for ids in PROMPTS]

    part = tmp_path / "runs" / "toy.part.jsonl"
    with pytest.raises(Kill):
        collect_answers(Engine(dies_at=3), job, part, "toy")
    if cut:
        part.write_bytes(part.read_bytes()[:-cut])  # the kill came in the middle of a write
    with pytest.raises(Kill):
        collect_answers(Engine(dies_at=1), job, part, "toy")
    resumed = Engine()
    assert collect_answers(resumed, job, part, "toy") == wanted
    assert resumed.calls == undisturbed.calls - (1 if cut == 30 else 2)
    again = Engine()
    assert collect_answers(again, job, part, "toy") == wanted
    assert again.calls == 0


@pytest.mark.parametrize(
    "other",
    [
        Job("another model", PROMPTS, 8), Job("model", [*PROMPTS[:-1], [2]], 8), Job("model", PROMPTS, 9),
        Job("model", PROMPTS, 8, 2), Job("model", PROMPTS, 8, drafts=[[1]] * len(PROMPTS)),
    ],
)  # fmt: skip
def test_another_job_takes_nothing_over(tmp_path: Path, other: Job) -> None:
    part = tmp_path / "toy.part.jsonl"
    collect_answers(Engine(), Job("model", PROMPTS, 8), part, "toy")
    engine = Engine()
    collect_answers(engine, other, part, "toy")
    assert engine.calls == -(-len(PROMPTS) // other.batch_size)


class Meeting(Engine):
    """Answers only while another one of the replicas is asked too."""

    def __init__(self, together: Barrier, fails_on: int = 0) -> None:
        super().__init__()
        self.together, self.fails_on = together, fails_on

    def answer(self, prompt_ids: list[int], max_new_tokens: int) -> Answer:
        if len(prompt_ids) == self.fails_on:
            raise UserError("a model computes nan", "delete it")
        self.together.wait(timeout=60)
        return super().answer(prompt_ids, max_new_tokens)


def test_replicas_answer_at_the_same_time_and_in_order(tmp_path: Path) -> None:
    prompts, together = PROMPTS[:6], Barrier(2)
    engine = Meeting(together)
    engine.replicas = [engine, Meeting(together)]
    found = collect_answers(engine, Job("model", prompts, 8), tmp_path / "toy.part.jsonl", "toy")
    assert [one.prompt_tokens for one in found] == [len(ids) for ids in prompts]
    assert [one.calls for one in engine.replicas] == [3, 3]


def test_an_error_of_one_stops_the_others_and_keeps_what_was_whole(tmp_path: Path) -> None:
    """The first four answer in pairs, the fifth fails; its companion waits for somebody who never begins."""
    prompts, part, together = [[1] * n for n in range(20, 0, -1)], tmp_path / "toy.part.jsonl", Barrier(2)
    engine, job = Meeting(together, fails_on=16), Job("model", prompts, 8)
    engine.replicas = [engine, Meeting(together, fails_on=16)]
    threading.Timer(5, together.abort).start()
    with pytest.raises(UserError, match="computes nan"):
        collect_answers(engine, job, part, "toy")
    assert [one.calls for one in engine.replicas] == [2, 2]
    assert all(one.stopped for one in engine.replicas)
    resumed = Engine()
    collect_answers(resumed, job, part, "toy")
    assert resumed.calls == len(prompts) - 4


def test_a_draft_goes_to_its_own_prompt(tmp_path: Path) -> None:
    job = Job("model", PROMPTS, 8, drafts=[[len(ids)] for ids in PROMPTS])
    found = collect_answers(Engine(), job, tmp_path / "toy.part.jsonl", "toy")
    assert [one.text for one in found] == [f"verified [{len(ids)}]" for ids in PROMPTS]


def test_another_engine_takes_nothing_over_but_other_threads_do(tmp_path: Path) -> None:
    job, part = Job("model", PROMPTS, 8), tmp_path / "toy.part.jsonl"
    first = Engine()
    collect_answers(first, job, part, "toy")
    assert first.describe() != Engine().describe()
    assert job.key(first) == job.key(Engine())
    assert job.key(first) != job.key(Engine(version="2"))


@pytest.mark.parametrize("content", [b"\x00\xff\n", b"{}\n", b"[]\n", b'{"key": 1, "answers": {"x": {}}}\n'])
def test_a_broken_part_file_is_begun_anew(tmp_path: Path, content: bytes) -> None:
    part = tmp_path / "toy.part.jsonl"
    part.write_bytes(content)
    engine = Engine()
    assert len(collect_answers(engine, Job("model", PROMPTS, 8), part, "toy")) == len(PROMPTS)
    assert engine.calls == len(PROMPTS)


def test_digest_tells_models_apart(tmp_path: Path) -> None:
    folder = tmp_path / "merged"
    folder.mkdir()
    (folder / "a.safetensors").write_bytes(b"1")
    first = file_digest(folder)
    (folder / "a.safetensors").write_bytes(b"2")
    second = file_digest(folder)
    (folder / "a.safetensors").rename(folder / "b.safetensors")
    assert len({first, second, file_digest(folder), file_digest(folder / "b.safetensors")}) == 4
    (folder / "a.safetensors").write_bytes(b"1")
    (folder / "b.safetensors").unlink()
    assert file_digest(folder) == first


def test_the_code_of_an_engine_from_another_package_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = tmp_path / "elsewhere_engine/__init__.py"
    code.parent.mkdir()
    code.write_text(
        "class Other:\n    def describe(self):\n        return {'name': 'other'}\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    other = importlib.import_module("elsewhere_engine").Other()
    job = Job("model", PROMPTS, 8)
    before = job.key(other)
    assert job.key(other) == before
    code.write_text(code.read_text("utf-8") + "# changed\n", encoding="utf-8")
    assert job.key(other) != before
