"""merge: the adapter merged into the base, and compared with it on validation rows, in each way of merging.

python -m stages.merge
"""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

from cartlm import command
from cartlm.engines.model_dir import load_tokenizer
from cartlm.errors import UserError
from cartlm.evaluation.scoring import exact_share
from cartlm.files import MIB, write_text
from cartlm.metrics import write_metrics
from cartlm.system import cpu_limits, machine
from cartlm.task import rows as row_files
from cartlm.task.prompt import from_transformers

BASE, ADAPTER, MERGED = Path("models/base"), Path("models/adapter"), Path("models/merged")
VALIDATION, METRICS, RAW = Path("data/validation.jsonl"), Path("metrics/merge.json"), Path("runs/merge.json")
OTHER = Path("runs/merged")  # in the way that is not kept; only compared


@command.command
def main() -> None:
    """Write models/merged and metrics/merge.json; stop where the merged model is another one."""
    settings = command.params()
    for folder in (BASE, ADAPTER):
        if not folder.is_dir():
            raise FileNotFoundError(2, "No such file or directory", str(folder))
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
        quantization=settings.finetune.quantization, compute_dtype=settings.finetune.compute_dtype,
        max_new_tokens=settings.eval.max_new_tokens, batch_size=settings.eval.batch_size,
    )  # fmt: skip
    compared = compare({chosen: MERGED})
    agreement = compared.agreement(chosen)
    for way in others:  # only for the table: what is wrong with it stops nothing
        try:
            merge.merge(BASE, ADAPTER, settings.merge.dtype, way, OTHER)
            compared.merged.update(compare({way: OTHER}, ours=compared.adapter).merged)
        except (UserError, OSError) as error:
            command.progress(f"left out: merged onto {way}: {error}")
        finally:
            shutil.rmtree(OTHER, ignore_errors=True)
    size_mib = made.size_bytes / MIB
    sections = {
        "agreement": agreement.share,
        "n": agreement.n,
        "onto": settings.merge.onto,
        "dtype": settings.merge.dtype,
        "size_mib": size_mib,
        "parameters": made.parameters,
        "bytes": made.bytes_by_group,
        "adapter": exact_share(rows, compared.adapter),
        **{
            f"onto_{way.replace('-', '_')}": {
                **exact_share(rows, answers),
                "agreement": compared.agreement(way).share,
            }
            for way, answers in compared.merged.items()
        },
        **({"base": known} if (known := origin.read(BASE)) else {}),
        "finetune": trained,
        "machine": machine.fingerprint(),
        "engine": compared.engine,
    }
    write_metrics(METRICS, sections)
    differ = [
        {"id": rows[one.index].id, "adapter": one.first, "merged": one.second}
        for one in agreement.divergences
    ]
    write_text(RAW, json.dumps(differ, indent=2, ensure_ascii=False) + "\n")
    merge.require_agreement(
        agreement, settings.merge.min_agreement, settings.merge.onto, settings.finetune.quantization
    )
    command.done({"agreement": round(agreement.share, 4), "n": agreement.n, "size_mib": round(size_mib, 2)})


if __name__ == "__main__":
    main()
