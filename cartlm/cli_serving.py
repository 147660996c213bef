"""Commands of the model in use, `predict`, `serve`, `export` and `evaluate`; `cartlm.cli` adds them."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cartlm import command
from cartlm.errors import UserError
from cartlm.text import counted

if TYPE_CHECKING:
    from cartlm.own_rows import labelled
    from cartlm.serving.reader import Mode

FILE = click.Path(path_type=Path)
STORE, TRAIN = Path("runs/evaluate"), Path("data/train.jsonl")
CATALOGS = Path("runs/serve/catalogs.db")
LISTED = 20  # broken rows on stderr
DECODING = click.option(
    "--decoding", type=click.Choice(["constrained", "ensemble", "free"]), default="constrained", show_default=True,
    help="constrained: only answers of the catalog; ensemble: the baseline's, unless the model clearly prefers another.",
)  # fmt: skip

MAX_TOKENS = click.option(
    "--max-tokens",
    type=click.IntRange(1),
    help="Token limit for prompt plus answer.  [default: prompt.max_tokens]",
)


@click.command(cls=command.Guard)
@click.argument("messages", nargs=-1, metavar="[MESSAGE]")
@click.option("--catalog", type=FILE, help="Text file, one product per line, for all messages.")
@click.option(
    "--input", "source", metavar="FILE", help="Read the messages of this JSONL, CSV or Parquet file."
)
@click.option("--output", metavar="FILE", help="Write their answers here: .jsonl, .csv or .parquet.")
@click.option(
    "--columns",
    multiple=True,
    metavar="message=NAME,...",
    help="The input's names of message, catalog and id.",
)
@click.option(
    "--variant", metavar="NAME|PATH", help="A variant, GGUF file or model folder.  [default: q4_k_m or f16]"
)
@DECODING
@MAX_TOKENS
@click.option("--details", is_flag=True, help="Print confidence, latency and what decoding did, too.")
@click.option(
    "--anew",
    is_flag=True,
    help="Discard output that came from another input, model or options, and start over.",
)
@click.option(
    "--ray", "address", is_flag=False, flag_value="local", metavar="[ADDRESS]",
    help="On a Ray cluster, or on one of this machine alone; --input and --output may be folders and s3:// URLs.",
)  # fmt: skip
@click.option(
    "--workers", type=click.IntRange(1), help="With --ray: number of model copies.  [default: one per CPU]"
)
@click.option(
    "--partition", "rows", type=click.IntRange(1),
    help="With --ray: rows per output file.  [default: 2000]",
)  # fmt: skip
def predict(messages: tuple[str, ...], source: str | None, output: str | None, **options: Any) -> int:
    """What MESSAGE asks for, as JSON; `-` reads messages from standard input, one per line.

    Exit code 1 if any of these has no answer: a message that is blank or too long; with free decoding also an answer
    that is not valid JSON or names no product of the catalog.

    With --input and --output, the messages of a file: a killed run goes on where it stopped. Each row has a message, and a
    catalog unless --catalog is for all; rows without an answer go to OUTPUT.rejected.jsonl.
    """
    from cartlm.serving import models
    from cartlm.serving.catalogs import read_catalog

    if len(messages) > 1:
        what = f"one message at a time, not {len(messages)}: {messages[1]!r:.60}"
        raise UserError(what, "put a message in quotes; - reads many, one per line")
    message = messages[0] if messages else None
    if (message is None) == (source is None) or (source is None) != (output is None):
        raise UserError("give either a message, or both --input and --output", "cartlm predict --help")
    if options["address"] is not None and source is None:
        raise UserError("--ray goes with --input and --output", "cartlm predict --help")
    for name, option in (("workers", "--workers"), ("rows", "--partition")):
        if options["address"] is None and options[name] is not None:
            raise UserError(f"{option} goes with --ray", f"leave {option} out, or add --ray")
    if options["details"] and source is not None:
        raise UserError(
            "--details goes with a message; the output has confidence and latency", "leave it out"
        )
    path = options.pop("catalog")
    if path is None and source is None:
        raise UserError(
            "there is no catalog for the message", "add --catalog FILE, with one product per line"
        )
    catalog = None if path is None else read_catalog(path)
    variant = options.pop("variant") or models.default_variant()
    if source is not None and output is not None:
        run = _file if options["address"] is None else _cluster
        return run(source, output, variant, catalog, options)
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


def _cluster(
    source: str, output: str, variant: str, catalog: list[str] | None, options: dict[str, Any]
) -> int:
    from cartlm.serving.cluster import PARTITION, ClusterJob, predict_on_ray
    from cartlm.serving.columns import parse_columns
    from cartlm.serving.file_run import confidence_note
    from cartlm.serving.models import find_model
    from cartlm.serving.questions import COLUMNS

    model, columns = str(find_model(variant).path.absolute()), parse_columns(options["columns"], COLUMNS)
    names = ("decoding", "max_tokens", "anew", "address", "workers")
    given = {name: options[name] for name in names} | {"rows": options["rows"] or PARTITION}
    outcome = predict_on_ray(ClusterJob(source, output, model, columns=columns, catalog=catalog, **given))
    if note := confidence_note(outcome.key, variant):
        command.progress(f"{outcome.output}: {note}")
    print(outcome.text())
    return 0


def _file(source: str, output: str, variant: str, catalog: list[str] | None, options: dict[str, Any]) -> int:
    from cartlm.serving.columns import parse_columns
    from cartlm.serving.file_run import Job, predict_file
    from cartlm.serving.partitions import shown
    from cartlm.serving.questions import COLUMNS

    if url := next((each for each in (source, output) if "://" in each), ""):
        raise UserError(f"{shown(url)} is a URL, which only --ray reads", "add --ray, or name local files")
    columns = parse_columns(options["columns"], COLUMNS)
    given = {name: options[name] for name in ("decoding", "max_tokens", "anew")}
    job = Job(Path(source), Path(output), variant, columns, catalog, **given)
    print(predict_file(job, command.progress))
    return 0


@click.command(cls=command.Guard)
@click.argument("sources", nargs=-1, metavar="[VARIANT|PATH]...")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to bind; anything but this machine needs a key.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: a free one.")
@click.option(
    "--catalogs", type=FILE, default=CATALOGS, show_default=True, help="SQLite file of the stored catalogs."
)
@click.option(
    "--key-file",
    type=FILE,
    help="API keys, one per line.  [default: the variable CARTLM_API_KEY, if it is set]",
)
@DECODING
@MAX_TOKENS
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Messages processed at the same time, per variant.  [default: up to 4]",
)
@click.option(
    "--threads",
    type=click.IntRange(1),
    help="Threads shared by a variant's workers, at least one each.  [default: all CPUs]",
)
@click.option(
    "--queue",
    type=click.IntRange(1),
    default=256,
    show_default=True,
    help="Waiting messages, per variant.",
)
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(0.1, 3600), default=30, show_default=True,
    help="Time limit for an answer, in seconds.",
)  # fmt: skip
@click.option("--log-messages", is_flag=True, help="Log messages and intents too.")
def serve(
    sources: tuple[str, ...], host: str, port: int, catalogs: Path, key_file: Path | None, decoding: Mode,
    max_tokens: int | None, workers: int | None, threads: int | None, queue: int, timeout_s: float, log_messages: bool,
) -> None:  # fmt: skip
    """Answer over HTTP: intents, stored catalogs, the OpenAI API, a page at /, metrics. Several variants: the first is the default.

    SIGTERM and Ctrl-C end it when all that was asked is answered.
    """
    try:
        from cartlm.serving.http import server
        from cartlm.serving.http.limits import Limits
    except ModuleNotFoundError as error:
        if str(error.name).startswith("cartlm"):
            raise
        what = f"cartlm serve needs the package {error.name}, which is not installed"
        raise UserError(what, "pip install -e '.[serve]'") from None
    from cartlm.serving.models import default_variant
    from cartlm.serving.reader import load

    opened = partial(load, decoding=decoding, max_tokens=max_tokens, workers=workers, threads=threads)
    server.serve(
        [*sources] or [default_variant()], opened, server.Address(host, port), catalogs,
        server.read_keys(key_file, os.environ), Limits(queue, timeout_s), log_messages,
    )  # fmt: skip


@click.command(cls=command.Guard)
@click.argument("variant")
@click.argument("folder", type=FILE)
@click.option("--anew", is_flag=True, help="Replace an earlier export.")
def export(variant: str, folder: Path, anew: bool) -> None:
    """Write a VARIANT of params.yaml into FOLDER, to be served elsewhere.

    The model's files, a model card of what was measured and how to ask, checksums, and for a GGUF file a Modelfile of Ollama.
    """
    from cartlm.serving import export as exporting

    files = exporting.export(variant, folder, anew=anew)
    print(f"{folder}: {', '.join(files)}")


@click.command(cls=command.Guard)
@click.argument("file", type=FILE)
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
@click.option("--catalog", type=FILE, help="Text file, one product per line: the catalog of all rows.")
@click.option(
    "--columns",
    multiple=True,
    metavar="OURS=YOURS,...",
    help="Map column names: message=text,product=item.",
)
@click.option(
    "--actions", multiple=True, metavar="OURS=YOURS,...", help="Map actions: add=buy,remove=cancel."
)
@click.option(
    "--slice",
    "slices",
    multiple=True,
    metavar="COLUMN",
    help="Report accuracy by this column's values; repeatable.",
)
@DECODING
@click.option(
    "--timed",
    type=click.IntRange(0),
    default=50,
    show_default=True,
    help="Rows timed again, one at a time.",
)
@click.option("--show", type=click.IntRange(0), default=10, show_default=True, help="Wrong answers to print.")
@click.option("--output", type=FILE, help="All wrong answers, with their labels: a .csv or .jsonl file.")
@click.option("--strict", is_flag=True, help="An invalid row is an error.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of tables.")
def evaluate(
    file: Path, names: tuple[str, ...], server: str | None, model: str | None, api: str, key_variable: str | None,
    catalog: Path | None, columns: tuple[str, ...], actions: tuple[str, ...], slices: tuple[str, ...], decoding: Mode,
    timed: int, show: int, output: Path | None, strict: bool, as_json: bool,
) -> None:  # fmt: skip
    """How well models answer your own labelled rows in FILE: JSON Lines, a JSON array, CSV or Parquet.

    Nothing is trained, and neither params.yaml nor metrics/ changes. Columns: message, action, product, quantity, and
    catalog unless --catalog has it for all; language, if there is one, is a slice.
    """
    from cartlm.own_rows import answering, labelled, report, results, variants
    from cartlm.own_rows.columns import parse
    from cartlm.serving import models
    from cartlm.serving.catalogs import read_catalog
    from cartlm.serving.outputs import check_apart
    from cartlm.system import machine

    settings = command.params()
    if (server is None) != (model is None):
        raise UserError("--server and --model go together", "cartlm evaluate --help")
    if output:
        report.check_output(output)
        check_apart(output, {"FILE": file, **({"--catalog": catalog} if catalog else {})})
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"--variant {twice[0]} is given twice", "name it once")
    asked = [variants.find(name, settings, os.environ) for name in names]
    if server and model:
        limit = settings.eval.max_new_tokens
        asked.append(variants.served(server, model, api, key_variable, limit, os.environ))
    if not asked:
        asked = [variants.find(models.default_variant(), settings, os.environ)]
    mapped = parse(columns, actions, slices, settings.decoding.none)
    read = labelled.read(file, mapped, read_catalog(catalog) if catalog else None)
    _report_read(read, strict)
    rows = [each.row for each in read.rows]
    order = answering.Order(settings, decoding, STORE, timed)
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
        command.progress(
            f"{output}: {counted(report.write_wrong(output, found), 'row')} not answered exactly"
        )


def _report_read(read: labelled.OwnRows, strict: bool) -> None:
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


COMMANDS = (
    predict,
    serve,
    export,
    evaluate,
)
