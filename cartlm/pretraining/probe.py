"""How far the base model is: the task itself, asked for by the format header, on rows it never saw."""

from __future__ import annotations

import random
from typing import Any

from cartlm.data import rules
from cartlm.data.config import Data
from cartlm.pretraining.formats import TARGET_HEADER
from cartlm.task.rows import Row


def probe_rows(data: Data, count: int, seed: int) -> list[Row]:
    """`count` rows, half of them of held-out products and frames; drawn apart from the test rows."""
    return rules.rows("probe", count, count // 2, data, random.Random(f"probe/{seed}"))


def measure(
    model: Any, tokenizer: Any, rows: list[Row], separator: str, header: str = TARGET_HEADER
) -> dict[str, float]:
    """Shares of the rows: exact match in all and on the first half (novel), and where the other answers go astray.

    An answer is exact if each of its tokens is the likeliest one after those before it: just then greedy decoding
    gives it. One pass over the rows tells, where decoding takes one a token. `astray_<field>` counts the rows whose
    first other token stands in that field (`action`: or before it).
    """
    import torch

    from cartlm.task.prompt import from_transformers

    builder = from_transformers(tokenizer, separator)
    made = [(builder.prompt_ids(header + row.prompt), builder.completion_ids(row.completion)) for row in rows]
    order = sorted(range(len(rows)), key=lambda index: sum(map(len, made[index])))
    astray = [""] * len(rows)
    for start in range(0, len(rows), 16):
        part = order[start : start + 16]
        longest = sum(map(len, made[part[-1]]))
        ids = torch.full((len(part), longest), tokenizer.pad_token_id)
        for at, index in enumerate(part):
            whole = [*made[index][0], *made[index][1]]
            ids[at, : len(whole)] = torch.tensor(whole)
        with torch.no_grad():
            logits = model(input_ids=ids.to(model.device), use_cache=False).logits
        for at, index in enumerate(part):
            head, answer = made[index]
            likeliest = logits[at, len(head) - 1 : len(head) + len(answer) - 1].argmax(-1).tolist()
            wrong = [
                place for place, pair in enumerate(zip(likeliest, answer, strict=True)) if len(set(pair)) > 1
            ]
            if wrong:
                text = tokenizer.decode(answer[: wrong[0]])
                astray[index] = next((f for f in ("quantity", "product") if f'"{f}"' in text), "action")
    half = len(rows) // 2
    exact = [not field for field in astray]
    return {
        "exact": round(sum(exact) / len(rows), 4),
        "exact_novel": round(sum(exact[:half]) / max(1, half), 4),
        **{
            f"astray_{field}": round(astray.count(field) / len(rows), 4)
            for field in ("action", "product", "quantity")
        },
    }
