"""What a million messages cost: machine time, energy and API tokens, by the prices under `cost` in params.yaml."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cartlm.errors import UserError
from cartlm.metrics import rounded
from cartlm.recommend.config import ApiPrice, Cost, Priced
from cartlm.recommend.measured import ACCURACY, RANDOM, interval, timings
from cartlm.report import cells, hardware
from cartlm.report.cells import Interval
from cartlm.report.summary import read_optional

MILLION = 10**6
HOURS = 8766 / 12  # a month
JOULES = 3.6e6  # a kWh
FREE = "exact match, free"
"""Heading of the accuracy: free decoding's, as the speed is."""


@dataclass(frozen=True)
class Served:
    """A variant on one machine; euros are of a million messages."""

    name: str
    rate: Interval  # messages/s
    accuracy: Interval | None
    machine_eur: Interval | None  # of a machine that is busy all the time
    energy_eur: float | None  # above idle

    @property
    def capacity(self) -> float:
        """Messages that one machine answers in a month at most."""
        return self.rate.value * 3600 * HOURS

    @property
    def eur(self) -> Interval | None:
        """All that is priced."""
        if self.machine_eur is None:
            return None if self.energy_eur is None else Interval(*[self.energy_eur] * 3)
        return Interval(*(limit + (self.energy_eur or 0.0) for limit in self.machine_eur))


@dataclass(frozen=True)
class Api:
    """A model behind an API; tokens are of one message, euros of a million."""

    name: str
    prompt_tokens: float
    answer_tokens: float
    counted_by: str
    accuracy: Interval | None
    eur: float


@dataclass(frozen=True)
class Bill:
    """All costs on one target."""

    target: str
    machine: str
    prices: Cost
    served: Sequence[Served]
    apis: Sequence[Api]
    messages: int | None  # a month
    energy: str  # where the joules are from, or why there are none

    def break_even(self, variant: Served, api: Api) -> float | None:
        """Messages a month from which a machine that runs all month costs less than the API.

        None where it never does: not even a machine that is busy all the time.
        """
        if self.prices.machine_hour is None:
            return None
        saved = (api.eur - (variant.energy_eur or 0.0)) / MILLION
        volume = self.prices.machine_hour.eur * HOURS / saved if saved > 0 else math.inf
        return volume if volume <= variant.capacity else None

    def month(self, variant: Served) -> tuple[int, float] | None:
        """Machines that run all month for `messages`, and euros; None without a price or a number of messages."""
        if self.messages is None or self.prices.machine_hour is None:
            return None
        machines = math.ceil(self.messages / variant.capacity)
        energy = self.messages * (variant.energy_eur or 0.0) / MILLION
        return machines, machines * HOURS * self.prices.machine_hour.eur + energy


def bill(metrics: Path, variants: Sequence[str], target: str, prices: Cost, messages: int | None) -> Bill:
    """The costs of all that was measured on a target, `variants` first.

    Raises UserError without any price, for an unknown target, and where nothing can be priced.
    """
    if prices.machine_hour is None and prices.kwh is None and not prices.api:
        way = "set cost.machine_hour, cost.kwh or an entry of cost.api: docs/howto/choose-a-variant.md shows how"
        raise UserError("params.yaml has no price under cost", way)
    files = timings(metrics, target)
    names = [*(each for each in variants if each in files), *(each for each in files if each not in variants)]
    served = [
        _served(name, files[name], prices, _accuracy(metrics / "eval" / f"{name}.json", target))
        for name in names
        if "queries_per_s" in files[name]["speed"]
    ]
    energy: Mapping[str, Any] = next((file["energy"] for file in files.values() if "energy" in file), {})
    details = read_optional(metrics / "bench" / target / "machine.json").get("details", {})
    kind = "gpu" if any("gpu" in file for file in files.values()) else "cpu"
    absent = energy.get("energy_absent") or details.get(f"energy_{kind}_absent") or "it was not measured"
    apis = [_api(metrics, name, price, files) for name, price in prices.api.items()]
    if not apis and all(each.eur is None for each in served):
        what = f"cost.kwh alone prices nothing: no energy on {target}, {absent}"
        raise UserError(what, "set cost.machine_hour too")
    source = str(energy.get("energy_source") or absent)
    return Bill(target, hardware.machine_names(files), prices, served, apis, messages, source)


def _accuracy(path: Path, target: str) -> Interval | None:
    """Free decoding's, as the speed is; a target of random weights has none, though its variants have the same names."""
    return None if target.startswith(RANDOM) else interval(read_optional(path).get("free", {}), ACCURACY)


def _served(name: str, file: Mapping[str, Any], prices: Cost, accuracy: Interval | None) -> Served:
    rate = interval(file["speed"], "queries_per_s")
    assert rate is not None, "the caller looked"
    joules = file.get("energy", {}).get("energy_j_per_query")
    busy = energy = None
    if prices.machine_hour:
        hour = prices.machine_hour.eur
        busy = Interval(*(hour * MILLION / (3600 * each) for each in (rate.value, rate.high, rate.low)))
    if prices.kwh and joules is not None:
        energy = joules * MILLION / JOULES * prices.kwh.eur
    return Served(name, rate, accuracy, busy, energy)


def _api(metrics: Path, name: str, price: ApiPrice, files: Mapping[str, Mapping[str, Any]]) -> Api:
    """Tokens as the server counted them where it was asked (make remote), else as our own tokenizer counts them."""
    asked = read_optional(metrics / "remote" / f"{name}.json")
    remote = asked.get("remote", {})
    if {"requests", "prompt_tokens", "completion_tokens"} <= remote.keys():
        tokens = [remote[key] / remote["requests"] for key in ("prompt_tokens", "completion_tokens")]
        counted_by = f"the server, in {remote['requests']:,} requests"
    else:
        keys = ("prompt_tokens_per_query", "decoded_tokens_per_query")
        tokenized = [each for each, file in files.items() if all(key in file["speed"] for key in keys)]
        if not tokenized:
            what = f"nothing says how many tokens a message has for cost.api.{name}"
            raise UserError(what, f"name a server {name} in section remote, then make remote")
        first = "f16" if "f16" in tokenized else tokenized[0]
        tokens = [files[first]["speed"][key] for key in keys]
        counted_by = f"the tokenizer of our model ({first}), not its own, and without an instruction: make remote counts them"
    prompt, answer = tokens
    eur = prompt * price.input_eur_per_million_tokens + answer * price.output_eur_per_million_tokens
    return Api(name, prompt, answer, counted_by, interval(asked.get("free", {}), ACCURACY), eur)


def text(bill: Bill) -> str:
    """Tables and notes for people."""
    keys = ["variant", FREE, "queries_per_s", "EUR per million", "of these energy", "most a month"]
    keys += ["machines", "EUR a month"] if bill.messages is not None else []
    rows = [_row(bill, each) for each in bill.served] + [_api_row(bill, each) for each in bill.apis]
    used = [key for key in keys if key == "variant" or any(row.get(key) not in (None, "") for row in rows)]
    return "\n".join([cells.aligned(used, rows), "", *notes(bill)])


def _row(bill: Bill, variant: Served) -> dict[str, Any]:
    row: dict[str, Any] = {"variant": variant.name, "most a month": _digits(variant.capacity)}
    for key, value in {
        FREE: variant.accuracy,
        "queries_per_s": variant.rate,
        "EUR per million": variant.eur,
    }.items():
        row |= value.row(key) if value else {}
    row["of these energy"] = variant.energy_eur
    if month := bill.month(variant):
        row |= {"machines": f"{month[0]:,}", "EUR a month": _digits(month[1])}
    return row


def _api_row(bill: Bill, api: Api) -> dict[str, Any]:
    row: dict[str, Any] = {"variant": api.name, "EUR per million": api.eur}
    row |= api.accuracy.row(FREE) if api.accuracy else {}
    return row | (
        {"EUR a month": _digits(bill.messages * api.eur / MILLION)} if bill.messages is not None else {}
    )


def _digits(value: float) -> str:
    """Three significant digits, zeros behind them."""
    return cells.number(float(f"{value:.3g}"))


def notes(bill: Bill) -> list[str]:
    """What the figures rest on; each price with where and when it was read."""
    prices = bill.prices
    found = [
        f"Messages a second: one process, all cores busy, one query at a time, free decoding; {bill.target}, {bill.machine}."
    ]
    if bill.target.startswith(RANDOM):
        found.append("Random weights: this architecture's speed, not its accuracy.")
    if prices.machine_hour:
        found.append(
            "EUR per million is of a machine that is busy all the time; most a month is what one machine answers that runs all month "
            f"({HOURS:g} hours)."
        )
        found.append(f"A machine's hour: {_priced(prices.machine_hour)}.")
        found += [_break_even(bill, api) for api in bill.apis]
    if prices.kwh:
        found.append(f"A kWh: {_priced(prices.kwh)}. Energy above idle: {bill.energy}.")
    for api in bill.apis:
        price = prices.api[api.name]
        found.append(
            f"{api.name}: {cells.number(api.prompt_tokens)} prompt and {cells.number(api.answer_tokens)} answer tokens per message, counted "
            f"by {api.counted_by}; {price.input_eur_per_million_tokens:g} and {price.output_eur_per_million_tokens:g} EUR per million "
            f"tokens ({price.source}, {price.date})."
        )
    missing = {"cost.machine_hour": prices.machine_hour is None, "cost.api": not prices.api}
    if unset := " and ".join(key for key, is_missing in missing.items() if is_missing):
        found.append(f"No break-even without {unset} in params.yaml.")
    return found


def _break_even(bill: Bill, api: Api) -> str:
    """From how many messages a month one machine costs less than an API; only energy makes that differ between variants."""
    volumes = {each.name: bill.break_even(each, api) for each in bill.served}
    known = [volume for volume in volumes.values() if volume is not None]
    never = ", ".join(name for name, volume in volumes.items() if volume is None)
    if not known:
        return f"Break-even with {api.name}: never, even a busy machine costs more."
    span = " to ".join(dict.fromkeys((_digits(min(known)), _digits(max(known)))))
    text = (
        f"Break-even with {api.name}: from {span} messages a month one machine that runs all month costs less"
    )
    return text + (f"; never with {never}, where even a busy machine costs more." if never else ".")


def _priced(price: Priced) -> str:
    return f"{price.eur:g} EUR ({price.source}, {price.date})"


def as_json(bill: Bill) -> dict[str, Any]:
    """All of it for programs; what is not priced is absent, and a break-even of null is never."""
    served = {}
    for each in bill.served:
        row: dict[str, Any] = {**each.rate.row("queries_per_s"), "messages_a_month_at_most": each.capacity}
        row |= each.eur.row("eur_per_million_messages") if each.eur else {}
        row |= each.accuracy.row(ACCURACY) if each.accuracy else {}
        row |= {} if each.energy_eur is None else {"energy_eur_per_million_messages": each.energy_eur}
        if bill.prices.machine_hour and bill.apis:
            row["break_even_messages_a_month"] = {api.name: bill.break_even(each, api) for api in bill.apis}
        if month := bill.month(each):
            row |= {"machines": month[0], "eur_a_month": month[1]}
        served[each.name] = row
    apis = {
        api.name: {
            "prompt_tokens": api.prompt_tokens,
            "answer_tokens": api.answer_tokens,
            "counted_by": api.counted_by,
            "eur_per_million_messages": api.eur,
            **(api.accuracy.row(ACCURACY) if api.accuracy else {}),
            **({"eur_a_month": bill.messages * api.eur / MILLION} if bill.messages is not None else {}),
        }
        for api in bill.apis
    }
    about: dict[str, Any] = {
        "target": bill.target,
        "machine": bill.machine,
        "decoding": "free",
        "prices": bill.prices.model_dump(),
    }
    about |= {} if bill.messages is None else {"messages_a_month": bill.messages}
    return {**about, "variants": _rounded(served), "apis": _rounded(apis), "notes": notes(bill)}


def _rounded(value: Any) -> Any:
    """The same with its floats as metrics files have them."""
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return rounded(value) if isinstance(value, float) else value
