"""The base model before fine-tuning, asked as one asks a base model: with an instruction, or with examples in front.

Such a model goes on writing after its answer, so an answer is what stands in the first line. A few-shot prompt is `count`
training rows, prompt and completion each, then the row's own prompt; every row gets the same examples, fewer where the
model could not read them all.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cartlm.engines.answer import Answer
from cartlm.engines.collect import Job, collect_answers
from cartlm.evaluation.answers import answer_rows, evenly_spaced, rows_hash
from cartlm.evaluation.config import Eval, Shots
from cartlm.evaluation.scoring import score, summarize
from cartlm.task.prompt import PromptBuilder
from cartlm.task.rows import Row

INSTRUCTION = (
    "A shopper writes to a shop. Answer with one line of JSON with these keys: "
    '"action" ("add" or "remove"), "product" (the line of the catalog that is meant), "quantity" (a number).\n\n'
)
SPARE = 8
"""Tokens that an answer may be longer than the longest completion: one that is cut there could not be exact."""


def examples(train: Sequence[Row], shots: Shots) -> list[Row]:
    """The rows in front of a few-shot prompt: drawn from `train` with the seed."""
    return random.Random(shots.seed).sample(list(train), min(shots.count, len(train)))


def text_of(drawn: Sequence[Row], separator: str) -> str:
    """Their text, which the row's own prompt follows."""
    return "".join(f"{row.prompt}{separator}{row.completion}\n\n" for row in drawn)


def first_line(answer: Answer) -> Answer:
    """The answer up to its first line break, which ends it."""
    text, found, _ = answer.text.partition("\n")
    return replace(answer, text=text, finish_reason="stop") if found else answer


def sections(
    engine: Any,
    builder: PromptBuilder,
    rows: Sequence[Row],
    train: Sequence[Row],
    settings: Eval,
    model: str,
    raw: Path,
    header: str = "",
) -> dict[str, dict[str, Any]]:
    """The sections `zero_shot` and `few_shot` of a base model's metrics, of `shots.rows` evenly spaced rows; and `header` of
    all rows where one is given, which their prompts follow.

    As `cartlm.evaluation.scoring.summarize`, with `shots` and the `rows` by which two runs compare. A section is
    absent where its prompts are longer than the model reads: it computes on beyond its last position, and nothing would
    say so. `raw`: answers so far are kept in its .zero_shot.part.jsonl and .few_shot.part.jsonl.
    """
    found: dict[str, dict[str, Any]] = {}
    if header:
        headed = [builder.prompt_ids(header + row.prompt) for row in rows]
        job = Job(model, headed, settings.max_new_tokens, settings.batch_size)
        _, scores = answer_rows(engine, rows, job, raw.with_name(f"{raw.name}.header.jsonl"))
        found["header"] = summarize(scores)
    if not settings.shots.rows:
        return found
    asked = [rows[index] for index in evenly_spaced(len(rows), settings.shots.rows)]
    longest = max(len(builder.completion_ids(row.completion)) for row in asked)
    limit = min(settings.max_new_tokens, longest + SPARE)

    def prompts_after(head: str) -> list[list[int]] | None:
        made = [builder.prompt_ids(head + row.prompt) for row in asked]
        return made if max(map(len, made)) + limit <= engine.max_positions else None

    drawn = examples(train, settings.shots)
    while drawn and not prompts_after(text_of(drawn, builder.separator)):
        drawn.pop()
    ways = {"zero_shot": (INSTRUCTION, []), "few_shot": (text_of(drawn, builder.separator), drawn)}
    for name, (head, shown) in ways.items():
        prompts = prompts_after(head) if head else None
        if prompts is None:
            continue
        job = Job(model, prompts, limit, settings.batch_size)
        answers = collect_answers(engine, job, raw.with_name(f"{raw.name}.{name}.part.jsonl"), name)
        scores = [score(row, first_line(answer)) for row, answer in zip(asked, answers, strict=True)]
        found[name] = {**summarize(scores), "shots": len(shown), "rows": rows_hash([*shown, *asked])}
    return found
