"""The site builds strictly, every page is in it, and no page fetches anything from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_built(site: Path) -> None:
    sources = {path.relative_to(ROOT / "docs").with_suffix("") for path in (ROOT / "docs").rglob("*.md")}
    built = {path.relative_to(site).with_suffix("") for path in site.rglob("*.html")}
    assert sources <= built


def test_nothing_comes_from_the_network(site: Path) -> None:
    fetched = re.compile(
        r"<(?:script|img|iframe)[^>]+src=\"?(https?:[^\"> ]+)|<link[^>]+stylesheet[^>]+(https?:[^\"> ]+)"
    )
    assert {
        path.name: match[0] for path in site.rglob("*.html") if (match := fetched.search(path.read_text()))
    } == {}


def test_commands_and_library_are_documented(site: Path) -> None:
    commands = (site / "reference/commands.html").read_text(encoding="utf-8")
    assert "cartlm predict" in commands
    assert "Sentinel" not in commands
    assert "cartlm.task.prompt.PromptBuilder" in (site / "reference/task.html").read_text(encoding="utf-8")


def test_the_page_of_all_numbers_is_in_the_site(site: Path) -> None:
    text = (site / "report.html").read_text(encoding="utf-8")
    assert '<section id="recommendation">' in text
    assert 'href="../report.html"' in (site / "howto/see-all-numbers.html").read_text(encoding="utf-8")


def test_the_tables_render(site: Path) -> None:
    for name in ("data", "paper", "pull-request"):
        assert "<table>" in (site / f"{name}.html").read_text(encoding="utf-8"), name
