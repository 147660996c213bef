"""What a million messages cost, on round prices that are nobody's; the prices' params."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cartlm.errors import UserError
from cartlm.metrics import write_metrics
from cartlm.recommend import cost
from cartlm.recommend.config import Cost
from tests.unit.recommend import shop

NAMES = [*shop.VARIANTS, "merged"]
READ = {"source": "a test's price list", "date": "2026-11-30"}
API = {"input_eur_per_million_tokens": 2.0, "output_eur_per_million_tokens": 8.0, **READ}


def prices(hour: float | None = 0.36, kwh: float | None = None, **api: dict[str, Any]) -> Cost:
    priced = {
        name: None if eur is None else {"eur": eur, **READ}
        for name, eur in (("machine_hour", hour), ("kwh", kwh))
    }
    return Cost.model_validate(
        {**priced, "api": {name.replace("_", "-"): each for name, each in api.items()}}
    )


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    return shop.write(tmp_path)


def bill(metrics: Path, priced: Cost, messages: int | None = None, target: str = "cpu") -> cost.Bill:
    return cost.bill(metrics, NAMES, target, priced, messages)


def of(found: cost.Bill, name: str) -> cost.Served:
    return next(each for each in found.served if each.name == name)


def test_a_million_messages_by_the_machine_s_hour(metrics: Path) -> None:
    """q2_k answers 20 a second: a million take 50,000 s, 13.9 hours, at 0.36 EUR 5 EUR."""
    found = bill(metrics, prices())
    assert of(found, "q2_k").machine_eur == pytest.approx((5.0, 5 / 1.1, 5 / 0.9)), "slower is dearer"
    assert of(found, "q2_k").eur == of(found, "q2_k").machine_eur
    assert [each.name for each in found.served] == [*shop.VARIANTS], "merged was not measured"


def test_energy_is_added(metrics: Path) -> None:
    """0.5 J a message: a million are 0.139 kWh, at 0.36 EUR 0.05 EUR."""
    q2_k = of(bill(metrics, prices(kwh=0.36)), "q2_k")
    assert q2_k.energy_eur == pytest.approx(0.05)
    assert q2_k.eur.value == pytest.approx(5.05)  # type: ignore[union-attr]
    alone = of(bill(metrics, prices(hour=None, kwh=0.36)), "q2_k")
    assert alone.eur.value == pytest.approx(0.05)  # type: ignore[union-attr]


def test_an_api_by_tokens_and_its_break_even(metrics: Path) -> None:
    """100 and 25 tokens a message: 200 + 200 EUR a million. The machine's month is 730.5 x 0.36 = 262.98 EUR."""
    found = bill(metrics, prices(gpt=API))
    (api,) = found.apis
    assert api.eur == pytest.approx(400.0)
    assert "not its own" in api.counted_by
    assert found.break_even(of(found, "q2_k"), api) == pytest.approx(262.98 / 400e-6)
    energy = bill(metrics, prices(kwh=0.36, gpt=API))
    assert energy.break_even(of(energy, "q2_k"), api) == pytest.approx(262.98 / (400e-6 - 0.05e-6))


def test_a_machine_that_never_costs_less(metrics: Path) -> None:
    """At 36 EUR an hour q2_k's million costs 500 EUR, the API's 400; baseline's 20."""
    found = bill(metrics, prices(hour=36.0, gpt=API))
    (api,) = found.apis
    assert found.break_even(of(found, "q2_k"), api) is None
    assert found.break_even(of(found, "baseline"), api) == pytest.approx(36 * 730.5 / 400e-6)
    told = cost.text(found)
    assert (
        "Break-even with gpt: from 65,700,000 messages a month one machine that runs all month costs less; never with f16, q8_0, "
        in told
    )
    assert "q2_k, where even a busy machine costs more." in told
    assert "baseline" not in told.split("never with")[1].splitlines()[0]
    dear = cost.text(bill(metrics, prices(hour=3600.0, gpt=API)))
    assert "Break-even with gpt: never, even a busy machine costs more." in dear


def test_break_even_is_said_once(metrics: Path) -> None:
    """Without energy it depends on prices alone; 36 EUR a kWh of 0.5 to 1 J make 5 to 10 EUR a million."""
    told = cost.text(bill(metrics, prices(gpt=API)))
    assert told.count("657,000") == 1
    assert told.splitlines()[0].split("  ")[0] == "variant"
    assert "exact match, free" in told.splitlines()[0]
    assert "Break-even with gpt: from 658,000 to 674,000 messages" in cost.text(
        bill(metrics, prices(kwh=36.0, gpt=API))
    )
    assert cost.as_json(bill(metrics, prices(gpt=API)))["decoding"] == "free"


def test_tokens_are_the_server_s_where_it_was_asked(metrics: Path) -> None:
    remote = {"requests": 1000, "prompt_tokens": 60_000, "completion_tokens": 20_000}
    write_metrics(metrics / "remote/gpt-4-1.json", {"free": shop.accuracy(190), "remote": remote})
    found = bill(metrics, prices(gpt_4_1=API))
    (api,) = found.apis
    assert (api.prompt_tokens, api.answer_tokens, api.eur) == (60.0, 20.0, pytest.approx(280.0))
    assert api.counted_by == "the server, in 1,000 requests"
    assert "0.950" in next(line for line in cost.text(found).splitlines() if line.startswith("gpt-4-1"))


def test_a_month(metrics: Path) -> None:
    """q2_k answers 52.6 million a month at most: 100 million take two machines."""
    found = bill(metrics, prices(gpt=API), 100_000_000)
    assert found.month(of(found, "q2_k")) == (2, pytest.approx(2 * 262.98))
    written = json.loads(json.dumps(cost.as_json(found), allow_nan=False))
    assert written["variants"]["q2_k"]["machines"] == 2
    assert written["variants"]["q2_k"]["eur_a_month"] == 526.0
    assert written["apis"]["gpt"]["eur_a_month"] == 40_000.0
    assert written["prices"]["machine_hour"] == {"eur": 0.36, **READ}


def test_every_price_is_shown_with_source_and_date(metrics: Path) -> None:
    told = cost.text(bill(metrics, prices(kwh=0.3, gpt=API)))
    assert told.count("(a test's price list, 2026-11-30)") == 3
    assert "measured: a toy meter" in told
    assert "one process, all cores busy, one query at a time, free decoding; cpu, a toy CPU x2" in told


def test_without_prices_it_says_which(metrics: Path) -> None:
    with pytest.raises(UserError, match=r"set cost\.machine_hour, cost\.kwh or an entry of cost\.api"):
        bill(metrics, prices(hour=None))


def test_a_kwh_alone_without_joules_prices_nothing(metrics: Path) -> None:
    for path in (metrics / "bench/cpu").glob("*.json"):
        values = json.loads(path.read_text())
        write_metrics(path, {**values, "energy": {"energy_absent": "no RAPL here"}})
    with pytest.raises(UserError, match="no energy on cpu, no RAPL here"):
        bill(metrics, prices(hour=None, kwh=0.3))
    assert "no RAPL here" in cost.text(bill(metrics, prices(kwh=0.3)))


def test_an_architecture_has_speeds_and_no_accuracy(metrics: Path) -> None:
    """Its variants have the names of ours."""
    (metrics / "bench/cpu").rename(metrics / "bench/cpu-llama-9")
    found = bill(metrics, prices(), target="cpu-llama-9")
    assert {each.accuracy for each in found.served} == {None}
    assert "Random weights" in cost.text(found)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"machine_hour": {"eur": 0.1}}, "source"), ({"machine_hour": {"eur": 0.0, **READ}}, "eur"),
        ({"machine_hour": 0.1}, "machine_hour"), ({"kwh": {"eur": float("nan"), **READ}}, "eur"),
        ({"kwh": {"eur": 0.1, **READ, "date": "30.11.2026"}}, "not a day, such as 2026-11-30"),
        ({"kwh": {"eur": 0.1, **READ, "source": ""}}, "source"), ({"api": {"gpt": {**API, "eur": 1.0}}}, "eur"),
        ({"api": {"gpt-4.1": API}}, "gpt-4.1"), ({"api": {"gpt": {**API, "input_eur_per_million_tokens": -1.0}}}, "input_eur"),
    ],
)  # fmt: skip
def test_a_price_without_where_and_when_it_was_read_is_refused(section: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Cost.model_validate({"machine_hour": None, "kwh": None, "api": {}, **section})
