"""parity: the merged model and its F16 GGUF must give the same answers before anything is quantized.

python -m stages.parity
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from cartlm import command
from cartlm.engines.collect import Job, collect, digest
from cartlm.errors import UserError
from cartlm.evaluation import answers as evaluation
from cartlm.evaluation import parity
from cartlm.files import write_text
from cartlm.metrics import write_metrics
from cartlm.system import cpu_limits, machine
from cartlm.task import prompt
from cartlm.task import rows as row_files

MODELS, TEST, RUNS, SHOWN = Path("models"), Path("data/test.jsonl"), Path("runs"), 5


@command.command
def main() -> None:
    """Write metrics/parity.json, or stop with the first divergences and leave it as it is."""
    settings = command.params()
    limit, threads = settings.eval.max_new_tokens, cpu_limits.threads()
    merged_path = evaluation.model_path(MODELS, "merged", "transformers")
    f16_path = evaluation.model_path(MODELS, "f16", "llama.cpp")
    rows = row_files.read(TEST)
    parts = {name: RUNS / f"parity.{name}.part.jsonl" for name in ("merged", "f16")}
    with (
        evaluation.open_engine("transformers", merged_path, threads) as merged,
        evaluation.open_engine("llama.cpp", f16_path, threads) as f16,
    ):
        separator = settings.prompt.separator
        ids = prompt.shared_ids(rows, merged.prompt_builder(separator), f16.prompt_builder(separator))
        chosen = evaluation.spread(len(rows), settings.parity.rows)
        asked = {  # what eval@merged and eval@f16 asked, batch 1 both
            "merged": (merged, evaluation.guessed(digest(merged_path), rows, merged.prompt_builder(separator), limit)),
            "f16": (f16, Job(digest(f16_path), ids, limit)),
        }  # fmt: skip
        answers = {}
        for name, (engine, job) in asked.items():
            known = evaluation.read_answers(RUNS / f"eval/{name}.jsonl", job.key(engine))
            if known is None or len(known) != len(ids):
                answers[name] = collect(engine, job.some(chosen), parts[name], name)
            else:
                answers[name] = [known[index] for index in chosen]
        engines = {"engine": f16.describe(), "engine_merged": merged.describe()}

    agreement = parity.compare([rows[index] for index in chosen], answers["merged"], answers["f16"])
    raw = {**agreement.section(), "divergences": [asdict(one) for one in agreement.divergences]}
    write_text(RUNS / "parity.json", json.dumps(raw, indent=2, ensure_ascii=False) + "\n")
    for one in agreement.divergences[:SHOWN]:
        command.progress(f"row {one.id}\n  merged: {one.merged!r}\n  f16:    {one.f16!r}")
    least = settings.parity.min_agreement
    if agreement.share < least:
        raise UserError(
            f"merged and f16 answer {agreement.share:.4f} of {agreement.n} rows alike, less than {least}",
            "see runs/parity.json; the tokenizer, the converter or the merge lost something",
        )
    write_metrics(
        Path("metrics/parity.json"), {**agreement.section(), "machine": machine.fingerprint(), **engines}
    )
    for part in parts.values():
        part.unlink(missing_ok=True)
    command.done({"agreement": round(agreement.share, 4), "n": agreement.n})


if __name__ == "__main__":
    main()
