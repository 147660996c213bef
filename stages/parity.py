"""parity: the merged model and its F16 GGUF must give the same answers before anything is quantized.

python -m stages.parity
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cartlm import command
from cartlm.engines.answer import Answer, agreement, check_parity
from cartlm.engines.collect import Job, collect_answers, file_digest
from cartlm.evaluation.answers import draft_and_verify_job, evenly_spaced, model_path, read_answers
from cartlm.evaluation.reading import open_reading
from cartlm.evaluation.scoring import parity_section
from cartlm.files import write_text
from cartlm.metrics import write_metrics
from cartlm.system import cpu_limits, machine
from cartlm.task import prompt
from cartlm.task import rows as row_files

BASELINE = Path("models/baseline/model.json")
MODELS, TEST, RUNS, SHOWN = Path("models"), Path("data/test.jsonl"), Path("runs"), 5


@command.command
def main() -> None:
    """Write metrics/parity.json, or stop with the first divergences and leave it as it is."""
    settings = command.params()
    limit, threads = settings.eval.max_new_tokens, cpu_limits.threads()
    merged_path = model_path(MODELS, "merged", "transformers")
    f16_path = model_path(MODELS, "f16", "llama.cpp")
    rows = row_files.read(TEST)
    chosen = evenly_spaced(len(rows), settings.parity.rows)

    def answer(name: str, engine: Any, job: Job) -> list[Answer]:
        """The chosen rows' answers: those of eval@merged and eval@f16, both at batch 1, if there are any."""
        if (known := read_answers(RUNS / f"eval/{name}.jsonl", job.key(engine))) is not None:
            return [known[index] for index in chosen]
        return collect_answers(engine, job.subset(chosen), RUNS / f"parity.{name}.part.jsonl", name)

    legal = settings.decoding
    as_evaluated = settings.prompt.separator, legal.max_quantity, BASELINE, threads, legal.none
    with (
        open_reading("transformers", merged_path, *as_evaluated) as merged,
        open_reading("llama.cpp", f16_path, *as_evaluated) as f16,
    ):
        prompt.shared_ids(rows, merged.builder, f16.builder)
        for each in (merged, f16):
            each.expect(rows)
        jobs = [
            draft_and_verify_job(file_digest(path), rows, merged.builder, limit)
            for path in (merged_path, f16_path)
        ]
        result = agreement(answer("merged", merged, jobs[0]), answer("f16", f16, jobs[1]))
        engines = {"engine": f16.engine.describe(), "engine_merged": merged.engine.describe()}

    divergences = [
        {"id": rows[chosen[one.index]].id, "merged": one.first, "f16": one.second}
        for one in result.divergences
    ]
    section = parity_section(result)
    raw = json.dumps({**section, "divergences": divergences}, indent=2, ensure_ascii=False)
    write_text(RUNS / "parity.json", raw + "\n")
    for one in divergences[:SHOWN]:
        command.progress(f"row {one['id']}\n  merged: {one['merged']!r}\n  f16:    {one['f16']!r}")
    check_parity(section, settings.parity.min_agreement)
    write_metrics(Path("metrics/parity.json"), {**section, "machine": machine.fingerprint(), **engines})
    for part in RUNS.glob("parity.*.part.jsonl"):
        part.unlink()
    command.done({"agreement": round(result.share, 4), "n": result.n})


if __name__ == "__main__":
    main()
