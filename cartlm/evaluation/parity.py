"""Parity of the merged model (transformers) and its F16 GGUF (llama.cpp): the same ids in, the same answers out."""

from __future__ import annotations

from cartlm.engines.answer import Agreement
from cartlm.errors import UserError
from cartlm.evaluation.statistics import wilson


def parity_section(found: Agreement) -> dict[str, int | float]:
    """The values of metrics/parity.json: the share of rows answered alike, with its Wilson 95 % interval."""
    low, high = wilson(found.n - len(found.divergences), found.n)
    return {"agreement": found.share, "agreement_low": low, "agreement_high": high, "n": found.n}


def check_parity(found: Agreement, least: float) -> None:
    """Raise UserError where merged and F16 agree on less than the share `least`."""
    if found.share < least:
        raise UserError(
            f"merged and f16 answer {found.share:.4f} of {found.n} rows alike, less than {least}",
            "see runs/parity.json; the tokenizer, the converter or the merge lost something",
        )
