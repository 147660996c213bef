"""eval-remote: the test rows answered by a server with the OpenAI API, scored as every variant is.

python -m stages.evaluate_remote NAME
"""

from __future__ import annotations

import os
from pathlib import Path

import click

from cartlm import command
from cartlm.engines import remote
from cartlm.engines.openai import Server
from cartlm.errors import UserError
from cartlm.evaluation import scoring
from cartlm.metrics import Outcome, answer_hash, write_metrics, write_outcomes
from cartlm.task import rows as row_files
from cartlm.text import help_to_read

TEST, ANSWERS = Path("data/test.jsonl"), Path("data/answers")
METRICS, OUTCOMES = Path("metrics/remote"), Path("metrics/remote_outcomes")


@command.command
@click.argument("name")
def main(name: str) -> None:
    """Write metrics/remote/NAME.json and metrics/remote_outcomes/NAME.csv; answers stay in data/answers/NAME.jsonl."""
    settings = command.params()
    if name not in settings.remote:
        known = ", ".join(settings.remote) or "none"
        raise UserError(
            f"there is no {name!r} under remote in params.yaml; there are: {known}", "make remote"
        )
    given = settings.remote[name]
    rows = row_files.read(TEST)
    asked = [
        remote.request(
            row, base_url=given.base_url, model=given.model, api=given.api, instruction=given.instruction,
            separator=settings.prompt.separator, max_new_tokens=given.max_new_tokens,
            temperature=given.temperature, token_limit=given.token_limit,
        )
        for row in rows
    ]  # fmt: skip
    key = os.environ.get(given.api_key_env) if given.api_key_env else None
    server = Server(
        given.base_url, given.api_key_env, key, given.timeout_s, given.max_retries, given.concurrency
    )
    replies = remote.collect(asked, server, ANSWERS / f"{name}.jsonl", name)

    answers = [replies[one.key].answer() for one in asked]
    scores = [scoring.score(row, answer) for row, answer in zip(rows, answers, strict=True)]
    free = scoring.summarize(scores)
    unread = ("unparseable", "never_stopped")
    odd = [answer for answer, one in zip(answers, scores, strict=True) if one.outcome in unread]
    hint = f"ask in remote.{name}.instruction for the JSON object alone, without a code fence"
    if given.api == "completions":
        hint = f"set remote.{name}.api to chat, unless the model is fine-tuned on our prompt"
    if 2 * sum(answer.finish_reason == "length" for answer in odd) > len(odd):
        hint = f"raise remote.{name}.max_new_tokens"
    if line := help_to_read([answer.text for answer in odd], len(rows), hint):
        command.progress(f"{name}: {line}")
    distinct = list(replies.values())
    prices = (given.input_price, given.output_price, given.price_source)
    sections = {
        "free": free,
        "free_slices": scoring.summarize_slices(rows, scores),
        "remote": remote.measured(distinct, *prices),
        "engine": remote.engine(distinct, given.api, given.model),
    }
    outcomes = [
        Outcome(row.id, one.outcome, answer_hash(answer.text))
        for row, answer, one in zip(rows, answers, scores, strict=True)
    ]
    write_outcomes(OUTCOMES / f"{name}.csv", outcomes)
    write_metrics(METRICS / f"{name}.json", sections)
    command.done({"remote": name, "n": len(rows), "exact_match": round(free["exact_match"], 4)})


if __name__ == "__main__":
    main()
