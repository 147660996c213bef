"""Answers to many prompts, kept on disk as they come: a run that was killed goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from typing import Any

from cartlm.engines.answer import Answer, Engine, Stopped, batches


@dataclass(frozen=True)
class Job:
    """What is asked. `model` is the model's `digest`; batches of `batch_size` prompts of like length.

    At batch 1 `drafts` may guess the answers' token ids: the engine is then asked for `verified` answers.
    """

    model: str
    prompts: Sequence[list[int]]
    max_new_tokens: int
    batch_size: int = 1
    drafts: Sequence[Sequence[int]] = ()

    def some(self, indices: Sequence[int]) -> Job:
        """The same, of some of the prompts."""
        drafts = [self.drafts[index] for index in indices] if self.drafts else ()
        return replace(self, prompts=[self.prompts[index] for index in indices], drafts=drafts)

    def key(self, engine: Engine) -> str:
        """Names the answers: the same key, the same answers. Model, token ids, limits, engine and its code."""
        runtime = {
            name: value for name, value in engine.describe().items() if name not in ("threads", "workers")
        }
        parts = [CODE, runtime, self.model, self.max_new_tokens, self.batch_size, self.prompts, self.drafts]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def digest(path: Path) -> str:
    """SHA-256 (16 hex digits) of a model: one file, or the names and contents of a folder's files."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    parts = [(item.name, digest(item)) for item in sorted(path.iterdir()) if item.is_file()]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


_FILES = ("answer.py", "collect.py", "gptq.py", "llama_cpp.py", "stepping.py", "transformers.py")
CODE = "-".join(digest(Path(__file__).with_name(name)) for name in _FILES)
"""The local engines' own code: answers of another one are never taken for these."""


def collect(engine: Any, job: Job, part: Path, label: str) -> list[Answer]:
    """The answers to `job.prompts` in their order; `engine` has `answers` where batch_size is over 1.

    Each batch is appended to `part` as one line when it is whole. What an earlier run with the same key left
    there is not asked again, so the answers are those of an undisturbed run. The engine's crew answers at the same
    time, a batch each. The caller deletes `part` once the results are safe. Progress with the time left goes to stderr.
    """
    from tqdm import tqdm

    key = job.key(engine)
    done = dict(_stored(part, key))
    part.parent.mkdir(parents=True, exist_ok=True)
    _rewrite(part, key, done)
    todo = [
        indices
        for indices in batches(job.prompts, job.batch_size)
        if not all(index in done for index in indices)
    ]
    with (
        part.open("a", encoding="utf-8") as file,
        tqdm(total=len(job.prompts), initial=len(done), desc=label, unit="row", file=sys.stderr) as bar,
        _at_work(engine, job, todo) as made,
    ):
        for indices, answers in zip(todo, made, strict=True):
            batch = dict(zip(indices, answers, strict=True))
            file.write(_line(key, batch))
            file.flush()
            done.update(batch)
            bar.update(len(batch))
    return [done[index] for index in range(len(job.prompts))]


def _ask(engine: Any, job: Job, indices: list[int]) -> list[Answer]:
    """One batch's answers by one engine."""
    prompts = [job.prompts[index] for index in indices]
    if job.batch_size > 1:
        answers: list[Answer] = engine.answers(prompts, job.max_new_tokens, job.batch_size)
        return answers
    if job.drafts:
        return [engine.verified(prompts[0], job.max_new_tokens, job.drafts[indices[0]])]
    return [engine.answer(prompts[0], job.max_new_tokens)]


@contextmanager
def _at_work(engine: Any, job: Job, todo: Sequence[list[int]]) -> Iterator[Iterator[list[Answer]]]:
    """The answers to the batches `todo`, in their order, while the engine's crew works on them in threads.

    Both runtimes let go of Python's lock while they compute. After an error, Ctrl-C among them, no batch is begun and
    the ones under way end at their next token.
    """
    free = SimpleQueue[Any]()
    for one in engine.crew:
        free.put(one)
    stop = Event()

    def work(indices: list[int]) -> list[Answer]:
        one = free.get()
        try:
            if stop.is_set():
                raise Stopped
            return _ask(one, job, indices)
        except BaseException:
            stop.set()
            raise
        finally:
            free.put(one)

    pool = ThreadPoolExecutor(len(engine.crew))
    try:
        yield pool.map(work, todo)
    except BaseException:
        stop.set()
        for one in engine.crew:
            one.stopped = True
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _line(key: str, batch: dict[int, Answer]) -> str:
    answers = {str(index): answer.to_json() for index, answer in batch.items()}
    return json.dumps({"key": key, "answers": answers}) + "\n"


def _stored(part: Path, key: str) -> Iterator[tuple[int, Answer]]:
    """Answers of whole lines under `key`; the end of the file, or a line cut by a kill, ends it."""
    if not part.exists():
        return
    for line in part.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            value = json.loads(line)
            answers = {int(index): Answer.from_json(given) for index, given in value["answers"].items()}
        except (ValueError, TypeError, KeyError, AttributeError):
            return
        if value.get("key") == key:
            yield from answers.items()


def _rewrite(part: Path, key: str, done: dict[int, Answer]) -> None:
    """Leave in `part` only what counts, so that nothing is appended to a cut line."""
    temporary = part.with_name(f"{part.name}.tmp")
    temporary.write_text(_line(key, done) if done else "", encoding="utf-8")
    temporary.replace(part)
