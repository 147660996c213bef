"""eval: the test rows answered by one variant, scored.

python -m stages.evaluate VARIANT
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cartlm import command
from cartlm.engines.collect import Job, file_digest
from cartlm.evaluation import answers, constrained, scoring, shots
from cartlm.system import cpu_limits, machine
from cartlm.task import rows as row_files
from cartlm.task.prompt import FORMAT_HEADER
from cartlm.task.rows import Row

MODELS, RUNS = Path("models"), Path("runs/eval")
TEST, TRAIN = Path("data/test.jsonl"), Path("data/train.jsonl")
NATURAL, PUBLISHED = Path("cartlm/evaluation/natural_messages/rows.jsonl"), Path("data/published.jsonl")
METRICS, OUTCOMES = Path("metrics/eval"), Path("metrics/outcomes")


@command.command
@click.argument("variant")
def main(variant: str) -> None:
    """Write metrics/eval/VARIANT.json, metrics/outcomes/VARIANT.csv and runs/eval/VARIANT.jsonl."""
    settings = command.params()
    kind = answers.engine_name(variant, settings.reference, settings.gguf, settings.gptq)
    path = answers.model_path(MODELS, variant, kind)
    rows = row_files.read(TEST)
    batch_size = settings.eval.batch_size if variant == "base" else 1
    model, limit = file_digest(path), settings.eval.max_new_tokens

    def make_job(asked: list[Row], header: str = "") -> Job:
        if variant != "base" and hasattr(engine, "verify_draft"):
            return answers.draft_and_verify_job(model, asked, builder, limit)
        return Job(model, [builder.prompt_ids(header + row.prompt) for row in asked], limit, batch_size)

    with answers.open_engine(kind, path, cpu_limits.threads()) as engine:
        builder = engine.prompt_builder(settings.prompt.separator)
        job = make_job(rows)
        free, scores = answers.answer_rows(engine, rows, job, RUNS / f"{variant}.jsonl")
        sections: dict[str, Any] = {}
        if variant == "base" and settings.base.source == "embedded":
            headed, raw = make_job(rows, FORMAT_HEADER), RUNS / f"{variant}.header.jsonl"
            sections["header"] = scoring.summarize(answers.answer_rows(engine, rows, headed, raw)[1])
        if variant == "base" and settings.eval.shots.rows:
            train = row_files.read(TRAIN)
            sections |= shots.sections(engine, builder, rows, train, settings.eval, model, RUNS / "base")
        answered = {"free": (rows, free)}
        others = {"natural": (NATURAL, settings.eval.natural_rows), "published": (PUBLISHED, None)}
        for name, (path, most) in others.items():
            if extra := answers.read_extra_rows(path, most):
                raw = RUNS / f"{variant}.{name}.jsonl"
                found, scored = answers.answer_rows(engine, extra, make_job(extra), raw)
                sections[name] = {**scoring.summarize(scored), "rows": answers.rows_hash(extra)}
                answered[name] = extra, found
        if kind in constrained.ENGINES and variant != "base":
            with constrained.open_constrainer(kind, engine, builder, settings.decoding) as constrainer:
                sections |= constrainer.sections(answered, RUNS / f"{variant}.constrained.jsonl")
        if batch_size > 1 and settings.eval.flip_rows > 0:
            part = RUNS / f"{variant}.flips.part.jsonl"
            sections["batching"] = answers.batch_disagreement(
                engine, job, free, settings.eval.flip_rows, part
            )
        sections |= {"machine": machine.fingerprint(), "engine": engine.describe()}

    metrics, outcomes = METRICS / f"{variant}.json", OUTCOMES / f"{variant}.csv"
    result = answers.write_results(metrics, outcomes, rows, free, scores, sections)
    for part in RUNS.glob(f"{variant}.*part.jsonl"):  # kept for resuming until the results are safe
        part.unlink()
    command.done({"variant": variant, **result})


if __name__ == "__main__":
    main()
