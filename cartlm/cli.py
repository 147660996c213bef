"""The command line: `cartlm --help` lists what people type; what only the Makefile calls is hidden."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import click

from cartlm import cli_recommend, cli_report, cli_search, cli_serving, command
from cartlm import params as params_file
from cartlm.compare import judge
from cartlm.compare.comparison import as_json as comparison_json
from cartlm.compare.report import format_comment, format_report
from cartlm.errors import UserError
from cartlm.files import write_text
from cartlm.metrics import read_metrics, write_metrics
from cartlm.pipeline import dvc_remote, repository, stale, studies, study_results, variants
from cartlm.report import cliff, models, paper, pretrained, results, summary, worth
from cartlm.report import decoding as decoding_table
from cartlm.report import studies as study_tables
from cartlm.system import machine
from cartlm.text import few
from cartlm.training.config import Base

PRESETS, METRICS, ROOT, ASSETS = Path("presets"), Path("metrics"), Path("."), Path("docs/assets")
FILE = click.Path(path_type=Path)


@click.group(
    cls=command.Group,
    no_args_is_help=False,
    commands=[*cli_serving.COMMANDS, *cli_recommend.COMMANDS, *cli_report.COMMANDS, *cli_search.COMMANDS],
)
def main() -> None:
    """A shop's intent reader from a small language model. Run these in the root of the repository.

    `make repro` runs the measured chain itself.
    """


@main.group("params", cls=command.Group, no_args_is_help=False)
def params_group() -> None:
    """Check params.yaml."""


@params_group.command("check")
def params_check() -> None:
    """Stop with one line if params.yaml is wrong."""
    settings = command.params()
    print(f"params.yaml is sound: {len(settings.variants.names)} variants, data from {settings.data.source}")


@main.group("data", cls=command.Group, no_args_is_help=False)
def data_group() -> None:
    """Check rows of your own."""


@data_group.command("check")
@click.argument("path", type=FILE)
def data_check(path: Path) -> None:
    """List every problem in a file or folder of rows, with its line, and the sizes that fit; writes nothing."""
    from cartlm.data import files

    settings = command.params()
    count = 0
    for line, wrong in files.check_report(path, settings.data, Path(settings.base.path)):
        print(line)
        count += wrong
    if count:
        raise UserError(f"{path} has {count} problem{'' if count == 1 else 's'}", "fix what is listed above")


@data_group.command("natural", hidden=True)
def data_natural() -> None:
    """Make the natural rows again from their turns, menu and readings (cartlm/evaluation/multidogo.py)."""
    from cartlm.evaluation import multidogo
    from cartlm.task import rows

    made, agreement = multidogo.natural_rows()
    rows.write(multidogo.ROWS, made)
    write_metrics(multidogo.AGREEMENT, {"readings": agreement})
    print(json.dumps(agreement))


@main.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Agree to the licence and the download of the preset's model.")
def preset(name: str, yes: bool) -> None:
    """Change params.yaml to what presets/NAME.yaml sets; `git checkout params.yaml` brings the default back."""
    command.require_checkout()
    path = PRESETS / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(each.stem for each in PRESETS.glob("*.yaml"))) or "none"
        back = "git checkout params.yaml for the default"
        raise UserError(f"there is no preset {name}; there are: {known}", back)
    laid = params_file.lay_preset(command.PARAMS, path)
    committed = repository.run_git(ROOT, "show", f"HEAD:./{command.PARAMS}")
    present = command.PARAMS.read_text("utf-8")
    if committed.returncode == 0 and present not in (committed.stdout, laid.text):
        # an earlier preset's values would stay
        what = "params.yaml has changes that are not committed, and a preset is laid over the committed one"
        raise UserError(what, "git checkout HEAD params.yaml, or git commit params.yaml, then the same again")
    if "base" in laid.sections:
        _agree(laid.params.base, yes)
    write_text(command.PARAMS, laid.text)
    print(f"params.yaml has what {path} sets: make repro runs it, git checkout params.yaml undoes it")


def _agree(origin: Base, yes: bool) -> None:
    """Show licence and size of what the preset downloads, and ask; UserError without a yes."""
    if origin.source not in ("hub", "package") or Path(origin.path).is_dir():
        return
    size = f"{origin.download_mb:,.0f} MB" if origin.download_mb else "size unknown"
    means = "pip" if origin.source == "package" else "the model hub"
    print(f"{origin.path}: licence {origin.license or 'unknown'}; it is downloaded by {means}, {size}")
    if yes:
        return
    if not sys.stdin.isatty():
        raise UserError(
            "nobody agreed to that licence and download", "the same with YES=1 (make) or --yes (cartlm)"
        )
    if not click.confirm("Go on?"):
        raise UserError(
            f"{origin.path} is not downloaded, and nothing was changed", "ls presets names the others"
        )


@main.command(hidden=True)
@click.argument("name")
@click.option("--commit", help="Run this commit, ignoring later changes.  [default: HEAD]")
@click.option(
    "--stage", "stages", multiple=True, help="Run this stage of dvc.yaml and what it needs; repeatable."
)
@click.option("--yes", is_flag=True, help="Agree to the licence and the download of the preset's model.")
def study(name: str, commit: str | None, stages: tuple[str, ...], yes: bool) -> None:
    """Run presets/NAME.yaml in a worktree of its own, and put its numbers into results/NAME."""
    repository.check_repository(ROOT)
    order = studies.Order(name, commit, stages, yes)
    studies.check(ROOT, order)
    with command.alone("make study", f"make study NAME={name}") as lock:
        studies.run(ROOT, order, lock, lambda line: print(line, flush=True))


@main.command()
def pin() -> None:
    """Ask the hub for the revisions of the model and datasets that params.yaml names, and write them there."""
    from cartlm.pipeline import revisions

    settings = command.params()
    pins = revisions.list_pins(settings.base, settings.data)
    answers = {each: revisions.ask_hub(each) for each in pins}
    if changed := {each: sha for each, sha in answers.items() if sha != each.now}:
        revisions.write(command.PARAMS, changed, datetime.date.today())
    for each, sha in answers.items():
        before = "unchanged" if each not in changed else f"was {each.now or 'not pinned'}"
        print(f"{each.section}.{each.key} is {sha} of {each.kind} {each.name}; {before}")
    if not pins:
        print("nothing to pin: params.yaml names no model or dataset of the hub")


@main.command("pin-images", hidden=True)
def pin_images() -> None:
    """Ask the registry for the digests of the images in the Dockerfiles and docker/compose.yaml, and write them there."""
    from cartlm.pipeline import revisions

    for file in map(Path, ("Dockerfile.cpu", "Dockerfile.gpu", "docker/compose.yaml")):
        try:
            for image in revisions.pin_images(file, datetime.date.today()):
                print(f"{file} names {image}")
        except UserError as error:
            command.progress(f"{file} is unchanged: {error}")


@main.command()
def table() -> None:
    """Print the results table, and those of the studies."""
    settings = command.params()
    print(summary.table(METRICS, settings.variants.names))
    if texts := study_tables.terminal(models.studies(ROOT)):
        print(f"\n{texts}")


@main.command("readme-table", hidden=True)
@click.option("--check", is_flag=True, help="Write nothing; exit code 1 if one is stale.")
def readme_table(check: bool) -> int:
    """Write the tables in README.md, docs/paper.md, docs/studies.md and docs/decoding.md, and the pictures in docs/assets."""
    settings, readme = command.params(), Path("README.md")
    measured = paper.measured_model(METRICS, settings.base.path, settings.data.path or paper.GENERATED)
    ours = models.default(METRICS, settings.variants.names, settings.base.path, settings.base.source)
    every = [ours, *models.studies(ROOT, dated=True)]
    parts = [results.readme_block(METRICS, settings.variants.names), study_tables.readme_part(every)]
    text = results.with_block(readme.read_text("utf-8"), "\n\n".join(filter(None, parts)))
    texts = {readme: results.with_block(text, worth.sentences(METRICS), (worth.BEGIN, worth.END))}
    texts[Path("docs/paper.md")] = paper.document(METRICS, measured, pretrained.sections(every))
    texts[Path("docs/studies.md")] = study_tables.document(every)
    texts[Path("docs/decoding.md")] = decoding_table.document(every, METRICS / "decoding")
    texts |= cliff.pictures(every, ASSETS)
    changed = [path for path, text in texts.items() if not path.exists() or path.read_text("utf-8") != text]
    gone = sorted({*ASSETS.glob("cliff-*.svg")} - texts.keys())  # of studies that are gone
    if check and (changed or gone):
        command.progress(f"stale: {', '.join(map(str, changed + gone))}; cartlm readme-table")
        return 1
    for path in gone:
        path.unlink()
    for path in changed:
        write_text(path, texts[path])
        print(f"{path} is new: commit it")
    return 0


@main.command()
@click.argument("old", metavar="REV")
@click.argument("new", metavar="[REV]", required=False)
@click.option("--json", "as_json", is_flag=True, help="JSON instead of Markdown.")
@click.option("--all", "everything", is_flag=True, help="List unchanged metrics too.")
@click.option("--comment", "as_comment", is_flag=True, help="For a pull or merge request, with plots.")
def compare(old: str, new: str | None, as_json: bool, everything: bool, as_comment: bool) -> int:
    """What changed from one commit to another, or to the workspace; exit code 1 if anything became worse or is gone.

    The tolerances are the older side's.
    """
    if as_comment and (as_json or everything):
        raise UserError("--comment goes with neither --json nor --all", "cartlm compare --help")
    repository.check_repository(ROOT)
    if new is None:
        command.params()  # those of a commit cannot be corrected, so any that parse will do
    comparison = judge.compare_commits(ROOT, old, new)
    if as_json:
        print(json.dumps(comparison_json(comparison), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        print(format_comment(comparison) if as_comment else format_report(comparison, everything), end="")
    return 1 if comparison.regression else 0


@main.command("stale")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of lines.")
def stale_stages(as_json: bool) -> int:
    """Stages whose numbers are older than code, params or inputs; exit code 1 if the main graph has one.

    Needs only what git has: missing data and models are ignored.
    """
    repository.check_repository(ROOT)
    report, late = stale.find_stale(ROOT), study_results.find_stale(ROOT, study_results.read_all(ROOT))
    if as_json:
        print(json.dumps({**asdict(report), "studies": late}, indent=2))
    else:
        print(stale.format_report(report))
        if lines := study_results.format_stale(late):
            print("\nStudies, which only make study runs:", *lines, sep="\n  ")
    return 1 if report.stale else 0


@main.command()
def pull() -> None:
    """Fetch the main graph's models and data from the DVC remote; what it lacks is listed."""
    repository.check_repository(ROOT)
    transfer = dvc_remote.pull(ROOT)
    here = transfer.outs - len(transfer.missing) - len(transfer.kept)
    print(f"{transfer.files} files came from {transfer.remote}; {here} of {transfer.outs} outputs are here")
    if lacks := few(transfer.missing, 8):
        warn(f"the DVC remote {transfer.remote} lacks {lacks}; make repro makes them")
    if transfer.kept:
        way = f"to take the remote's: dvc checkout --force {' '.join(transfer.kept)}"
        warn(f"kept {few(transfer.kept, 8)}, changed here and in no cache; {way}")


@main.command()
def push() -> None:
    """Copy models, data and paid answers to the DVC remote; commit dvc.lock with it."""
    repository.check_repository(ROOT)
    # In a container such a folder would be made there, and go with it.
    transfer = dvc_remote.push(ROOT, create=not os.environ.get(machine.IMAGE))
    went = f"{transfer.files} files went to {transfer.remote}"
    print(f"{went}; with dvc.lock in git, make pull fetches them elsewhere")
    if transfer.missing:
        warn(f"not here, so not pushed: {few(transfer.missing, 8)}")


@main.command("check-inputs", hidden=True)
@click.argument("name", metavar="STAGE")
def check_inputs(name: str) -> None:
    """Stop with one line if a stage's models or data are not those in dvc.lock."""
    if wrong := dvc_remote.changed_inputs(ROOT, name):
        what = f"{few(wrong, 4)} {'is' if len(wrong) == 1 else 'are'} not as in dvc.lock"
        way = f"make pull (then dvc checkout --force {wrong[0]} ... for what it kept), or make repro"
        raise UserError(f"{what}, so {name} would measure something else", way)


@main.command("check-models", hidden=True)
def check_models() -> None:
    """Stop with one line if a model that params.yaml lists is missing or cut short."""
    from cartlm.baseline import reader
    from cartlm.pipeline import model_files
    from cartlm.quantization import gguf

    settings, models = command.params(), Path("models")
    for name in ["base", "adapter", "merged", *settings.gptq]:
        model_files.check_weights(models / name, command.made_by(f"models/{name}"))
    for name in ["f16", *settings.gguf]:
        gguf.inspect_gguf(models / name / "model.gguf")
    reader.load(models / "baseline/model.json")
    print(f"all {5 + len(settings.gguf) + len(settings.gptq)} models are there")


@main.command("check-remote", hidden=True)
def check_remote() -> None:
    """Stop with one line if params.yaml lists no server: DVC would run the whole main graph. Fetches paid answers."""
    servers = command.params().remote
    if not servers:
        way = "copy an entry of presets/paper.yaml, then make remote"
        raise UserError("params.yaml lists no server under remote", way)
    print(f"servers: {', '.join(servers)}")
    for name in servers:
        fetch_paid(f"data/answers/{name}.jsonl")


@main.command("refresh-data", hidden=True)
def refresh_data() -> int:
    """Make the rows again if the files in `data.path` changed: DVC does not watch them."""
    from cartlm.data import files

    made = Path("metrics/data.json")
    known = read_metrics(made).get("source", {}).get("sha256") if made.is_file() else None
    data = command.params().data
    if known is None or files.source_digest(data) in (None, known):
        return 0
    print(f"{data.path} changed: the rows are made again")
    again = ("dvc", "repro", "--force", "--single-item", "data")
    return subprocess.run([sys.executable, "-m", *again]).returncode


@main.command("fetch-paid", hidden=True)
def fetch_responses() -> None:
    """Fetch the paid answers of data.source openai from the DVC remote, if they are not here."""
    fetch_paid("data/responses.jsonl")


def fetch_paid(path: str) -> None:
    """Fetch paid answers, with a warning where no DVC remote has them."""
    if not dvc_remote.fetch_paid(path):
        warn(f"{path} was paid for and is in no DVC remote of this repository")


def warn(text: str) -> None:
    command.progress(f"warning: {text}")


@main.command("accept-base", hidden=True)
def accept_base() -> None:
    """Copy base/build/model into base/model, after checking its files and size."""
    from cartlm.pipeline import model_files

    size = model_files.accept_base(Path("base/build/model"), Path("base/model"))
    print(f"base/model is now base/build/model, {size:.1f} MB of weights; commit it: git add base/model")


@main.command("check-gpu", hidden=True)
def check_gpu() -> None:
    """Stop with one line if torch cannot use a CUDA card here."""
    from cartlm.system import cuda_driver

    print(cuda_driver.check(*cuda_driver.built_for(), image=os.environ.get(machine.IMAGE)))


@main.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of lines.")
def diagnose(as_json: bool) -> None:
    """What this machine can do, and what each missing thing costs; exit code 2 if a necessary one is missing."""
    from cartlm.system import doctor

    found = doctor.examine(ROOT)
    print(json.dumps([asdict(each) for each in found], indent=2) if as_json else doctor.text(found))
    for each in doctor.broken(found):
        raise UserError(f"{each.name} is {each.state}: {each.cost}", each.command)


@main.command()
def prune() -> None:
    """Remove metrics, models and lock entries of variants that left params.yaml; `make repro` does it first."""
    removed, kept = variants.prune(ROOT, command.params().variants)
    print("\n".join(f"removed {name}" for name in removed) or "nothing to remove")
    for what in kept:
        warn(f"kept {what}; remove it if you do not need it")


if __name__ == "__main__":
    main()
