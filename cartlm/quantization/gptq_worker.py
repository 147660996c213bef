"""GPTQ in a process of its own: `python -m cartlm.quantization.gptq_worker JOB`, a JSON file (cartlm.quantization.gptq).

A process of its own, because gptqmodel keeps thread pools, takes settings from the environment at import, and writes
its progress to stdout.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    path = Path(sys.argv[1]).resolve()
    job: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    os.chdir(path.parent)  # gptqmodel writes a folder logs/ where it runs
    import torch
    from gptqmodel import GPTQModel, QuantizeConfig
    from gptqmodel.looper.checkpoint_store import CheckpointConfig

    torch.set_num_threads(job["threads"])
    config = QuantizeConfig(
        bits=job["bits"], group_size=job["group_size"], sym=job["symmetric"], desc_act=job["act_order"],
        damp_percent=job["damp"], lm_head=False,
        act_group_aware=not job["act_order"] and job["group_size"] > 0,  # of no use to the others: refused
        device=job["device"], offload_to_disk=True, offload_to_disk_path=str(path.with_name("offload")),
    )  # fmt: skip
    # float32 on a CPU: not every one multiplies 16-bit numbers at more than a hundredth of that speed
    dtype = torch.float16 if job["device"].startswith("cuda") else torch.float32
    model = GPTQModel.load(job["source"], config, dtype=dtype, trust_remote_code=False)
    rows = [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in job["rows"]]
    # gptqmodel 7.6.0 keeps no checkpoint of other families: a killed run of theirs begins anew
    source = json.loads((Path(job["source"]) / "config.json").read_text(encoding="utf-8"))
    resumes = source["model_type"] == "llama"
    model.quantize(
        rows, batch_size=job["batch_size"], calibration_data_min_length=1,
        checkpoint=CheckpointConfig(path=str(path.with_name("checkpoint"))) if resumes else None,
    )  # fmt: skip
    model.save(str(path.with_name("made")))


if __name__ == "__main__":
    main()
