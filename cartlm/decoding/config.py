"""Params of constrained decoding."""

from __future__ import annotations

from cartlm.config import Count, Section


class Decoding(Section):
    max_quantity: Count  # legal quantities are 1 to this
    none: bool  # "no order" is a legal answer: for a model trained with data.none above 0 alone
