"""How far the base model is: the task itself, asked for by the format header, on rows it never saw."""

from __future__ import annotations

import random
from typing import Any

from cartlm.data import rules
from cartlm.data.rows import Row
from cartlm.intent import read
from cartlm.params import Data
from cartlm.pretraining.formats import TARGET_HEADER


def probe_rows(data: Data, count: int, seed: int) -> list[Row]:
    """`count` rows, half of them of held-out products and frames; drawn apart from the test rows."""
    return rules.rows("probe", count, count // 2, data, random.Random(f"probe/{seed}"))


def measure(
    model: Any, tokenizer: Any, rows: list[Row], separator: str, header: str = TARGET_HEADER
) -> dict[str, float]:
    """Exact match in all, on the first half (novel) and per field, greedy, as shares of the rows."""
    import torch

    ids = [
        [
            tokenizer.bos_token_id,
            *tokenizer(header + row.prompt + separator, add_special_tokens=False)["input_ids"],
        ]
        for row in rows
    ]
    order = sorted(range(len(rows)), key=lambda index: len(ids[index]))
    texts = [""] * len(rows)
    for start in range(0, len(rows), 30):
        part = order[start : start + 30]
        longest = max(len(ids[index]) for index in part)
        padded = [[tokenizer.pad_token_id] * (longest - len(ids[i])) + ids[i] for i in part]
        mask = [[0] * (longest - len(ids[i])) + [1] * len(ids[i]) for i in part]
        with torch.no_grad():
            out = model.generate(
                input_ids=torch.tensor(padded, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                max_new_tokens=72,
                do_sample=False,
            )
        for index, answer in zip(part, out[:, longest:].tolist(), strict=True):
            texts[index] = tokenizer.decode(answer, skip_special_tokens=True)
    exact = [text == row.completion for text, row in zip(texts, rows, strict=True)]
    fields = {"action": 0, "product": 0, "quantity": 0}
    for text, row in zip(texts, rows, strict=True):
        try:
            intent = read(text)
        except ValueError:
            continue
        for field in fields:
            fields[field] += getattr(intent, field) == getattr(row.intent, field)
    half = len(rows) // 2
    return {
        "exact": round(sum(exact) / len(rows), 4),
        "exact_novel": round(sum(exact[:half]) / max(1, half), 4),
        **{field: round(count / len(rows), 4) for field, count in fields.items()},
    }
