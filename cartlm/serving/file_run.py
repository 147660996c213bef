"""All messages of a file: `cartlm predict --input FILE --output FILE`, which goes on after a kill.

OUTPUT.part.jsonl holds the answers until all rows are done, OUTPUT.rejected.jsonl the rows that got none, and
OUTPUT.run.json, which names what the answers depend on.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import cartlm
from cartlm.baseline import engine as rules
from cartlm.errors import UserError
from cartlm.files import replacing, sha256, write_text
from cartlm.serving.journal import Journal, check_key, journal_path, open_journal
from cartlm.serving.models import find_model
from cartlm.serving.outputs import check_apart, check_output, write_answers, write_jsonl
from cartlm.serving.questions import Question, open_input, questions
from cartlm.serving.reader import Mode, Reader, Unreadable, load
from cartlm.text import counted

AHEAD = 4  # rows a worker may be ahead of the oldest unfinished one, so that none of them waits


@dataclass(frozen=True)
class Job:
    """Which file is read into which, and by what; `columns` maps message, catalog and id to the input's names.

    `catalog` are the products for all rows, None where each row has its own. `anew` replaces what is there, but an
    unfinished run of the same job goes on.
    """

    input: Path
    output: Path
    model: str | Path
    columns: Mapping[str, str] = field(default_factory=dict)
    catalog: Sequence[str] | None = None
    decoding: Mode = "constrained"
    max_tokens: int | None = None
    anew: bool = False


@dataclass(frozen=True)
class Count:
    answered: int
    rejected: int


def predict_file(job: Job, say: Callable[[str], None]) -> str:
    """Answer all rows of the input that are left, and write the output; a line of what came out.

    Raises UserError for an input that cannot be read to its end, a column that is missing, and an output that was made
    with other rows, another model or other options. `say` gets notes; progress goes to stderr.
    """
    if job.input.is_dir():
        way = "--ray reads folders (docs/howto/predict-a-file.md), or name one file"
        raise UserError(f"{job.input} is a folder", way)
    check_output(job.output)
    check_apart(job.output, {"--input": job.input})
    source, columns, rows = open_input(job.input, job.columns, job.catalog is not None)
    for note in source.notes:
        say(f"{job.input}: {note}")
    key = _key(job, columns)
    if (count := _finished(job, key)) is not None:
        return f"{job.output} has all {_counted(count)} already"
    with open_journal(job.output, key, job.anew) as journal:
        if 0 < journal.done < rows:
            say(f"{job.output}: {journal.done} of {rows} rows are done already")
        left, started = rows - journal.done, time.perf_counter()
        if left:
            with load(job.model, decoding=job.decoding, max_tokens=job.max_tokens, workers=None) as reader:
                started = time.perf_counter()
                _answer(
                    reader,
                    islice(questions(source.records(), columns, job.catalog), journal.done, None),
                    journal,
                    rows,
                )
        seconds = time.perf_counter() - started
        count, latency = _publish(job, journal, key)
    if note := confidence_note(key, job.model):
        say(f"{job.output}: {note}")
    speed = f"; {left / seconds:.3g} messages/s" if left else ""
    middle = f", median latency {latency:.3g} ms" if latency is not None else ""
    return f"{_counted(count)} in {job.output}{_rejected_in(job, count)}{speed}{middle}"


def _key(job: Job, columns: Mapping[str, str]) -> dict[str, Any]:
    asked = answers_key(job.model, job.decoding, job.catalog, job.max_tokens)
    return {"input": sha256(job.input), "columns": dict(sorted(columns.items())), **asked}


def answers_key(
    model: str | Path, decoding: Mode, catalog: Sequence[str] | None, max_tokens: int | None
) -> dict[str, Any]:
    """What answers depend on beside the rows: not workers and threads, and with free decoding not the baseline, either.

    Raises UserError as `find_model`.
    """
    found = find_model(model)
    together: dict[str, Any] = {}
    if decoding != "free" and found.baseline is not None:
        together = {"learned": asdict(found.learned), "baseline": rules.identity(found.baseline)}
    shared = None if catalog is None else hashlib.sha256("\n".join(catalog).encode()).hexdigest()
    return {
        "catalog": shared,
        **found.identity(),
        "decoding": decoding,
        **together,
        "settings": asdict(found.settings.given(max_tokens=max_tokens)),
        "version": cartlm.__version__,
    }


def is_calibrated(key: Mapping[str, Any]) -> bool | None:
    """Whether confidences of a run with this key are shares of right answers (`Reader.calibrated`); None where it has none."""
    if key["decoding"] == "free" or key["engine"].startswith("rules"):
        return None
    return bool(key.get("learned", {}).get(key["decoding"]))


def confidence_note(key: Mapping[str, Any], model: str | Path) -> str:
    """What to say where confidences are not shares of right answers; else empty."""
    if is_calibrated(key) is not False:
        return ""
    return f"confidence is the model's own probability, not calibrated: metrics/eval does not know {model}"


def _finished(job: Job, key: Mapping[str, Any]) -> Count | None:
    """What a finished run with the same key wrote. Raises UserError for another run's output, or another program's."""
    if job.anew or journal_path(job.output).exists() or not job.output.exists():
        return None
    run: dict[str, Any] = {}
    with suppress(OSError, ValueError, AttributeError):
        run = dict(json.loads(_beside(job.output, "run.json").read_text(encoding="utf-8")))
    if not {"key", "answered", "rejected"} <= run.keys():
        raise UserError(f"{job.output} exists already", "name another output, or add --anew to replace it")
    check_key(job.output, run["key"], key)
    return Count(run["answered"], run["rejected"])


def _answer(reader: Reader, asked: Iterator[Question], journal: Journal, rows: int) -> None:
    """Add the line of each question to the journal, in their order, while the reader's workers are busy."""
    from tqdm import tqdm

    every = 0.2 if sys.stderr.isatty() else 30  # seconds; a log keeps each line
    window: deque[Future[dict[str, Any]]] = deque()
    pool = ThreadPoolExecutor(reader.workers)
    try:
        with tqdm(
            total=rows,
            initial=journal.done,
            desc="predict",
            unit="message",
            file=sys.stderr,
            mininterval=every,
        ) as bar:
            for question in asked:
                window.append(pool.submit(answer_line, reader, question))
                if len(window) > AHEAD * reader.workers:
                    journal.add(window.popleft().result())
                    bar.update()
            while window:
                journal.add(window.popleft().result())
                bar.update()
    finally:
        pool.shutdown(cancel_futures=True)


def answer_line(reader: Reader, question: Question) -> dict[str, Any]:
    """A row's line: its answer, or the reason why there is none."""
    place = {"line": question.line, "id": question.id}
    if question.problem:
        return place | {"reason": question.problem}
    try:
        found = reader.predict(question.catalog, question.message)
    except Unreadable as error:
        return place | {"reason": str(error)} | ({"answer": error.answer} if error.answer else {})
    confidence = None if found.confidence is None else float(f"{found.confidence:.6g}")
    return place | asdict(found.intent) | {"confidence": confidence, "latency_ms": round(found.latency_ms, 3)}


def _publish(job: Job, journal: Journal, key: Mapping[str, Any]) -> tuple[Count, float | None]:
    """Write the output and the files beside it from the journal, and remove that; the counts and the median latency.

    After a kill in between the journal is still there, and the same is written again.
    """
    numbered, times, rejected = True, list[float](), 0
    for line in journal.lines():
        if "reason" in line:
            rejected += 1
        else:
            numbered = numbered and isinstance(line["id"], int) and abs(line["id"]) < 2**63
            times.append(line["latency_ms"])
    path = _beside(job.output, "rejected.jsonl")
    if rejected:
        kept = (
            {name: line[name] for name in line if name != "row"}
            for line in journal.lines()
            if "reason" in line
        )
        with replacing(path) as temporary:
            write_jsonl(temporary, kept)
    else:
        path.unlink(missing_ok=True)
    write_answers(job.output, (line for line in journal.lines() if "reason" not in line), numbered)
    count = Count(len(times), rejected)
    run = {"key": key, **asdict(count), "calibrated": is_calibrated(key)}
    write_text(_beside(job.output, "run.json"), json.dumps(run, indent=2) + "\n")
    journal.path.unlink()
    return count, statistics.median(times) if times else None


def _beside(output: Path, ending: str) -> Path:
    return output.with_name(f"{output.name}.{ending}")


def _counted(count: Count) -> str:
    return counted(count.answered, "answer")


def _rejected_in(job: Job, count: Count) -> str:
    rows = counted(count.rejected, "row")
    return f", {rows} without one in {_beside(job.output, 'rejected.jsonl')}" if count.rejected else ""
