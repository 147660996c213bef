"""Merged model (transformers) against its F16 GGUF (llama.cpp): the same ids in, the same answers out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cartlm.data.rows import Row
from cartlm.engines.answer import Answer
from cartlm.errors import UserError
from cartlm.evaluation import same
from cartlm.prompt import PromptBuilder
from cartlm.statistics import wilson


@dataclass(frozen=True)
class Divergence:
    """A row on which the two answer differently."""

    id: str
    merged: str
    f16: str


@dataclass(frozen=True)
class Agreement:
    """Share of rows answered alike (same text, ended alike) with its Wilson 95 % interval."""

    n: int
    divergences: list[Divergence]

    @property
    def share(self) -> float:
        return 1 - len(self.divergences) / self.n

    def section(self) -> dict[str, int | float]:
        """The values of metrics/parity.json."""
        low, high = wilson(self.n - len(self.divergences), self.n)
        return {"agreement": self.share, "agreement_low": low, "agreement_high": high, "n": self.n}


def shared_ids(rows: Sequence[Row], merged: PromptBuilder, f16: PromptBuilder) -> list[list[int]]:
    """Each row's input ids, alike by the merged model's tokenizer and the GGUF's own, with exactly one BOS.

    The completion's ids are compared too, as training used them. Raises UserError naming the first row that
    differs.
    """
    hint = (
        "see the base model's tokenizer files; the GGUF converter reads tokenizer.model before tokenizer.json"
    )
    if (merged.bos_id, merged.eos_id) != (f16.bos_id, f16.eos_id):
        raise UserError(
            f"merged has bos, eos {merged.bos_id}, {merged.eos_id}, its GGUF {f16.bos_id}, {f16.eos_id}", hint
        )
    found = []
    for row in rows:
        ids, theirs = merged.prompt_ids(row.prompt), f16.prompt_ids(row.prompt)
        if ids != theirs or merged.completion_ids(row.completion) != f16.completion_ids(row.completion):
            at = next(
                (place for place, pair in enumerate(zip(ids, theirs, strict=False)) if len(set(pair)) > 1), -1
            )
            where = f"from token {at} of the prompt" if at >= 0 else "in length or in the completion"
            raise UserError(f"row {row.id}: merged and GGUF tokenize it differently {where}", hint)
        if ids.count(merged.bos_id) != 1 or ids[0] != merged.bos_id:
            raise UserError(
                f"row {row.id}: its input has {ids.count(merged.bos_id)} BOS, not exactly one", hint
            )
        found.append(ids)
    return found


def compare(rows: Sequence[Row], merged: Sequence[Answer], f16: Sequence[Answer]) -> Agreement:
    """Where the two sides answer `rows` differently."""
    return Agreement(
        len(rows),
        [
            Divergence(row.id, one.text, other.text)
            for row, one, other in zip(rows, merged, f16, strict=True)
            if not same(one, other)
        ],
    )
