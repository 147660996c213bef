"""The command `cartlm report`; `cartlm.cli` adds it."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import click

from cartlm import command
from cartlm.compare.load import load_metrics
from cartlm.errors import UserError
from cartlm.files import write_text
from cartlm.params import Params
from cartlm.pipeline import dvc_lock
from cartlm.pipeline.repository import Tree
from cartlm.report import models, paper

if TYPE_CHECKING:
    from cartlm.report_page.parts import Sources

ROOT, METRICS, OUTPUT = Path("."), Path("metrics"), Path("build/report.html")


def sources(settings: Params, root: Path = ROOT, show_rows: bool = False, commits: int = 20) -> Sources:
    """What the page of a checkout is made from. Raises UserError for numbers that no stage writes."""
    from cartlm.data.card import OURS
    from cartlm.report_page.parts import Sources  # as below: an environment for rows alone has no Jinja

    studies = models.studies(root)
    for tree in (Tree(root), *(Tree(root, None, f"results/{each.name}") for each in studies)):
        load_metrics(tree)  # names the file
    ours = models.default(root / METRICS, settings.variants.names, settings.base.path, settings.base.source)
    # Of the rows that are here, whatever params.yaml says by now.
    data = dvc_lock.read_stages(Tree(root)).get("data")
    made = data.params.get("params.yaml", {}).get("data", {}) if data else {}
    is_ours = settings.data.source in OURS and made.get("source", settings.data.source) in OURS
    shown = show_rows or settings.data.show_rows or is_ours
    path = settings.data.path or paper.GENERATED
    # The page may be sent to others: a local folder's path is nobody's business.
    dataset = path if settings.data.source == "hub" else Path(path).name
    return Sources(root, [ours, *studies], dataset, shown, commits)


@click.command(cls=command.Guard)
@click.option(
    "--output", type=click.Path(path_type=Path), default=OUTPUT, show_default=True, help="The page's file."
)  # fmt: skip
@click.option("--markdown", "as_markdown", is_flag=True, help="Print the recommendation as Markdown instead.")
@click.option(
    "--commits", type=click.IntRange(2, 500), default=20, show_default=True, help="Commits in the trend."
)
@click.option("--show-rows", is_flag=True, help="Show failed rows of a private source too.")
def report(output: Path, as_markdown: bool, commits: int, show_rows: bool) -> None:
    """All measured numbers as one page that opens from disk and fetches nothing, from metrics/ and results/."""
    from cartlm.report_page import page

    if output.is_dir():
        raise UserError(f"{output} is a folder", f"cartlm report --output {quote(str(output / OUTPUT.name))}")
    found = sources(command.params(), ROOT, show_rows, commits)
    if as_markdown:
        print(page.markdown(found), end="")
        return
    text = page.html(found)
    try:
        write_text(output, text)
    except OSError as error:
        raise UserError(
            f"{output} cannot be written: {error.strerror}", "cartlm report --output FILE elsewhere"
        ) from None
    print(f"{output} is ready, {len(text.encode()) / 1e6:.1f} MB: open it in a browser")


COMMANDS = (report,)
