"""eval-remote: the test rows answered by a server with the OpenAI API, scored as every variant is.

python -m stages.evaluate_remote NAME
"""

from __future__ import annotations

import os
from pathlib import Path

import click

from cartlm import command
from cartlm.engines.replies import Asking, collect_replies
from cartlm.errors import UserError
from cartlm.evaluation import remote, scoring
from cartlm.evaluation.answers import write_results
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
    server = settings.remote[name]
    rows = row_files.read(TEST)
    requests = [remote.row_request(row, server, settings.prompt.separator) for row in rows]
    key = os.environ.get(server.api_key_env) if server.api_key_env else None
    replies = collect_replies(requests, Asking(server, key, ANSWERS / f"{name}.jsonl", label=name))

    answers = [replies[request.key].answer() for request in requests]
    scores = [scoring.score(row, answer) for row, answer in zip(rows, answers, strict=True)]
    unread = [
        answer
        for answer, score in zip(answers, scores, strict=True)
        if score.outcome in ("unparseable", "truncated")
    ]
    hint = f"ask in remote.{name}.instruction for the JSON object alone, without a code fence"
    if server.api == "completions":
        hint = f"set remote.{name}.api to chat, unless the model is fine-tuned on our prompt"
    if 2 * sum(answer.finish_reason == "length" for answer in unread) > len(unread):
        hint = f"raise remote.{name}.max_new_tokens"
    if line := help_to_read([answer.text for answer in unread], len(rows), hint):
        command.progress(f"{name}: {line}")
    distinct = list(replies.values())
    sections = {
        "remote": remote.remote_section(distinct, server),
        "engine": remote.engine_section(distinct, server),
    }
    metrics, outcomes = METRICS / f"{name}.json", OUTCOMES / f"{name}.csv"
    command.done({"remote": name, **write_results(metrics, outcomes, rows, answers, scores, sections)})


if __name__ == "__main__":
    main()
