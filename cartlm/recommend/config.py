"""Params of `cartlm cost`: prices that somebody looked up, with where and when."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from cartlm.config import Name, Positive, Price, Section


def _as_text(value: Any) -> Any:
    """YAML reads a bare 2026-11-30 as a date."""
    return value.isoformat() if isinstance(value, date) else value


def _iso(value: str) -> str:
    try:
        date.fromisoformat(value)
    except ValueError:
        raise ValueError("not a day, such as 2026-11-30") from None
    return value


Day = Annotated[str, BeforeValidator(_as_text), AfterValidator(_iso)]
Source = Annotated[str, Field(min_length=1)]


class Priced(Section):
    """One price."""

    eur: Positive
    source: Source  # where it was read
    date: Day  # when


class ApiPrice(Section):
    """The list price of a model behind an API."""

    input_eur_per_million_tokens: Price
    output_eur_per_million_tokens: Price
    source: Source
    date: Day


class Cost(Section):
    """No stage depends on these: `cartlm cost` computes from finished numbers."""

    machine_hour: Priced | None  # of the machine that measured the target, idle power included
    kwh: Priced | None  # null for a rented machine: its hour includes electricity
    api: dict[Name, ApiPrice]  # named as in section remote, its tokens are those that the server counted
