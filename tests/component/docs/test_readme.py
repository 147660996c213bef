"""README.md: short, its links and paths exist, and no measured number is typed."""

from __future__ import annotations

import re

from tests import ROOT
from tests.component.docs.pages import Page

README = Page("README.md", (ROOT / "README.md").read_text(encoding="utf-8"))
TABLE = re.compile(r"<!-- (results|worth) -->.*?<!-- /\1 -->", flags=re.DOTALL)


def test_it_fits_on_one_page() -> None:
    assert README.text.count("\n") <= 150


def test_quick_start_is_exactly_two_commands() -> None:
    section = README.text.split("## Quick start\n")[1].split("\n## ")[0]
    blocks = list(Page("", section).blocks("", "bash"))
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    assert [line for line in lines if line] == ["make repro", "make test"]


def test_what_is_generated_has_its_place() -> None:
    assert sorted(TABLE.findall(README.text)) == ["results", "worth"]


def test_links_exist() -> None:
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", README.text) if "://" not in target]
    assert len(targets) > 10
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_the_file_tree_names_every_package() -> None:
    tree = README.text.split("## Where things are\n")[1].split("```")[1]
    named = set(re.findall(r"^    (\w+/)", tree, flags=re.MULTILINE))
    assert named == {f"{path.parent.name}/" for path in (ROOT / "cartlm").glob("*/__init__.py")}
    tops = [
        name
        for line in tree.splitlines()
        if not line.startswith(" ")
        for name in re.split(r"\s{2,}", line)[0].split()
    ]
    assert [name for name in tops if not (ROOT / name).exists()] == []


def test_no_measured_number_is_typed() -> None:
    """Accuracies, sizes and speeds would go stale in silence; times of the two commands are given with their machine."""
    prose = re.sub(r"```.*?```|https?://\S+|arXiv[: ]\S+", "", TABLE.sub("", README.text), flags=re.DOTALL)
    assert re.findall(r"\b\d+(?:\.\d+)? ?(?:%|ms\b|MiB\b|MB\b|GB\b|tokens/s\b)|\b0\.\d+", prose) == []
