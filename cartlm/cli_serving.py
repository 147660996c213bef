"""Commands of the model in use; `cartlm.cli` adds them."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from cartlm import command
from cartlm.errors import UserError

FILE = click.Path(path_type=Path)


@click.command(cls=command.Guard)
@click.argument("message", required=False)
@click.option("--catalog", type=FILE, help="Text file, one product a line, for all messages.")
@click.option("--input", "source", type=FILE, help="Read the messages of this JSONL, CSV or Parquet file.")
@click.option("--output", type=FILE, help="Write their answers here: .jsonl, .csv or .parquet.")
@click.option(
    "--columns", default="", metavar="message=NAME,...", help="The input's names of message, catalog and id."
)
@click.option(
    "--variant", metavar="NAME|PATH", help="A variant, GGUF file or model folder.  [default: q4_k_m or f16]"
)
@click.option(
    "--decoding", type=click.Choice(["constrained", "free"]), default="constrained", show_default=True
)
@click.option(
    "--max-tokens", type=click.IntRange(1), help="Of prompt and answer.  [default: prompt.max_tokens]"
)
@click.option("--details", is_flag=True, help="Print confidence, latency and what decoding did, too.")
@click.option("--anew", is_flag=True, help="Replace an output that another input, model or option made.")
def predict(message: str | None, source: Path | None, output: Path | None, **options: Any) -> int:
    """What MESSAGE asks for, as JSON; `-` reads messages from standard input, one a line.

    Exit code 1 if any of these has no answer: a message that is blank or too long; with free decoding also an answer
    that is not valid JSON or names no product of the catalog.

    With --input and --output, the messages of a file: a killed run goes on where it stopped. Each row has a message, and a
    catalog unless --catalog is for all; rows without an answer go to OUTPUT.rejected.jsonl.
    """
    from cartlm.serving import models
    from cartlm.serving.catalogs import read_catalog

    if (message is None) == (source is None) or (source is None) != (output is None):
        raise UserError("give either a message, or both --input and --output", "cartlm predict --help")
    path = options.pop("catalog")
    if path is None and source is None:
        raise UserError("there is no catalog for the message", "add --catalog FILE, with one product a line")
    catalog = None if path is None else read_catalog(path)
    variant = options.pop("variant") or models.default_variant()
    if source is not None and output is not None:
        return _file(source, output, variant, catalog, options)
    return _lines(str(message), variant, catalog or [], options)


def _lines(message: str, variant: str, catalog: list[str], options: dict[str, Any]) -> int:
    from cartlm.serving.predict import predict_lines
    from cartlm.serving.reader import load

    if options["columns"] or options["anew"]:
        raise UserError("--columns and --anew go with --input and --output", "cartlm predict --help")
    code = 0
    with load(variant, decoding=options["decoding"], max_tokens=options["max_tokens"]) as reader:
        messages = _stdin() if message == "-" else iter([message])
        for line, is_intent in predict_lines(reader, catalog, messages, options["details"]):
            print(line, flush=True)
            code = code if is_intent else 1
    return code


def _stdin() -> Iterator[str]:
    stdin = io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8", errors="replace", newline="\n")
    return (line.rstrip("\r\n") for line in stdin)


def _file(
    source: Path, output: Path, variant: str, catalog: list[str] | None, options: dict[str, Any]
) -> int:
    from cartlm.serving.file_run import Job, predict_file
    from cartlm.serving.questions import parse_columns

    if options["details"]:
        raise UserError(
            "--details goes with a message; the output file has confidence and latency", "leave it out"
        )
    job = Job(
        source, output, variant, parse_columns(options["columns"]), catalog, options["decoding"], options["max_tokens"],
        options["anew"],
    )  # fmt: skip
    print(predict_file(job, command.progress))
    return 0
