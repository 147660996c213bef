"""eval: the test rows answered by one variant, scored.

python -m stages.evaluate VARIANT
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cartlm import command
from cartlm.evaluation import answers, constrained, no_orders, reading, scoring, shots
from cartlm.metrics import write_exact
from cartlm.system import cpu_limits, machine
from cartlm.task import rows as row_files
from cartlm.task.prompt import FORMAT_HEADER

MODELS, RUNS = Path("models"), Path("runs/eval")
TEST, TRAIN, VALIDATION = (Path(f"data/{name}.jsonl") for name in ("test", "train", "validation"))
NATURAL, PUBLISHED = Path("cartlm/evaluation/natural_messages/rows.jsonl"), Path("data/published.jsonl")
BASELINE, NONE = Path("models/baseline/model.json"), Path("data/none.jsonl")
METRICS, OUTCOMES, EXACT = (Path(f"metrics/{name}") for name in ("eval", "outcomes", "exact"))


@command.command
@click.argument("variant")
def main(variant: str) -> None:
    """Write metrics/eval/VARIANT.json, metrics/outcomes/VARIANT.csv, metrics/exact/VARIANT.csv and runs/eval/VARIANT.jsonl."""
    settings = command.params()
    kind = answers.engine_name(variant, settings.reference, settings.gguf, settings.gptq)
    path = answers.model_path(MODELS, variant, kind)
    rows, natural = row_files.read(TEST), answers.read_extra_rows(NATURAL, settings.eval.natural_rows)
    sets = {"free": rows, "natural": natural, "published": answers.read_extra_rows(PUBLISHED, None)}
    sets[no_orders.SET] = answers.read_extra_rows(NONE, None)
    within, size = None, settings.eval.batch_size if variant == "base" else 1
    if kind in reading.ENGINES and variant != "base":
        sets["validation"] = row_files.read(VALIDATION)
        within = reading.Within(settings.decoding.max_quantity, BASELINE, settings.decoding.none)
    separator, limit = settings.prompt.separator, settings.eval.max_new_tokens
    with reading.open_asked(kind, path, separator, limit, cpu_limits.threads(), within, size) as asked:
        engine, job = asked.engine, asked.job
        done = answers.answer_sets(engine, sets, job, RUNS / variant)
        free, scores = done["free"]
        found = {name: answered for name, (answered, _) in done.items()}
        sections: dict[str, Any] = {}
        right: constrained.Right = {}
        if within:
            sections["inputs"] = reading.inputs(asked.model, separator, within)
            more, right = constrained.sections(sets, found)
            sections |= more
        sections |= no_orders.sections(sets, found, sections)
        if variant == "base":
            header = FORMAT_HEADER if settings.base.source == "embedded" else ""
            train, raw = row_files.read(TRAIN), RUNS / variant
            sections |= shots.sections(
                engine, asked.builder, rows, train, settings.eval, asked.model, raw, header
            )
            count, part = settings.eval.flip_rows, RUNS / f"{variant}.flips.part.jsonl"
            sections |= answers.batch_disagreement(engine, job(rows), free, count, part)
        for name in [name for name in ("natural", "published") if name in done]:
            sections[name] = {**scoring.summarize(done[name][1]), "rows": answers.rows_hash(sets[name])}
        sections |= {"machine": machine.fingerprint(), "engine": asked.about}

    metrics, outcomes = METRICS / f"{variant}.json", OUTCOMES / f"{variant}.csv"
    every = answers.exact_rows(sets, {name: given for name, (_, given) in done.items()}, right)
    write_exact(EXACT / f"{variant}.csv", every)
    result = answers.write_results(metrics, outcomes, rows, free, scores, sections)
    for part in RUNS.glob(f"{variant}.*part.jsonl"):  # kept for resuming until the results are safe
        part.unlink()
    command.done({"variant": variant, **result})


if __name__ == "__main__":
    main()
