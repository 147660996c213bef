"""How good the base model is: the task itself, requested by the format header, on rows it never saw."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from base.pretraining.formats import TARGET_HEADER
from cartlm.data import offline
from cartlm.data.config import Data
from cartlm.task.prompt import from_transformers
from cartlm.task.rows import Row

BATCH = 16


KINDS = ("classic", "everyday")


def probe_rows(data: Data, count: int, seed: int, kind: str) -> list[Row]:
    """`count` rows of a kind, the first half of them of held-out products and frames; drawn apart from the test rows."""
    share = {"classic": 0.0, "everyday": 1.0}[kind]
    data = data.with_everyday(share=share)
    return offline.rows("probe", count, count // 2, data, random.Random(f"probe/{seed}"))


def measure_all(
    model: Any, tokenizer: Any, rows: Mapping[str, list[Row]], separator: str
) -> dict[str, float]:
    """The figures of `measure` for the classic rows, and with `everyday_` in front for the others."""
    classic, everyday = (measure(model, tokenizer, rows[kind], separator) for kind in KINDS)
    return classic | {f"everyday_{name}": share for name, share in everyday.items()}


def measure(
    model: Any, tokenizer: Any, rows: list[Row], separator: str, header: str = TARGET_HEADER
) -> dict[str, float]:
    """Shares of the rows: exact match of all and of the first half (novel), and in which field the others go wrong.

    An answer is exact if each of its tokens is the likeliest one after those before it, which is when greedy decoding
    gives it: one pass over the rows suffices. `astray_<field>` counts the rows whose first wrong token is in that
    field (`action`: or before it).
    """
    import torch

    builder = from_transformers(tokenizer, separator)
    encoded = [
        (builder.prompt_ids(header + row.prompt), builder.completion_ids(row.completion)) for row in rows
    ]
    order = sorted(range(len(rows)), key=lambda index: sum(map(len, encoded[index])))
    astray = [""] * len(rows)
    for start in range(0, len(rows), BATCH):
        batch = order[start : start + BATCH]
        ids = torch.full((len(batch), sum(map(len, encoded[batch[-1]]))), tokenizer.pad_token_id)
        for at, index in enumerate(batch):
            whole = [*encoded[index][0], *encoded[index][1]]
            ids[at, : len(whole)] = torch.tensor(whole)
        with torch.no_grad():
            logits = model(input_ids=ids.to(model.device), use_cache=False).logits
        for at, index in enumerate(batch):
            prompt, answer = encoded[index]
            likeliest = logits[at, len(prompt) - 1 : len(prompt) + len(answer) - 1].argmax(-1).tolist()
            if likeliest != answer:
                pairs = enumerate(zip(likeliest, answer, strict=True))
                wrong = next(place for place, (one, other) in pairs if one != other)
                text = tokenizer.decode(answer[:wrong])
                astray[index] = next((f for f in ("quantity", "product") if f'"{f}"' in text), "action")
    half = len(rows) // 2
    shares = {
        "exact": astray.count("") / len(rows),
        "exact_novel": astray[:half].count("") / max(1, half),
        **{f"astray_{field}": astray.count(field) / len(rows) for field in ("action", "product", "quantity")},
    }
    return {name: round(share, 4) for name, share in shares.items()}
