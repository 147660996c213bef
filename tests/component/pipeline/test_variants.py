"""Names that a variant may have, and what stays of one that left params.yaml."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.repo import Repo

from cartlm import params
from cartlm.errors import UserError
from cartlm.pipeline import variants
from tests import ROOT

TAKEN = (
    "base", "adapter", "merged", "f16", "architecture", "machine", "rounds", "parity", "merge", "merged-nf4", "merged-bfloat16",
)  # fmt: skip


def values() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))


def block(section: str) -> dict[str, Any]:
    paper = yaml.safe_load(params.preset_text(ROOT / "params.yaml", ROOT / "presets/paper.yaml"))
    return next(iter(paper[section].values()))


@pytest.mark.parametrize("name", TAKEN)
@pytest.mark.parametrize("section", ["gguf", "gptq", "remote"])
def test_a_name_that_something_else_has_is_refused(section: str, name: str) -> None:
    given = values()
    given[section][name] = block(section)
    with pytest.raises(UserError, match=re.escape(f"{section}.{name}: that name is taken")) as error:
        params.parse(given, "params.yaml")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["q8.0", "Q8_0", "_x", "a/b", "..", "", " ", "a@b", "x" * 101, "é"])
def test_a_name_that_is_no_file_s_is_refused(name: str) -> None:
    given = values()
    given["gguf"][name] = block("gguf")
    with pytest.raises(UserError, match=r"gguf\.") as error:
        params.parse(given, "params.yaml")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name", ["cpu", "gpu", "data", "summary", "eval", "quantize", "gguf", "key", "models", "x" * 100]
)
def test_any_other_name_goes(name: str) -> None:
    given = values()
    given["gguf"][name] = block("gguf")
    assert name in params.parse(given, "params.yaml").variants.names


@pytest.mark.parametrize("card", ["cpu", "gpu", "accuracy", "models", "cpu-toy"])
def test_a_card_is_not_called_as_other_numbers_are(card: str) -> None:
    given = values()
    given["gpu"]["card"] = card
    with pytest.raises(UserError, match=rf"gpu\.card = '{card}'"):
        params.parse(given, "params.yaml")


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A repository in which real DVC made a folder and a metrics file for each of two variants."""
    pipeline = {
        "stages": {
            "quantize-gguf": {
                "foreach": "${gguf}",
                "do": {
                    "cmd": "mkdir -p models/${key}/deep metrics/quantize && echo ${key} >models/${key}/model.gguf && "
                    "echo b >models/${key}/deep/b && echo {} >metrics/quantize/${key}.json",
                    "outs": ["models/${key}", {"metrics/quantize/${key}.json": {"cache": False}}],
                },
            }
        }
    }
    given = values()
    given["gguf"] = {name: block("gguf") for name in ("kept", "renamed")}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(given, sort_keys=False), encoding="utf-8")
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump(pipeline), encoding="utf-8")
    for name in ("base", "adapter", "merged", "f16", "architecture"):
        (tmp_path / "models" / name).mkdir(parents=True)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    Repo.init(str(tmp_path)).close()
    repro(tmp_path)
    given["gguf"] = {name: block("gguf") for name in ("kept", "new-name")}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(given, sort_keys=False), encoding="utf-8")
    return tmp_path


def repro(root: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "dvc", "repro"], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def prune(root: Path) -> tuple[list[str], list[str]]:
    return variants.prune(root, params.load(root / "params.yaml").variants)


def models(root: Path) -> set[str]:
    return {path.name for path in (root / "models").iterdir() if path.is_dir()}


def test_a_renamed_variant_leaves_nothing(made: Path) -> None:
    for raw in (
        "quantize/renamed.log",
        "quantize/renamed/log",
        "eval/renamed.jsonl",
        "bench/cpu/renamed.jsonl",
        "eval/kept.jsonl",
        "bench/renamed/x",
    ):
        path = made / "runs" / raw
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    repro(made)
    assert models(made) >= {"kept", "renamed", "new-name"}
    removed, kept = prune(made)
    assert set(removed) == {"metrics/quantize/renamed.json", "models/renamed", "quantize-gguf@renamed"}
    assert kept == []
    assert models(made) == {"kept", "new-name", *variants.OTHER_MODELS}
    assert "renamed" not in (made / "dvc.lock").read_text(encoding="utf-8")
    runs = {
        path.relative_to(made / "runs").as_posix() for path in (made / "runs").rglob("*") if path.is_file()
    }
    assert runs == {"eval/kept.jsonl", "bench/renamed/x"}
    assert prune(made) == ([], [])


@pytest.mark.parametrize("change", ["a file of one's own", "another content", "a link"])
def test_what_is_not_as_its_stage_made_it_stays(made: Path, tmp_path: Path, change: str) -> None:
    folder = made / "models/renamed"
    if change == "a link":
        folder.rename(made / "elsewhere")
        folder.symlink_to(made / "elsewhere")
    else:
        path = folder / ("notes.txt" if change == "a file of one's own" else "model.gguf")
        path.unlink(missing_ok=True)
        path.write_text("mine", encoding="utf-8")
    removed, kept = prune(made)
    assert (folder / "model.gguf").exists()
    assert [what.partition(":")[0] for what in kept] == ["models/renamed"]
    assert "models/renamed" not in removed


def test_what_no_stage_made_stays_and_is_named(made: Path) -> None:
    (made / "models/mine").mkdir()
    (made / "models/mine.txt").write_text("", encoding="utf-8")
    assert [what.partition(":")[0] for what in prune(made)[1]] == ["models/mine", "models/mine.txt"]
    assert (made / "models/mine").is_dir()


def test_a_variant_that_moved_to_the_other_section_leaves_its_old_cell(made: Path) -> None:
    given = yaml.safe_load((made / "params.yaml").read_text(encoding="utf-8"))
    del given["gguf"]["kept"]
    given["gptq"]["kept"] = block("gptq")
    (made / "params.yaml").write_text(yaml.safe_dump(given, sort_keys=False), encoding="utf-8")
    gone, _ = prune(made)
    assert {"quantize-gguf@kept", "metrics/quantize/kept.json"} <= set(gone)
    assert "models/kept" not in gone
