"""data: training, validation, calibration and test rows, through the quality gates.

python -m stages.data [--dry-run]
"""

from __future__ import annotations

import os
from pathlib import Path

import click

from cartlm import command
from cartlm.data import card, files, gates, generated, hub, no_orders, offline
from cartlm.data.wording_model import ask_server
from cartlm.engines.replies import read_replies
from cartlm.errors import UserError
from cartlm.files import write_text
from cartlm.metrics import write_metrics
from cartlm.pipeline import dvc_remote
from cartlm.task import rows

RESPONSES, PUBLISHED, NONE = (Path(f"data/{name}.jsonl") for name in ("responses", "published", "none"))
POLL_S = float(os.environ.get("CARTLM_BATCH_POLL_S", "30"))  # between two looks at a batch


@command.command
@click.option(
    "--dry-run", is_flag=True, help="With data.source openai: print what would be asked, ask nothing."
)
def main(dry_run: bool) -> None:
    """Write data/*.jsonl and metrics/data.json; data/responses.jsonl keeps every answer of a model."""
    data = command.params().data
    if dry_run:
        no_model = f"data.source={data.source} asks no model"
        print(generated.estimate(data, read_replies(RESPONSES)) if data.source == "openai" else no_model)
        return
    published = hub.held_out(data)
    if dvc_remote.paid_and_missing(RESPONSES.as_posix()) and not os.environ.get("CARTLM_FORGET_PAID"):
        raise UserError(
            f"{RESPONSES} was paid for and is missing",
            "make repro fetches it from a DVC remote; CARTLM_FORGET_PAID=1 make repro goes on without it",
        )
    RESPONSES.parent.mkdir(parents=True, exist_ok=True)
    RESPONSES.touch()
    if data.source == "openai":
        generator = generated.Generator(data, ask_server(data.openai, RESPONSES, POLL_S))
        parts = generator.splits()
        about = {"wording": generator.model.metrics()}
    else:
        sources = {"hub": hub.splits, "file": files.splits, "rules": offline.splits}
        drawn = sources[data.source](data)
        parts, about = drawn.splits, {"near_duplicates": {"refused": drawn.leaked}}
    metrics = gates.check(parts, data) | about
    if digest := files.source_digest(data):
        metrics["source"] = {"sha256": digest}  # `make repro` looks whether it is still this one
    metrics["train"]["self_similarity"] = card.self_similarity(parts["train"], data.seed)
    others, figures = no_orders.splits(data)
    metrics |= {"none": figures} if figures else {}
    for name, part in parts.items():
        mixed = no_orders.mixed(part, others.get(name, []), f"{data.seed}/none/{name}/order")
        rows.write(Path("data") / f"{name}.jsonl", mixed)
    rows.write(NONE, others[no_orders.TEST])
    rows.write(PUBLISHED, published)
    if published:
        metrics["published"] = gates.held_out_figures(published, parts["train"], data.gates.near_duplicate)
    write_text(Path("docs/data.md"), card.render_card(parts, metrics, data, others["train"]))
    write_metrics(Path("metrics/data.json"), metrics)
    command.done({name: len(part) + len(others.get(name, [])) for name, part in parts.items()})


if __name__ == "__main__":
    main()
