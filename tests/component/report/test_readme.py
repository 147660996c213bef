"""README.md against the repository: the results block, the file tree, the commands and the numbers."""

from __future__ import annotations

import re
import shlex

import click
import pytest

from cartlm import params
from cartlm.report import readme, summary
from tests import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
HEAD, BODY, TAIL = readme.parts(README)


def test_the_results_block_is_what_metrics_say() -> None:
    listed = params.load(ROOT / "params.yaml").variants.names
    assert readme.block(ROOT / "metrics", listed) == BODY, "stale: dvc repro summarize"


def test_summary_csv_is_what_metrics_say() -> None:
    path = ROOT / "metrics" / "summary.csv"
    if not path.exists():
        pytest.skip("no repro yet")
    listed = params.load(ROOT / "params.yaml").variants.names
    rows = summary.collect(ROOT / "metrics", listed)
    assert path.read_text(encoding="utf-8") == summary.to_csv(rows), "stale: dvc repro summarize"


def fenced(text: str) -> list[str]:
    return re.findall(r"```\w*\n(.*?)```", text, flags=re.DOTALL)


def test_quick_start_is_exactly_two_commands() -> None:
    section = README.split("## Quick start\n")[1].split("\n## ")[0]
    lines = [line.split("#")[0].strip() for block in fenced(section) for line in block.splitlines()]
    assert [line for line in lines if line] == ["make repro", "make test"]


def test_make_targets_named_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    named = set(
        re.findall(r"\bmake ([a-z-]+)\b", "\n".join([*fenced(README), *re.findall(r"`(.+?)`", README)]))
    )
    assert named
    assert named <= targets


def test_cartlm_commands_named_exist() -> None:
    from cartlm.cli import main

    lines = [line.removeprefix("$ ") for block in fenced(README) for line in block.splitlines()]
    commands = [
        shlex.split(line, comments=True)
        for line in lines
        if re.match(r"cartlm [a-z]", line) and "  " not in line[:9]
    ]
    assert any(command[1] == "predict" for command in commands)
    for _, name, *arguments in commands:
        given = [part for part in arguments if part not in ("<", "messages.txt")]
        main.get_command(click.Context(main), name).make_context(name, given)  # type: ignore[union-attr]


def tree() -> list[str]:
    """Paths named in the file tree; an indented one is below the last folder that is not."""
    paths: list[str] = []
    folder = ""
    for line in README.split("## Where things are\n")[1].split("```")[1].splitlines()[1:]:
        names, comment = re.split(r"\s{2,}", line.strip(), maxsplit=1)
        assert comment, f"{names} has no comment"
        if not line.startswith(" "):
            folder = names if names.endswith("/") else ""
            paths += names.split()
        else:
            paths += [folder + name for name in names.split()]
    return paths


def test_every_path_of_the_file_tree_exists() -> None:
    made = ("data/", "models/", "runs/", "dvc.lock")
    assert len(tree()) > 20
    for path in tree():
        assert path in made or (ROOT / path).exists(), f"README's tree names {path}"


def test_every_module_has_a_line_in_the_tree() -> None:
    package = ROOT / "cartlm"
    modules = {f"cartlm/{path.name}" for path in package.glob("*.py") if path.stem != "__init__"}
    packages = {f"cartlm/{path.parent.name}/" for path in package.glob("*/__init__.py")}
    assert modules | packages <= set(tree())


def test_no_measured_number_is_typed() -> None:
    """Shares, percentages, rates and times outside the block would go stale in silence."""
    prose = re.sub(r"```.*?```|https?://\S+|arXiv[: ]\S+", "", HEAD + TAIL, flags=re.DOTALL)
    measured = (
        r"\b\d+(?:\.\d+)? ?(?:%|ms\b|MiB\b|MB\b|GB\b|minutes?\b|seconds?\b|tokens/s\b|hours?\b)|\b0\.\d+"
    )
    allowed = {"95 %"}  # the confidence level of the intervals
    found = set(re.findall(measured, prose)) - allowed
    assert not found, f"generate these from metrics/: {sorted(found)}"


def test_linked_files_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target
