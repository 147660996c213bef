"""One variant's answers to the test rows: which engine and model, raw answers on disk, flips of batching."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cartlm.engines.answer import Answer
from cartlm.engines.collect import Job, collect
from cartlm.errors import UserError
from cartlm.evaluation.scoring import Score, score
from cartlm.files import write_text
from cartlm.metrics import Outcome, answer_hash
from cartlm.task import rows as row_files
from cartlm.task.prompt import PromptBuilder
from cartlm.task.rows import Row

WORKERS = {"llama.cpp": 4, "transformers": 2}  # a batch of transformers has a large cache, and gains less


def engine_name(
    variant: str, reference: Mapping[str, str], gguf: Sequence[str], gptq: Sequence[str] = ()
) -> str:
    """`transformers` or `llama.cpp`: a reference variant names its engine, GGUF is llama.cpp's, GPTQ transformers'.

    Raises UserError for a variant that is neither.
    """
    if variant in reference:
        return reference[variant]
    if variant in gguf:
        return "llama.cpp"
    if variant in gptq:
        return "transformers"
    known = ", ".join([*reference, *gguf, *gptq])
    raise UserError(
        f"there is no variant {variant!r} in params.yaml; there are: {known}", f"git grep {variant}"
    )


def model_path(models: Path, variant: str, engine: str) -> Path:
    """Where the variant's model lies: a folder for transformers, a GGUF file for llama.cpp.

    Raises UserError naming the stage that makes it, if it is not there.
    """
    path = models / variant if engine == "transformers" else models / variant / "model.gguf"
    if not path.exists():
        makers = {"base": "base", "merged": "merge", "f16": "convert-gguf"}
        quantize = "quantize-gptq" if engine == "transformers" else "quantize-gguf"
        raise UserError(f"{path} is missing", f"dvc repro {makers.get(variant, f'{quantize}@{variant}')}")
    return path


def open_engine(engine: str, path: Path, threads: int) -> Any:
    """The model at `path` loaded by that engine; only that engine's library is imported.

    The `threads` are dealt evenly to at most WORKERS that answer at the same time: small models gain from it.
    llama.cpp computes the same with any number of threads.
    """
    workers = next(n for n in range(WORKERS[engine], 0, -1) if threads % n == 0)
    if engine == "transformers":
        from cartlm.engines import transformers

        return transformers.load(path, threads=threads // workers, beside=workers - 1)
    from cartlm.engines import llama_cpp

    return llama_cpp.load(path, threads=threads // workers, beside=workers - 1)


def prompts(rows: Sequence[Row], builder: PromptBuilder, header: str = "") -> list[list[int]]:
    """The model's input of each row, with `header` in front of the prompt."""
    return [builder.prompt_ids(header + row.prompt) for row in rows]


def guessed(model: str, rows: Sequence[Row], builder: PromptBuilder, max_new_tokens: int) -> Job:
    """`rows` one at a time, each label as the draft of the answer: where the model is right, one forward pass shows it.

    Where it is not, the draft counts for nothing from the first token that the model would not choose
    (Transformers.verified), so that a label can make no answer right.
    """
    drafts = [builder.completion_ids(row.completion)[:-1] for row in rows]
    return Job(model, prompts(rows, builder), max_new_tokens, drafts=drafts)


def spread(n: int, count: int) -> list[int]:
    """At most `count` indices out of `n`, evenly spaced."""
    count = min(n, count)
    return [index * n // count for index in range(count)]


def rows_apart(path: Path, most: int | None) -> list[Row]:
    """At most `most` rows, evenly spaced, of a file that is reported apart; none of an empty one."""
    if most == 0 or (path.exists() and path.stat().st_size == 0):
        return []
    rows = row_files.read(path)
    return rows if most is None else [rows[index] for index in spread(len(rows), most)]


def rows_hash(rows: Sequence[Row]) -> str:
    """Twelve digits that tell one set of rows from another."""
    texts = "\n".join(f"{row.prompt}\n{row.completion}" for row in rows)
    return hashlib.sha256(texts.encode("utf-8")).hexdigest()[:12]


def flips(engine: Any, job: Job, answers: Sequence[Answer], rows: int, part: Path) -> dict[str, int]:
    """How many of `rows` evenly spaced rows get another answer at batch 1 (greedy output depends on the batch)."""
    chosen = spread(len(job.prompts), rows)
    alone = replace(job.some(chosen), batch_size=1)
    again = collect(engine, alone, part, "batch 1")
    differ = sum(not same(one, answers[index]) for one, index in zip(again, chosen, strict=True))
    return {"batch_size": job.batch_size, "flip_rows": len(chosen), "flips": differ}


def same(one: Answer, other: Answer) -> bool:
    """Whether two answers are the same to a user: the same text, ended in the same way."""
    return (one.text, one.finish_reason) == (other.text, other.finish_reason)


@dataclass(frozen=True)
class Scored:
    """Answers to all test rows and their scores, in the order of the rows."""

    answers: list[Answer]
    scores: list[Score]


def answer_rows(engine: Any, rows: Sequence[Row], job: Job, raw: Path) -> Scored:
    """Answer (resumable, see `collect`) and score `rows`; all answers go to `raw` (JSONL, in the order of rows)."""
    answers = collect(engine, job, raw.with_suffix(".part.jsonl"), raw.stem)
    scores = [score(row, answer) for row, answer in zip(rows, answers, strict=True)]
    key = job.key(engine)
    lines = []
    for row, answer, one in zip(rows, answers, scores, strict=True):
        line = {"id": row.id, "outcome": one.outcome, "key": key, "answer": answer.to_json()}
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    write_text(raw, "".join(lines))
    return Scored(answers, scores)


def read_answers(raw: Path, key: str) -> list[Answer] | None:
    """The answers that `answer_rows` left in `raw`; None if there are none, or of a job with another key."""
    try:
        values = [json.loads(line) for line in raw.read_text(encoding="utf-8").split("\n") if line]
        if any(value["key"] != key for value in values):
            return None
        return [Answer.from_json(value["answer"]) for value in values]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def outcomes(rows: Sequence[Row], scored: Scored) -> list[Outcome]:
    """What metrics/outcomes/ keeps of each row."""
    return [
        Outcome(row.id, one.outcome, answer_hash(answer.text))
        for row, answer, one in zip(rows, scored.answers, scored.scores, strict=True)
    ]


def forget_parts(runs: Path, variant: str) -> None:
    """Delete what was kept for resuming; to be called when the results are safe."""
    for pattern in (f"{variant}.part.jsonl", f"{variant}.*.part.jsonl"):
        for part in runs.glob(pattern):
            part.unlink()
