"""One variant's answers to the test rows: which engine and model, answers on disk, disagreement between batch sizes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from cartlm.engines.answer import Answer, agreement
from cartlm.engines.collect import Job, collect_answers
from cartlm.errors import UserError
from cartlm.evaluation.config import References
from cartlm.evaluation.scoring import Score, score, summarize, summarize_slices
from cartlm.files import write_text
from cartlm.metrics import Exact, Outcome, answer_hash, write_metrics, write_outcomes
from cartlm.task import rows as row_files
from cartlm.task.prompt import PromptBuilder
from cartlm.task.rows import Row

# a batch of transformers has a large cache, and gains less
MAX_REPLICAS = {"llama.cpp": 4, "transformers": 2, "rules": 1}
SHOWN = {"free": "test", "natural": "natural", "published": "published"}
"""Sets of an evaluation -> their names in metrics/exact."""
MODEL_FILES = {"llama.cpp": "model.gguf", "transformers": "", "rules": "model.json"}
"""What an engine loads of a variant's folder; empty: the folder itself."""


def engine_name(variant: str, reference: References, gguf: Iterable[str], gptq: Iterable[str]) -> str:
    """A reference variant names its engine (`transformers`, `llama.cpp` or `rules`); llama.cpp runs GGUF, transformers GPTQ.

    Raises UserError for an unknown variant.
    """
    engines: dict[str, str] = {name: section.engine for name, section in reference}
    engines |= dict.fromkeys(gguf, "llama.cpp") | dict.fromkeys(gptq, "transformers")
    if variant not in engines:
        what = f"there is no variant {variant!r} in params.yaml; there are: {', '.join(engines)}"
        raise UserError(what, f"git grep {variant}")
    return engines[variant]


def model_path(models: Path, variant: str, engine: str) -> Path:
    """The variant's model: a folder for transformers, a file for llama.cpp and the baseline. Raises FileNotFoundError."""
    path = models / variant / MODEL_FILES[engine]
    path.stat()
    return path


def open_engine(engine: str, path: Path, threads: int, replicas: int | None = None) -> Any:
    """The model at `path` loaded by that engine; only that engine's library is imported.

    The `threads` are dealt evenly to the replicas, by default at most MAX_REPLICAS: small models gain from it.
    llama.cpp computes the same with any number of threads.
    """
    replicas = replicas or next(n for n in range(MAX_REPLICAS[engine], 0, -1) if threads % n == 0)
    if engine == "transformers":
        from cartlm.engines import transformers

        return transformers.load(path, threads=threads // replicas, replicas=replicas)
    if engine == "rules":
        from cartlm.baseline import engine as baseline

        return baseline.load(path)
    from cartlm.engines import llama_cpp

    return llama_cpp.load(path, threads=threads // replicas, replicas=replicas)


def plain_job(
    model: str, rows: Sequence[Row], builder: PromptBuilder, max_new_tokens: int, batch_size: int = 1
) -> Job:
    """`rows` answered in batches of `batch_size`."""
    return Job(model, [builder.prompt_ids(row.prompt) for row in rows], max_new_tokens, batch_size)


def draft_and_verify_job(model: str, rows: Sequence[Row], builder: PromptBuilder, max_new_tokens: int) -> Job:
    """`rows` one at a time, each label as the draft of its answer: one forward pass verifies a right answer.

    From the first token that the model would not choose, the draft is dropped (cartlm.decoding.free): a label cannot make
    an answer right.
    """
    prompts = [builder.prompt_ids(row.prompt) for row in rows]
    drafts = [builder.completion_ids(row.completion)[:-1] for row in rows]
    return Job(model, prompts, max_new_tokens, drafts=drafts)


def evenly_spaced(n: int, count: int) -> list[int]:
    """At most `count` indices out of `n`, evenly spaced."""
    count = min(n, count)
    return [index * n // count for index in range(count)]


def read_extra_rows(path: Path, most: int | None) -> list[Row]:
    """At most `most` rows, evenly spaced, of a file with its own section of the metrics; none of an empty file."""
    if most == 0 or (path.exists() and path.stat().st_size == 0):
        return []
    rows = row_files.read(path)
    return rows if most is None else [rows[index] for index in evenly_spaced(len(rows), most)]


def rows_hash(rows: Sequence[Row]) -> str:
    """Twelve hex digits that identify a set of rows."""
    texts = "\n".join(f"{row.prompt}\n{row.completion}" for row in rows)
    return hashlib.sha256(texts.encode("utf-8")).hexdigest()[:12]


def batch_disagreement(
    engine: Any, job: Job, answers: Sequence[Answer], rows: int, part: Path
) -> dict[str, dict[str, int]]:
    """The section `batching`: how many of `rows` evenly spaced rows get another answer at batch 1, on which greedy output depends.

    Empty where nothing was batched, or no row is asked for.
    """
    if job.batch_size == 1 or not rows:
        return {}
    chosen = evenly_spaced(len(job.prompts), rows)
    single = collect_answers(engine, replace(job.subset(chosen), batch_size=1), part, "batch 1")
    flips = len(agreement(single, [answers[index] for index in chosen]).divergences)
    return {"batching": {"batch_size": job.batch_size, "flip_rows": len(chosen), "flips": flips}}


def answer_rows(engine: Any, rows: Sequence[Row], job: Job, raw: Path) -> tuple[list[Answer], list[Score]]:
    """Answer (resumable, see `collect_answers`) and score `rows`; all answers go to `raw` (JSONL, in the order of rows)."""
    answers = collect_answers(engine, job, raw.with_suffix(".part.jsonl"), raw.stem)
    scores = [score(row, answer) for row, answer in zip(rows, answers, strict=True)]
    key = job.key(engine)
    lines = [
        {"id": row.id, "outcome": one.outcome, "key": key, "answer": asdict(answer)}
        for row, answer, one in zip(rows, answers, scores, strict=True)
    ]
    write_text(raw, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return answers, scores


def answer_sets(
    engine: Any, sets: Mapping[str, Sequence[Row]], make_job: Callable[[Sequence[Row]], Job], raw: Path
) -> dict[str, tuple[list[Answer], list[Score]]]:
    """`answer_rows` of each set that has rows; all answers go to `raw`.NAME.jsonl, those of "free" to `raw`.jsonl."""
    names = {name: f"{raw.name}.jsonl" if name == "free" else f"{raw.name}.{name}.jsonl" for name in sets}
    return {
        name: answer_rows(engine, rows, make_job(rows), raw.with_name(names[name]))
        for name, rows in sets.items()
        if rows
    }


def read_answers(raw: Path, key: str) -> list[Answer] | None:
    """The answers that `answer_rows` wrote to `raw`; None if there are none, or only of a job with another key."""
    text = raw.read_text(encoding="utf-8") if raw.exists() else ""
    values = [json.loads(line) for line in text.split("\n") if line]
    if not values or any(value.get("key") != key for value in values):
        return None
    return [Answer.from_json(value["answer"]) for value in values]


def exact_rows(
    sets: Mapping[str, Sequence[Row]], scores: Mapping[str, Sequence[Score]], ways: Mapping[str, Mapping[str, Sequence[bool]]]
) -> list[Exact]:  # fmt: skip
    """Each row of SHOWN sets, its free answer's score, and whether the other ways answer it exactly (cartlm.evaluation.constrained)."""
    found = []
    for name, shown in SHOWN.items():
        other = [ways.get(name, {}).get(way) for way in ("constrained", "ensemble")]
        for place, (row, one) in enumerate(zip(sets.get(name, ()), scores.get(name, ()), strict=True)):
            marks = [one.outcome == "exact", *(None if each is None else each[place] for each in other)]
            found.append(Exact(shown, row.id, *("" if mark is None else str(int(mark)) for mark in marks)))
    return found


def write_results(
    metrics: Path, outcomes: Path, rows: Sequence[Row], answers: Sequence[Answer], scores: Sequence[Score],
    sections: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Write the outcomes and the metrics: the scores of all rows and of slices, then `sections`.

    Returns n and exact match for the stage's last line.
    """
    free, every = summarize(scores), zip(rows, answers, scores, strict=True)
    write_outcomes(
        outcomes, [Outcome(row.id, one.outcome, answer_hash(answer.text)) for row, answer, one in every]
    )
    write_metrics(metrics, {"free": free, "free_slices": summarize_slices(rows, scores), **sections})
    return {"n": len(rows), "exact_match": round(free["exact_match"], 4)}
