"""How far the two engines' logits are apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from cartlm.engines import llama_cpp, transformers
from tests.fixtures.toy import toy_rows


def logit_distance(folder: Path, file: Path) -> float:
    """The largest difference after three prompts, in standard deviations of the logits: folder in float32, GGUF file."""
    import llama_cpp as c

    ours, worst = transformers.load(folder, dtype="float32", device="cpu", threads=1), 0.0
    builder = ours.prompt_builder("\n")
    with llama_cpp.load(file, threads=1) as theirs:
        for row in toy_rows(3):
            ids = builder.prompt_ids(row.prompt)
            theirs.answer(ids, 1)
            with torch.no_grad():
                wanted = ours.model(torch.tensor([ids])).logits[0, -1].numpy()
            found = np.array(c.llama_get_logits_ith(theirs._context, -1)[: len(wanted)])
            worst = max(worst, float(np.abs(found - wanted).max() / wanted.std()))
    return worst
