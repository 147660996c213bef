"""data: training, validation, calibration and test rows, through the quality gates.

python -m stages.data [--dry-run]
"""

from __future__ import annotations

import os
from pathlib import Path

import click

from cartlm import command
from cartlm.data import card, gates, generated, hub, splits
from cartlm.data.config import Worded
from cartlm.engines import remote
from cartlm.engines.openai import Server
from cartlm.errors import UserError
from cartlm.files import write_text
from cartlm.metrics import write_metrics
from cartlm.pipeline import answer_cache
from cartlm.task import rows

RESPONSES, PUBLISHED = Path("data/responses.jsonl"), Path("data/published.jsonl")
POLL_S = 30.0  # between two looks at a batch; CARTLM_BATCH_POLL_S is for tests


@command.command
@click.option(
    "--dry-run", is_flag=True, help="With data.source openai: say what would be asked, and ask nothing."
)
def main(dry_run: bool) -> None:
    """Write data/*.jsonl and metrics/data.json; every answer of a model is kept in data/responses.jsonl."""
    settings = command.params()
    data = settings.data
    if dry_run:
        planned = data.source == "openai" and generated.estimate(data, remote.stored(RESPONSES))
        print(planned.words() if planned else f"data.source={data.source} asks no model")
        return
    published = hub.held_out(data)
    paid_for = RESPONSES.as_posix()
    if (
        answer_cache.bought(paid_for)
        and not answer_cache.here(paid_for)
        and not os.environ.get("CARTLM_FORGET_PAID")
    ):
        raise UserError(
            f"{RESPONSES} was paid for and is not here",
            "make repro fetches it from a DVC remote; CARTLM_FORGET_PAID=1 make repro goes on without it",
        )
    RESPONSES.parent.mkdir(parents=True, exist_ok=True)
    RESPONSES.touch()
    if data.source == "openai":
        maker = generated.Maker(data, asking(data.openai))
        made = maker.splits()
        about = {"wording": maker.report.metrics(maker.replies, data.openai)}
    else:
        drawn = splits.make_splits(data)
        made, about = drawn.splits, {"near_duplicates": {"refused": drawn.leaked}}
    metrics = gates.check(made, data) | about
    metrics["train"]["self_similarity"] = card.self_similarity(made["train"], data.seed)
    for name, part in made.items():
        rows.write(Path("data") / f"{name}.jsonl", part)
    rows.write(PUBLISHED, published)
    if published:
        metrics["published"] = gates.held_out_figures(published, made["train"], data.gates.near_duplicate)
    write_text(Path("docs/data.md"), card.render_card(made, metrics, data))
    write_metrics(Path("metrics/data.json"), metrics)
    command.done({name: len(part) for name, part in made.items()})


def asking(given: Worded) -> generated.Ask:
    """Answers from data/responses.jsonl or, where it lacks them, from the server; the key comes from the environment."""
    key = os.environ.get(given.api_key_env) if given.api_key_env else None
    server = Server(
        given.base_url, given.api_key_env, key, given.timeout_s, 0, given.concurrency,
        command="dvc repro data",
    )  # fmt: skip
    budget = remote.Budget(given.max_requests, given.max_total_tokens)

    if given.batch:
        poll_s = float(os.environ.get("CARTLM_BATCH_POLL_S", POLL_S))
        return lambda requests, what: remote.collect_batch(requests, server, RESPONSES, what, budget, poll_s)
    return lambda requests, what: remote.collect(requests, server, RESPONSES, what, budget, given.max_retries)


if __name__ == "__main__":
    main()
