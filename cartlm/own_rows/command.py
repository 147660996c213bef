"""The command `cartlm evaluate`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cartlm import command
from cartlm.errors import UserError

if TYPE_CHECKING:
    from cartlm.own_rows import labelled

STORE, TRAIN = Path("runs/evaluate"), Path("data/train.jsonl")
LISTED = 20  # broken rows on stderr
PATH = click.Path(path_type=Path)


@click.command("evaluate", cls=command.Guard)
@click.argument("file", type=PATH)
@click.option(
    "--variant", "names", multiple=True,
    help="One of params.yaml, a .gguf file or a folder of transformers; repeatable: each is compared with the first."
    "  [default: q4_k_m, or f16 where that is not listed]",
)  # fmt: skip
@click.option(
    "--server", metavar="URL", help="Ask a server with the OpenAI API too, such as http://127.0.0.1:8080/v1."
)
@click.option("--model", help="The model's name on that server.")
@click.option(
    "--api", type=click.Choice(["completions", "chat"]), default="completions", show_default=True,
    help="completions: the bare prompt, for a model fine-tuned here; chat: with an instruction.",
)  # fmt: skip
@click.option("--key-variable", metavar="NAME", help="The environment variable with the server's key.")
@click.option("--catalog", type=PATH, help="Text file, one product a line: the catalog of all rows.")
@click.option(
    "--columns",
    multiple=True,
    metavar="OURS=YOURS,...",
    help="Where names differ: message=text,product=item.",
)
@click.option(
    "--actions", multiple=True, metavar="OURS=YOURS,...", help="Where words differ: add=buy,remove=cancel."
)
@click.option(
    "--slice",
    "slices",
    multiple=True,
    metavar="COLUMN",
    help="Tell accuracy by this column's values; repeatable.",
)
@click.option(
    "--decoding", type=click.Choice(["constrained", "free"]), default="constrained", show_default=True,
    help="constrained: only answers of the row's catalog.",
)  # fmt: skip
@click.option(
    "--timed",
    type=click.IntRange(0),
    default=50,
    show_default=True,
    help="Rows that are asked again for latency.",
)
@click.option(
    "--show", type=click.IntRange(0), default=10, show_default=True, help="So many wrong answers on stdout."
)
@click.option("--output", type=PATH, help="All wrong answers, with their labels: a .csv or .jsonl file.")
@click.option("--strict", is_flag=True, help="A broken row is an error.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of tables.")
def evaluate(
    file: Path, names: tuple[str, ...], server: str | None, model: str | None, api: str, key_variable: str | None,
    catalog: Path | None, columns: tuple[str, ...], actions: tuple[str, ...], slices: tuple[str, ...], decoding: str,
    timed: int, show: int, output: Path | None, strict: bool, as_json: bool,
) -> None:  # fmt: skip
    """How well models answer your own labelled rows in FILE: JSON Lines, a JSON array, CSV or Parquet.

    Nothing is trained, and neither params.yaml nor metrics/ changes. Columns: message, action, product, quantity, and
    catalog unless --catalog has it for all; language, if there is one, is a slice.
    """
    from cartlm.own_rows import answering, labelled, report, results, variants
    from cartlm.own_rows.columns import parse
    from cartlm.serving.catalogs import read_catalog
    from cartlm.system import machine

    settings = command.params()
    if (server is None) != (model is None):
        raise UserError("--server and --model go together", "cartlm evaluate --help")
    if output:
        report.check_output(output)
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"--variant {twice[0]} is given twice", "name it once")
    asked = [variants.find(name, settings, os.environ) for name in names]
    if server and model:
        limit = settings.eval.max_new_tokens
        asked.append(variants.served(server, model, api, key_variable, limit, os.environ))
    if not asked:
        asked = [variants.find("q4_k_m" if "q4_k_m" in settings.gguf else "f16", settings, os.environ)]
    read = labelled.read(file, parse(columns, actions, slices), read_catalog(catalog) if catalog else None)
    _tell(read, strict)
    rows = [each.row for each in read.rows]
    order = answering.Order(settings, "free" if decoding == "free" else "constrained", STORE, timed)
    with command.alone("cartlm evaluate", "the same command"):
        answered = [answering.answer_rows(each, rows, order) for each in asked]
    found = results.evaluate(read.rows, answered)
    for one in answered:
        for note in one.notes:
            command.progress(f"{one.name}: {note}")
    if as_json:
        print(json.dumps(report.as_json(read, found, machine.fingerprint()), indent=2, ensure_ascii=False))
    else:
        print(report.text(read, found, show))
    if output:
        command.progress(f"{output}: {report.write_wrong(output, found)} rows that are not answered exactly")


def _tell(read: labelled.OwnRows, strict: bool) -> None:
    """Name what was detected and every broken row on stderr. Raises UserError where no row is left, or with `strict`."""
    from cartlm.own_rows import labelled

    for note in read.notes:
        command.progress(f"{read.path}: {note}")
    for line, reason in read.broken[:LISTED]:
        command.progress(f"{read.path}:{line}: {reason}")
    if (more := len(read.broken) - LISTED) > 0:
        command.progress(f"{read.path}: {more} more broken rows, listed by --json")
    if read.broken and (strict or not read.rows):
        what = f"{len(read.broken)} of {len(read.broken) + len(read.rows)} rows in {read.path} are broken"
        raise UserError(what, "correct them" + (", or go without --strict" if strict and read.rows else ""))
    for warning in labelled.warnings(read, TRAIN):
        command.progress(f"warning: {warning}")
