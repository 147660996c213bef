"""The command line for people: cartlm --help lists its commands."""

from __future__ import annotations

import datetime
import io
import json
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

import click

from cartlm import command
from cartlm import params as _params
from cartlm.compare import judge
from cartlm.compare.comment import format_comment
from cartlm.compare.comparison import as_json as comparison_json
from cartlm.compare.report import format_report
from cartlm.errors import UserError
from cartlm.files import write_text
from cartlm.metrics import write_metrics
from cartlm.pipeline import answer_cache, dvc_remote, repository, stale, variants
from cartlm.report import summary
from cartlm.system import machine
from cartlm.text import few

PRESETS, RESPONSES = Path("presets"), "data/responses.jsonl"
BASE_FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
)
BASE_MAX_MB = 16  # of 10^6 bytes: the weights stand in git


@click.group(cls=command.Group)
def main() -> None:
    """cartlm, for people. Run in the repository's root; the measured chain itself is `make repro`."""


@main.group("params", cls=command.Group)
def params_group() -> None:
    """Look at params.yaml."""


@params_group.command("check")
def params_check() -> None:
    """Stop with one line if params.yaml is wrong."""
    found = command.params()
    print(f"params.yaml is sound: {len(found.variants.names)} variants, data from {found.data.source}")


@main.group("data", cls=command.Group)
def data_group() -> None:
    """Look at rows: your own file, and the natural set."""


@data_group.command("check")
@click.argument("path", type=click.Path(path_type=Path))
def data_check(path: Path) -> None:
    """Name every problem of a file of rows, or a folder's, with file and line, and the sizes that fit; nothing is written."""
    from cartlm.data import files

    settings = command.params()
    count = 0
    for line, wrong in files.check_report(path, settings.data, Path(settings.base.path)):
        print(line)
        count += wrong
    if count:
        raise UserError(f"{path} has {count} problem{'' if count == 1 else 's'}", "mend what is named above")


@data_group.command("natural")
def data_natural() -> None:
    """Make the natural set anew from its turns, menu and readings (cartlm/evaluation/multidogo.py)."""
    from cartlm.evaluation import multidogo
    from cartlm.task import rows

    made, agreement = multidogo.rows()
    rows.write(multidogo.ROWS, made)
    write_metrics(multidogo.AGREEMENT, {"readings": agreement.metrics()})
    print(json.dumps(agreement.metrics()))


@main.command()
@click.argument("name")
def preset(name: str) -> None:
    """Rewrite params.yaml from presets/NAME.yaml; git diff shows what changed."""
    path = PRESETS / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in PRESETS.glob("*.yaml"))) or "none"
        raise UserError(f"there is no preset {name}; there are: {known}", "make preset NAME=offline")
    _params.load(path)
    write_text(command.PARAMS, path.read_text(encoding="utf-8"))
    print(f"params.yaml is now {path}; see git diff params.yaml, then make repro")


@main.command()
def pin() -> None:
    """Ask the hub for the revisions of the model and datasets that params.yaml names, and write them there."""
    from cartlm.pipeline import revisions as pins

    settings = command.params()
    wanted = pins.list_pins(settings.base, settings.data)
    revisions = {one: pins.ask(one) for one in wanted}
    if changed := {one: sha for one, sha in revisions.items() if sha != one.now}:
        pins.write(command.PARAMS, changed, datetime.date.today())
    for one, sha in revisions.items():
        said = "as it was" if one not in changed else f"was {one.now or 'not pinned'}"
        print(f"{one.section}.{one.key} is {sha} of {one.kind} {one.name}; {said}")
    if not wanted:
        print("nothing to pin: params.yaml names no model or dataset of the hub")


@main.command("pin-images")
def pin_images() -> None:
    """Ask the registry for the digest of each Dockerfile's base image, and write it there; none answers: it says so."""
    from cartlm.pipeline import revisions as pins

    for file in map(Path, ("Dockerfile.cpu", "Dockerfile.gpu")):
        image = pins.base_image(file)
        try:
            digest = pins.ask_registry(image)
        except UserError as error:
            print(f"{file} keeps {image} as it is: {error}", file=sys.stderr)
            continue
        changed = pins.write_digest(file, digest, datetime.date.today())
        print(f"{file} builds on {image}@{digest}{'' if changed else '; as it was'}")


@main.command()
def table() -> None:
    """Print the results table."""
    rows = summary.collect(Path("metrics"), command.params().variants.names)
    print(summary.table(rows))


@main.command()
@click.argument("message")
@click.option(
    "--catalog", type=click.Path(path_type=Path), required=True, help="Text file, one product a line."
)
@click.option(
    "--variant", help="A variant of params.yaml.  [default: q4_k_m, or f16 where that is not listed]"
)
def predict(message: str, catalog: Path, variant: str | None) -> int:
    """What MESSAGE asks for, as JSON; `-` reads messages from standard input, one a line.

    Exit code 1 if the model's answer to any of them is no intent of the catalog.
    """
    from cartlm.serving import predict as predicting

    settings = command.params()
    products = predicting.read_catalog(catalog)
    stdin = io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8", errors="replace", newline="\n")
    with predicting.load(settings, variant or predicting.default_variant(settings)) as reader:
        sound = True
        for line, is_intent in predicting.answers(reader, products, predicting.messages(message, stdin)):
            print(line, flush=True)
            sound = sound and is_intent
    return 0 if sound else 1


@main.command()
@click.argument("old", metavar="REV")
@click.argument("new", metavar="[REV]", required=False)
@click.option("--json", "as_json", is_flag=True, help="JSON instead of Markdown.")
@click.option("--all", "everything", is_flag=True, help="List the metrics without a change too.")
@click.option(
    "--comment", "as_comment", is_flag=True, help="Markdown for a pull or merge request, with plots."
)
def compare(old: str, new: str | None, as_json: bool, everything: bool, as_comment: bool) -> int:
    """What changed from one commit to another, or to the workspace; exit code 1 if anything became worse or is gone.

    The tolerances are the older side's.
    """
    if as_comment and (as_json or everything):
        raise UserError("--comment goes with neither --json nor --all", "cartlm compare --help")
    repository.check_repository(Path("."))
    if new is None:
        command.params()  # those of a commit cannot be corrected, so any that parse will do
    comparison = judge.compare_commits(Path("."), old, new)
    if as_json:
        values = comparison_json(comparison)
        print(json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        text = format_comment(comparison) if as_comment else format_report(comparison, everything)
        print(text, end="")
    return 1 if comparison.regression else 0


@main.command("stale")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of lines.")
def stale_stages(as_json: bool) -> int:
    """Stages whose numbers are older than code, params or inputs; exit code 1 if the main graph has one.

    Asks `dvc status`, and needs nothing but what git has.
    """
    repository.check_repository(Path("."))
    found = stale.find_stale(Path("."))
    print(json.dumps(stale.as_json(found), indent=2) if as_json else stale.format_report(found))
    return 1 if found.stale else 0


@main.command()
def pull() -> None:
    """Bring the main graph's models and data from the DVC remote; what it lacks is named, and no error."""
    repository.check_repository(Path("."))
    came = dvc_remote.pull(Path("."))
    print(
        f"{came.files} files came from {came.remote}; {came.outs - len(came.missing) - len(came.kept)} of {came.outs} outputs are here"
    )
    if came.missing:
        names = few(came.missing, 8)
        print(f"warning: the DVC remote {came.remote} lacks {names}; make repro makes them", file=sys.stderr)
    if came.kept:
        names = few(came.kept, 8)
        print(
            f"warning: {names} here is neither what dvc.lock says nor in DVC's cache, and stays; to take the remote's: "
            f"dvc checkout --force {' '.join(came.kept)}",
            file=sys.stderr,
        )


@main.command()
def push() -> None:
    """Copy models, data and paid answers to the DVC remote; commit dvc.lock beside."""
    repository.check_repository(Path("."))
    # In a container such a folder would be made there, and go with it.
    went = dvc_remote.push(Path("."), create=not os.environ.get(machine.IMAGE))
    print(f"{went.files} files went to {went.remote}; with dvc.lock in git, make pull brings them elsewhere")
    if went.missing:
        print(f"warning: not here, so not pushed: {few(went.missing, 8)}", file=sys.stderr)


@main.command("check-inputs")
@click.argument("name", metavar="STAGE")
def check_inputs(name: str) -> None:
    """Stop with one line if models or data that a stage reads are not those which dvc.lock says were made."""
    if wrong := dvc_remote.wrong_inputs(Path("."), name):
        raise UserError(
            f"{few(wrong, 4)} {'is' if len(wrong) == 1 else 'are'} not what dvc.lock says, so {name} would measure others",
            f"make pull (then dvc checkout --force {wrong[0]} ... for what it says it kept), or make repro",
        )


@main.command("check-models")
def check_models() -> None:
    """Stop with one line if a model that params.yaml lists is missing or cut short."""
    found = command.params()
    models = Path("models")
    for name in ["base", "adapter", "merged", *found.gptq]:
        check_weights(models / name)
    for name in ["f16", *found.gguf]:
        check_gguf(models / name / "model.gguf")
    print(f"all {4 + len(found.gguf) + len(found.gptq)} models are there")


@main.command("check-remote")
def check_remote() -> None:
    """Stop with one line if params.yaml lists no server: DVC would take that for the whole main graph.

    Answers that were paid for and lie in a DVC remote are fetched: DVC itself does not, once their stage has changed.
    """
    found = command.params().remote
    if not found:
        raise UserError(
            "params.yaml lists no server under remote",
            "copy an entry of presets/paper.yaml, then make remote",
        )
    print(f"servers: {', '.join(found)}")
    fetch([f"data/answers/{name}.jsonl" for name in found])


@main.command("fetch-paid")
def fetch_paid() -> None:
    """Bring the answers of data.source openai that were paid for from the DVC remote, if they are not here."""
    fetch([RESPONSES])


def fetch(paths: Iterable[str]) -> None:
    """Bring what was paid for, with a warning for what no DVC remote has. Raises UserError if fetching fails."""
    for path in paths:
        if warning := answer_cache.fetch(path):
            print(warning, file=sys.stderr)


@main.command("accept-base")
def accept_base() -> None:
    """Copy base/build/model into base/model, after checking its files and size."""
    source, target = Path("base/build/model"), Path("base/model")
    missing = [name for name in BASE_FILES if not (source / name).is_file()]
    if missing:
        raise UserError(f"{source} lacks {', '.join(missing)}", "make base")
    check_weights(source)
    size = sum(path.stat().st_size for path in source.glob("*.safetensors"))
    if size > BASE_MAX_MB * 10**6:
        raise UserError(
            f"the weights in {source} are {size / 10**6:.1f} MB, more than {BASE_MAX_MB}",
            "make the model smaller in base/params.yaml, or save it in 16 bits",
        )
    new, old = target.with_name("model.new"), target.with_name("model.old")
    for folder in (new, old):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, new)
    if target.exists():
        os.replace(target, old)
    os.replace(new, target)
    shutil.rmtree(old, ignore_errors=True)
    print(f"base/model is now {source}, {size / 10**6:.1f} MB of weights; commit it: git add base/model")


@main.command("check-gpu")
def check_gpu() -> None:
    """Whether torch can use a CUDA card here; what is missing, where it cannot."""
    from cartlm.system import cuda_driver

    print(cuda_driver.check(*cuda_driver.built_for(), image=os.environ.get(machine.IMAGE)))


@main.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of lines.")
def diagnose(as_json: bool) -> None:
    """What this machine can do, and what each missing thing costs; exit code 2 if a necessary one is missing."""
    from cartlm.system import doctor

    found = doctor.examine(Path("."))
    print(json.dumps(doctor.as_json(found), indent=2) if as_json else doctor.text(found))
    for each in doctor.broken(found):
        raise UserError(f"{each.name} is {each.state}: {each.cost}", each.command)


@main.command()
def prune() -> None:
    """Remove metrics, models and lock entries of what left params.yaml (`dvc repro` does it by itself)."""
    removed, kept = variants.prune(Path("."), command.params().variants)
    print("\n".join(f"removed {name}" for name in removed) or "nothing to remove")
    for what in kept:
        print(f"warning: kept {what}; remove it if you do not need it", file=sys.stderr)


def check_weights(folder: Path) -> None:
    """Raises UserError unless `folder` holds a model or adapter config and complete safetensors files."""
    from safetensors import SafetensorError, safe_open

    maker = command.made_by(str(folder)) or "make base"
    if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise UserError(f"{folder} is missing or holds no model", maker)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder} holds no *.safetensors", maker)
    for path in files:
        try:
            with safe_open(path, framework="numpy") as tensors:
                tensors.keys()
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} does not load: {error}", f"rm -r {folder}, then {maker}") from None


def check_gguf(path: Path) -> None:
    """Raises UserError unless `path` is a complete GGUF file."""
    from cartlm.quantization import gguf

    maker = command.made_by(str(path.parent))
    if not path.is_file():
        raise UserError(f"{path} is missing", maker)
    try:
        gguf.contents(path)
    except UserError as error:
        raise UserError(error.message, f"rm {path}, then {maker}") from None


if __name__ == "__main__":
    main()
