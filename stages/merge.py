"""merge: the adapter merged into the base, and compared with it on validation rows, in each way of merging.

python -m stages.merge
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from cartlm import command
from cartlm.engines.model_dir import load_tokenizer
from cartlm.errors import UserError
from cartlm.evaluation.scoring import merge_sections
from cartlm.files import require_folders, scratch, write_text
from cartlm.metrics import write_metrics
from cartlm.system import cpu_limits, machine
from cartlm.task import rows as row_files
from cartlm.task.prompt import from_transformers

BASE, ADAPTER, MERGED = Path("models/base"), Path("models/adapter"), Path("models/merged")
VALIDATION, METRICS, RAW = Path("data/validation.jsonl"), Path("metrics/merge.json"), Path("runs/merge.json")


@command.command
def main() -> None:
    """Write models/merged and metrics/merge.json; stop where the merged model is another one."""
    settings = command.params()
    require_folders(BASE, ADAPTER)
    import torch

    from cartlm.training import merge, origin
    from cartlm.training.qlora import RECORD

    torch.set_num_threads(cpu_limits.threads())
    trained = json.loads((ADAPTER / RECORD).read_text(encoding="utf-8"))
    rows = row_files.read(VALIDATION)[: settings.merge.check_rows]
    builder = from_transformers(load_tokenizer(BASE), settings.prompt.separator)
    chosen, *others = merge.ways(settings.merge.onto, settings.finetune.quantization)
    made = merge.merge(BASE, ADAPTER, settings.merge.dtype, chosen, MERGED)
    command.progress(f"merged; comparing the answers to {len(rows)} validation rows")
    compare = partial(
        merge.compare, BASE, ADAPTER, prompts=[builder.prompt_ids(row.prompt) for row in rows],
        quantization=settings.finetune.quantization, compute_dtype=trained["compute_dtype"],
        max_new_tokens=settings.eval.max_new_tokens, batch_size=settings.eval.batch_size,
    )  # fmt: skip
    compared = {chosen: compare(MERGED)}
    kept, agreement = compared[chosen], compared[chosen].agreement
    for way in others:  # only for the table: what is wrong with it stops nothing
        try:
            with scratch(RAW) as folder:
                merge.merge(BASE, ADAPTER, settings.merge.dtype, way, folder / "merged")
                compared[way] = compare(folder / "merged", ours=kept.adapter)
        except (UserError, OSError) as error:
            command.progress(f"left out: merged onto {way}: {error}")
    sections = {
        "agreement": agreement.share,
        "n": agreement.n,
        "onto": settings.merge.onto,
        "dtype": settings.merge.dtype,
        "size_mib": made.size_mib,
        "parameters": made.parameters,
        "bytes": made.bytes_by_group,
        **merge_sections(rows, compared),
        **({"base": known} if (known := origin.read(BASE)) else {}),
        "finetune": trained,
        "machine": machine.fingerprint(),
        "engine": kept.engine,
    }
    write_metrics(METRICS, sections)
    differ = agreement.listed([row.id for row in rows], "adapter", "merged")
    write_text(RAW, json.dumps(differ, indent=2, ensure_ascii=False) + "\n")
    merge.require_agreement(agreement, settings.merge, settings.finetune.quantization)
    share = round(agreement.share, 4)
    command.done({"agreement": share, "n": agreement.n, "size_mib": round(made.size_mib, 2)})


if __name__ == "__main__":
    main()
