"""Commands that choose among what was measured: `recommend` and `cost`; `cartlm.cli` adds them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import click

from cartlm import command
from cartlm.recommend import answer, choice, cost, measured
from cartlm.recommend.measured import ACCURACY, P95, RSS, SIZE

METRICS = Path("metrics")
TARGET = click.option(
    "--target",
    default="cpu",
    show_default=True,
    help="A folder of metrics/bench; cpu is the one machine that the output names.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")


class Above0(click.ParamType):
    """A finite number above 0, and at most `most`."""

    name = "number"

    def __init__(self, most: float = math.inf) -> None:
        self.most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not (0 < number <= self.most and math.isfinite(number)):
            limit = f", at most {self.most:g}" if math.isfinite(self.most) else ""
            self.fail(f"{value} is not a number above 0{limit}", param, ctx)
        return number


@click.command(cls=command.Guard)
@TARGET
@click.option("--min-accuracy", type=Above0(1), help="Minimum exact match, such as 0.8.")
@click.option("--max-latency-ms-p95", type=Above0(), help="Maximum 95th-percentile latency, in ms.")
@click.option("--max-rss-mib", type=Above0(), help="Maximum peak memory (RSS), in MiB; 1 GB is 954 MiB.")
@click.option("--max-size-mib", type=Above0(), help="Maximum size of the model file, in MiB.")
@click.option(
    "--decoding", type=click.Choice(["free", "constrained", "ensemble"]),
    help="Decoding mode whose accuracy counts.  [default: constrained, if it was evaluated]",
)  # fmt: skip
@click.option(
    "--rows", type=click.Choice(["test", "natural"]), default="test", show_default=True,
    help="Accuracy on the test rows, or on messages typed by people.",
)  # fmt: skip
@click.option(
    "--exclude",
    multiple=True,
    metavar="VARIANT",
    help="Leave out this variant, such as baseline; repeatable.",
)
@JSON
def recommend(
    target: str, min_accuracy: float | None, max_latency_ms_p95: float | None, max_rss_mib: float | None,
    max_size_mib: float | None, decoding: measured.Decoding | None, rows: measured.Rows, exclude: tuple[str, ...],
    as_json: bool,
) -> None:  # fmt: skip
    """Which variant to ship: the best within bounds, why, and the command that runs it; exit code 2 if none fits.

    Without bounds: the Pareto front of accuracy, latency, memory and size, and its knee. It measures nothing and reads metrics/.
    """
    given = {ACCURACY: min_accuracy, P95: max_latency_ms_p95, RSS: max_rss_mib, SIZE: max_size_mib}
    bounds = {key: limit for key, limit in given.items() if limit is not None}
    names = command.params().variants.names
    found = measured.without(measured.read(METRICS, names, target, decoding, rows), exclude)
    best = choice.choose(found, bounds) if bounds else None
    chosen = best.winner if best else choice.knee(choice.front(found.candidates))
    others = measured.other_ways(METRICS, names, found, exclude)
    better = choice.elsewhere(found, chosen, others, bounds)
    if as_json:
        values = answer.as_json(found, best, bounds, better)
        print(json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        print(answer.choice_text(found, best, bounds, better) if best else answer.front_text(found, better))


@click.command("cost", cls=command.Guard)
@TARGET
@click.option(
    "--messages-a-month", type=click.IntRange(1), help="Also show the monthly cost of this many messages."
)
@JSON
def costs(target: str, messages_a_month: int | None, as_json: bool) -> None:
    """What a million messages cost, by the prices under `cost` in params.yaml: each variant, and models behind an API."""
    settings = command.params()
    bill = cost.bill(METRICS, settings.variants.names, target, settings.cost, messages_a_month)
    if as_json:
        print(json.dumps(cost.as_json(bill), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        print(cost.text(bill))


COMMANDS = (
    recommend,
    costs,
)
