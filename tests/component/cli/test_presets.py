"""`cartlm preset` in a repository of git."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cartlm import cli, params
from tests import ROOT
from tests.fixtures import fixed_params


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fixed_params.write(tmp_path)
    shutil.copytree(ROOT / "presets", tmp_path / "presets", ignore_dangling_symlinks=True)
    monkeypatch.chdir(tmp_path)
    git("init", "-q")
    commit()
    return tmp_path


def git(*arguments: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *who, *arguments], check=True)


def commit() -> None:
    git("add", "params.yaml")
    git("commit", "-qm", "params")


def cartlm(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, [*arguments], prog_name="cartlm")


def failed(done: Result, *words: str) -> None:
    assert done.exit_code == 2, done.output
    assert len(done.stderr.splitlines()) == 1, done.stderr
    for word in words:
        assert word in done.stderr


def test_preset_overlays_params(repo: Path) -> None:
    (repo / "presets/mine.yaml").write_text("finetune:\n  epochs: 2.5 # more\n", encoding="utf-8")
    done = cartlm("preset", "mine")
    assert done.exit_code == 0, done.stderr
    assert "git checkout params.yaml" in done.stdout
    before = fixed_params.text()
    after = (repo / "params.yaml").read_text(encoding="utf-8")
    assert after == before.replace("  epochs: 1.0\n", "  epochs: 2.5 # more\n")
    assert cartlm("params", "check").exit_code == 0


def test_an_unknown_preset_lists_those_there_are(repo: Path) -> None:
    before = (repo / "params.yaml").read_bytes()
    failed(cartlm("preset", "big"), "no preset big", "paper", "git checkout params.yaml")
    assert (repo / "params.yaml").read_bytes() == before


def test_a_broken_preset_leaves_params_alone(repo: Path) -> None:
    before = (repo / "params.yaml").read_bytes()
    (repo / "presets" / "mine.yaml").write_text("base: {x: 1}\n", encoding="utf-8")
    failed(cartlm("preset", "mine"), "mine.yaml")
    assert (repo / "params.yaml").read_bytes() == before


DOWNLOADED = "base:\n  source: hub\n  path: some/model\n  license: MIT\n  download_mb: 1234.0\n"


def test_a_preset_that_downloads_asks_first(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Licence and size are told; no terminal and no --yes, or a no there, changes nothing."""
    (repo / "presets/mine.yaml").write_text(DOWNLOADED, encoding="utf-8")
    before = (repo / "params.yaml").read_bytes()
    done = cartlm("preset", "mine")
    failed(done, "YES=1")
    assert "some/model: licence MIT" in done.stdout
    assert "1,234 MB" in done.stdout
    assert (repo / "params.yaml").read_bytes() == before
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda _: True)
    done = CliRunner().invoke(cli.main, ["preset", "mine"], input="n\n", prog_name="cartlm")
    assert (done.exit_code, (repo / "params.yaml").read_bytes()) == (2, before)
    assert "make preset" not in done.output, "it may have been a study"
    done = CliRunner().invoke(cli.main, ["preset", "mine"], input="y\n", prog_name="cartlm")
    assert done.exit_code == 0, done.output
    assert "path: some/model" in (repo / "params.yaml").read_text(encoding="utf-8")


def test_yes_and_a_preset_without_a_download_do_not_ask(repo: Path) -> None:
    (repo / "presets/mine.yaml").write_text(DOWNLOADED, encoding="utf-8")
    assert cartlm("preset", "mine", "--yes").exit_code == 0
    git("checkout", "-q", "params.yaml")
    (repo / "presets/mine.yaml").write_text("base:\n  source: gguf\n  path: model.gguf\n", encoding="utf-8")
    assert cartlm("preset", "mine").exit_code == 0
    git("checkout", "-q", "params.yaml")
    (repo / "presets/mine.yaml").write_text("finetune:\n  epochs: 2.0\n", encoding="utf-8")
    assert cartlm("preset", "mine").exit_code == 0


def test_a_second_preset_does_not_mix_with_the_first(repo: Path) -> None:
    assert cartlm("preset", "smollm2", "--yes").exit_code == 0
    before = (repo / "params.yaml").read_bytes()
    assert cartlm("preset", "smollm2", "--yes").exit_code == 0, "nothing changes"
    git("add", "params.yaml")
    failed(cartlm("preset", "gemma3-270m", "--yes"), "not committed", "git checkout HEAD params.yaml")
    assert (repo / "params.yaml").read_bytes() == before
    git("checkout", "-q", "HEAD", "params.yaml")
    assert cartlm("preset", "gemma3-270m", "--yes").exit_code == 0


def test_without_a_git_repository_nothing_is_compared(repo: Path) -> None:
    shutil.rmtree(repo / ".git")
    assert cartlm("preset", "smollm2", "--yes").exit_code == 0
    assert cartlm("preset", "none").exit_code == 0


def test_a_multilingual_preset_over_a_committed_one_trains_on_all_languages(repo: Path) -> None:
    assert cartlm("preset", "smollm2", "--yes").exit_code == 0
    commit()
    assert cartlm("preset", "gemma3-270m", "--yes").exit_code == 0
    assert params.load(repo / "params.yaml").data.train_languages is None


def test_a_wrong_params_file_is_not_the_presets_fault(repo: Path) -> None:
    (repo / "params.yaml").write_text((repo / "params.yaml").read_text() + "evil: 1\n")
    failed(cartlm("preset", "smollm2", "--yes"), "params.yaml: evil", "cartlm params check")
