"""Answers to many prompts, kept on disk as they come: a killed run goes on where it stopped."""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any

from cartlm.engines.answer import Answer, Engine, Stopped, length_sorted_batches
from cartlm.files import sha256, write_text


@dataclass(frozen=True)
class Job:
    """Prompts for a model, which is identified by its `file_digest`; batches of `batch_size` prompts of similar length.

    At batch 1 `drafts` may hold guesses of the answers' token ids, which the engine verifies (`verify_draft`).
    """

    model: str
    prompts: Sequence[list[int]]
    max_new_tokens: int
    batch_size: int = 1
    drafts: Sequence[Sequence[int]] = ()

    def subset(self, indices: Sequence[int]) -> Job:
        """The same job for some of the prompts."""
        drafts = [self.drafts[index] for index in indices] if self.drafts else ()
        return replace(self, prompts=[self.prompts[index] for index in indices], drafts=drafts)

    def key(self, engine: Engine) -> str:
        """Identifies the answers by all they depend on: model, token ids, limits, engine and its code."""
        runtime = {
            name: value for name, value in engine.describe().items() if name not in ("threads", "workers")
        }
        code = file_digest(Path(inspect.getfile(type(engine))).parent)
        about = [self.model, self.max_new_tokens, self.batch_size, self.prompts, self.drafts]
        parts = [CODE, code, runtime, *about]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """SHA-256 (16 hex digits) of a model: one file, or the names and contents of a folder's files."""
    if path.is_file():
        return sha256(path)[:16]
    parts = [(item.name, file_digest(item)) for item in sorted(path.iterdir()) if item.is_file()]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


CODE = file_digest(Path(__file__).parent)
"""The code of this package; answers of older code, also of an engine in another package, are never reused."""


def collect_answers(engine: Any, job: Job, part: Path, label: str) -> list[Answer]:
    """The answers to `job.prompts` in their order; `engine` has `answers` where batch_size is over 1.

    Each finished batch is appended to `part` as one line. What an earlier run with the same key left there is not
    asked again, so the answers are those of an undisturbed run. Replicas answer at the same time, a batch each. The
    caller deletes `part` once the results are safe. Progress goes to stderr.
    """
    from tqdm import tqdm

    key = job.key(engine)
    done = dict(_stored_answers(part, key))
    write_text(part, _line(key, done) if done else "")  # nothing is appended to a cut line
    batches = length_sorted_batches(job.prompts, job.batch_size)
    todo = [indices for indices in batches if not done.keys() >= set(indices)]
    with (
        part.open("a", encoding="utf-8") as file,
        tqdm(total=len(job.prompts), initial=len(done), desc=label, unit="row", file=sys.stderr) as bar,
        _run_batches(engine, job, todo) as results,
    ):
        for indices, answers in zip(todo, results, strict=True):
            batch = dict(zip(indices, answers, strict=True))
            file.write(_line(key, batch))
            file.flush()
            done.update(batch)
            bar.update(len(batch))
    return [done[index] for index in range(len(job.prompts))]


def _answer_batch(engine: Any, job: Job, indices: list[int]) -> list[Answer]:
    prompts = [job.prompts[index] for index in indices]
    if job.batch_size > 1:
        return list(engine.answers(prompts, job.max_new_tokens, job.batch_size))
    if job.drafts:
        return [engine.verify_draft(prompts[0], job.max_new_tokens, job.drafts[indices[0]])]
    return [engine.answer(prompts[0], job.max_new_tokens)]


@contextmanager
def _run_batches(engine: Any, job: Job, todo: Sequence[list[int]]) -> Iterator[Iterator[list[Answer]]]:
    """The answers to the batches `todo` in their order, while the replicas work on them in threads.

    Both runtimes release Python's lock while they compute. After an error or Ctrl-C no batch is begun, and those
    under way end at their next token.
    """
    free, stop = deque(engine.replicas), Event()

    def work(indices: list[int]) -> list[Answer]:
        replica = free.popleft()
        try:
            if stop.is_set():
                raise Stopped
            return _answer_batch(replica, job, indices)
        except BaseException:
            stop.set()
            raise
        finally:
            free.append(replica)

    pool = ThreadPoolExecutor(len(engine.replicas))
    try:
        yield pool.map(work, todo)
    except BaseException:
        stop.set()
        for replica in engine.replicas:
            replica.stopped = True
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _line(key: str, batch: dict[int, Answer]) -> str:
    answers = {str(index): asdict(answer) for index, answer in batch.items()}
    return json.dumps({"key": key, "answers": answers}) + "\n"


def _stored_answers(part: Path, key: str) -> Iterator[tuple[int, Answer]]:
    """Answers under `key`, up to the end of the file or a line cut by a kill."""
    if not part.exists():
        return
    for line in part.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            value = json.loads(line)
            answers = {int(index): Answer.from_json(answer) for index, answer in value["answers"].items()}
        except (ValueError, TypeError, KeyError, AttributeError):
            return
        if value.get("key") == key:
            yield from answers.items()
