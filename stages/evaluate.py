"""eval: the test rows answered by one variant, scored.

python -m stages.evaluate VARIANT
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cartlm import command
from cartlm.engines.collect import Job, file_digest
from cartlm.evaluation import answers, scoring
from cartlm.metrics import write_metrics, write_outcomes
from cartlm.system import cpu_limits, machine
from cartlm.task import rows as row_files
from cartlm.task.prompt import FORMAT_HEADER
from cartlm.task.rows import Row

MODELS, TEST, RUNS = Path("models"), Path("data/test.jsonl"), Path("runs/eval")
NATURAL, PUBLISHED = Path("cartlm/evaluation/natural_messages/rows.jsonl"), Path("data/published.jsonl")
METRICS, OUTCOMES = Path("metrics/eval"), Path("metrics/outcomes")


@command.command
@click.argument("variant")
def main(variant: str) -> None:
    """Write metrics/eval/VARIANT.json, metrics/outcomes/VARIANT.csv and runs/eval/VARIANT.jsonl."""
    settings = command.params()
    reference = {name: section.engine for name, section in settings.reference}
    kind = answers.engine_name(variant, reference, list(settings.gguf), list(settings.gptq))
    path = answers.model_path(MODELS, variant, kind)
    rows = row_files.read(TEST)
    batch_size = settings.eval.batch_size if variant == "base" else 1
    model, limit = file_digest(path), settings.eval.max_new_tokens

    def make_job(asked: list[Row], header: str = "") -> Job:
        if kind == "transformers" and variant != "base":
            return answers.draft_and_verify_job(model, asked, builder, limit)
        return Job(model, answers.prompt_ids(asked, builder, header), limit, batch_size)

    with answers.open_engine(kind, path, cpu_limits.threads()) as engine:
        builder = engine.prompt_builder(settings.prompt.separator)
        job = make_job(rows)
        free = answers.answer_rows(engine, rows, job, RUNS / f"{variant}.jsonl")
        sections: dict[str, Any] = {
            "free": scoring.summarize(free.scores),
            "free_slices": scoring.summarize_slices(rows, free.scores),
        }
        if variant == "base" and settings.base.source == "embedded":
            headed = answers.answer_rows(
                engine, rows, make_job(rows, FORMAT_HEADER), RUNS / f"{variant}.header.jsonl"
            )
            sections["header"] = scoring.summarize(headed.scores)
        for name, path, most in (
            ("natural", NATURAL, settings.eval.natural_rows),
            ("published", PUBLISHED, None),
        ):
            if extra := answers.read_extra_rows(path, most):
                scored = answers.answer_rows(engine, extra, make_job(extra), RUNS / f"{variant}.{name}.jsonl")
                sections[name] = {**scoring.summarize(scored.scores), "rows": answers.rows_hash(extra)}
        if batch_size > 1 and settings.eval.flip_rows > 0:
            part = RUNS / f"{variant}.flips.part.jsonl"
            sections["batching"] = answers.batch_disagreement(
                engine, job, free.answers, settings.eval.flip_rows, part
            )
        sections |= {"machine": machine.fingerprint(), "engine": engine.describe()}

    write_outcomes(OUTCOMES / f"{variant}.csv", answers.outcomes(rows, free))
    write_metrics(METRICS / f"{variant}.json", sections)
    answers.remove_partial_answers(RUNS, variant)
    command.done(
        {"variant": variant, "n": len(rows), "exact_match": round(sections["free"]["exact_match"], 4)}
    )


if __name__ == "__main__":
    main()
