"""Every command, param, path and example that the documents name exists and is accepted."""

from __future__ import annotations

import itertools
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from pydantic import BaseModel

from cartlm import params
from cartlm.cli import main
from tests import ROOT
from tests.component.docs.pages import Page, pages
from tests.fixtures import fixed_params

PAGES = pages()
MADE = (
    "build/",
    "data/",
    "models/",
    "runs/",
    "metrics/",
    "my-",
    ".venv/",
    ".dvc/",
    "base/build/",
    "docs/results.md",
    "results/",
)
"""Paths that a run, DVC or the reader makes."""
TO_WRITE = {"cartlm/data/sqlite_source.py", "cartlm/engines/first_line.py"}


def named(pattern: str) -> list[tuple[str, str]]:
    """(page, command) of each command that begins with `pattern`."""
    return [(page.name, line) for page in PAGES for line in page.commands() if re.match(pattern, line)]


def targets() -> set[str]:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    rules = re.findall(r"^([a-z][a-z -]*):(?!=)", text, flags=re.MULTILINE)
    return {target for rule in rules for target in rule.split()}


def test_make_targets_exist() -> None:
    found = [(page, line, line.split()[1]) for page, line in named(r"make [a-z]")]
    assert len(found) > 30
    assert [each for each in found if each[2] not in targets()] == []


def test_the_documents_name_most_targets_of_make_help() -> None:
    listed = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert len(listed & {line.split()[1] for _, line in named(r"make [a-z]")}) > len(listed) / 2


@pytest.mark.parametrize("line", sorted({line for _, line in named(r"make [a-z]")}))
def test_make_expands_each_command(line: str) -> None:
    """With the variables given; -n runs nothing. REV, as a checkout may have no main."""
    words = shlex.split(line)
    base = [] if "REV=" in line else ["REV=HEAD"]
    done = subprocess.run([*words, "-n", *base], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def parsed(arguments: list[str]) -> click.Context:
    """The context of a command line of cartlm, parsed and not run. Raises click's errors."""
    context, command = click.Context(main, info_name="cartlm"), main
    while isinstance(command, click.Group):
        name, *arguments = arguments
        found = command.get_command(context, name)
        assert found is not None, f"cartlm has no command {name}"
        command = found
    return command.make_context(command.name, arguments, parent=context)


def cartlm_lines() -> list[tuple[str, str]]:
    return [(page, line) for page, line in named(r"cartlm [a-z][a-z-]* ?") if "cartlm:" not in line]


@pytest.mark.parametrize(("page", "line"), cartlm_lines())
def test_cartlm_commands_parse(page: str, line: str) -> None:
    words = [word for word in shlex.split(line) if word != "..."][1:]
    if len(words) == 1:  # named in a sentence, without its arguments
        assert main.get_command(click.Context(main), words[0]), f"{page}: {line}"
    else:
        parsed(words)


def test_a_wrong_option_is_noticed() -> None:
    with pytest.raises(click.UsageError):
        parsed(["compare", "HEAD", "--no-such-option"])


def stages(path: Path) -> set[str]:
    """The stages of a pipeline file, and the cells of those with `foreach`."""
    settings = fixed_params.load().model_dump()
    found: set[str] = set()
    for name, stage in yaml.safe_load(path.read_text(encoding="utf-8"))["stages"].items():
        section = re.fullmatch(r"\$\{(\w+)\}", str(stage.get("foreach", "")))
        found |= {name, *(f"{name}@{key}" for key in (settings[section[1]] if section else ()))}
    return found


def test_dvc_stages_and_files_exist() -> None:
    known = stages(ROOT / "dvc.yaml")
    for page, line in named(r"dvc (repro|commit)"):
        for word in shlex.split(line)[2:]:
            if not word.startswith("-") and not word.isupper():
                assert word in known or (ROOT / word).is_file(), f"{page}: {line}"


def test_modules_that_are_run_exist() -> None:
    lines = [line for _, line in named(r"(python|accelerate) .*-m [a-z]")]
    modules = {re.search(r"-m ([\w.]+)", line)[1] for line in lines}  # type: ignore[index]
    ours = {name for name in modules if name.split(".")[0] in ("stages", "cartlm", "gpu", "base", "tests")}
    assert ours
    assert [name for name in ours if not (ROOT / f"{name.replace('.', '/')}.py").is_file()] == []


def keys() -> Iterator[tuple[str, str]]:
    sections = "|".join(params.Params.model_fields)
    for page in PAGES:
        for code in page.code():
            if match := re.fullmatch(rf"((?:{sections})\.[\w.]+)(?:: .*|=.*)?", code):
                yield page.name, match[1]


def follow(model: Any, key: str) -> bool:
    """Whether a dotted key names a field of `model`."""
    for name in key.split("."):
        if not (isinstance(model, type) and issubclass(model, BaseModel)) or name not in model.model_fields:
            return False
        model = model.model_fields[name].annotation
    return True


def test_params_named_exist() -> None:
    found = list(keys())
    assert len(found) > 20
    assert [
        (page, key)
        for page, key in found
        if not follow(params.Params, key) and not key.endswith((".py", ".md", ".json", ".csv"))
    ] == []
    assert not follow(params.Params, "data.no_such_key")


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    return base | {
        key: merged(base[key], value)
        if isinstance(base.get(key), dict) and isinstance(value, dict)
        else value
        for key, value in over.items()
    }


def overlays() -> list[tuple[str, dict[str, Any]]]:
    """The YAML blocks that are sections of params.yaml."""
    found = []
    for page in PAGES:
        for block in page.blocks("yaml"):
            if "--8<--" not in block:
                found.append((page.name, yaml.safe_load(block)))
    return found


@pytest.mark.parametrize(("page", "values"), overlays())
def test_examples_of_params_are_accepted(page: str, values: dict[str, Any]) -> None:
    base = fixed_params.values()
    params.parse(merged(base, values), page)


def paths(page: Page) -> Iterator[str]:
    for code in page.code():
        if re.fullmatch(
            r"[\w.-]*(/[\w.-]+)+/?|[\w-]+\.(md|py|toml|txt|yaml|yml|json)", code
        ) and not code.startswith("/"):
            yield code


def base_models() -> set[str]:
    """The hub ids that presets name."""
    presets = (yaml.safe_load(path.read_text(encoding="utf-8")) for path in (ROOT / "presets").glob("*.yaml"))
    return {preset["base"]["path"] for preset in presets if "base" in preset}


def test_paths_exist() -> None:
    found = [(page.name, path) for page in PAGES for path in paths(page)]
    assert len(found) > 60
    missing = [
        (page, path)
        for page, path in found
        if "/" in path
        and path not in TO_WRITE
        and path not in base_models()
        and not path.startswith(MADE)
        and not (ROOT / path).exists()
        and not (ROOT / ".github" / path).exists()
    ]
    assert missing == []


def test_links_go_to_a_projects_own_home() -> None:
    hosts = {host for page in PAGES for host in re.findall(r"https?://([^/\s)`]+)", page.text)}
    assert not {host for host in hosts if re.search(r"pypi|anaconda|npmjs|docker\.io|ghcr", host)}


def recipe_rows(name: str) -> Iterator[tuple[list[str], list[str]]]:
    """(files, names) of each table row of a contributing page: two neighbouring cells of inline code."""
    for line in (ROOT / "docs/contributing" / name).read_text(encoding="utf-8").splitlines():
        cells = [re.findall(r"`([^`]+)`", cell) for cell in line.split("|")[1:-1]]
        for files, names in itertools.pairwise(cells):
            if files and names and all((ROOT / file).is_file() for file in files):
                yield files, names


@pytest.mark.parametrize(("page", "least"), [("variant.md", 16), ("engine.md", 9)])
def test_recipes_name_what_is_in_the_files(page: str, least: int) -> None:
    rows = list(recipe_rows(page))
    assert len(rows) >= least
    missing = []
    for files, names in rows:
        texts = [(ROOT / file).read_text(encoding="utf-8") for file in files]
        missing += [
            (files, name)
            for name in names
            if not any(re.search(rf"\b{re.escape(name)}\b", text) for text in texts)
        ]
    assert missing == []


def test_the_recipe_of_a_variant_names_every_file_that_knows_a_section_by_name() -> None:
    knows = re.compile(r"\b(?:settings|params|variants|self)\.gptq\b|\"gptq\"(?!:| if)")
    own = {"cartlm/quantization/gptq.py", "cartlm/engines/gptq.py", "cartlm/bench/random_weights.py"}
    files = [
        path.relative_to(ROOT).as_posix()
        for folder in ("cartlm", "stages")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if knows.search(path.read_text(encoding="utf-8"))
    ]
    listed = {file for row, _ in recipe_rows("variant.md") for file in row}
    assert len(files) > 8
    assert sorted(set(files) - own - listed) == []
