"""Names that a variant may have, and what stays of one that left params.yaml."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.repo import Repo

from cartlm import params
from cartlm.errors import UserError
from cartlm.pipeline import variants
from cartlm.pipeline.repository import Tree
from tests import ROOT
from tests.fixtures import fixed_params

TAKEN = (
    "baseline", "base", "adapter", "merged", "f16", "architecture", "machine", "rounds", "parity", "merge", "merged-nf4", "merged-bfloat16",
)  # fmt: skip


def values() -> dict[str, Any]:
    return fixed_params.values()


def block(section: str) -> dict[str, Any]:
    paper = fixed_params.values(fixed_params.PAPER)
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
def repo(tmp_path: Path) -> Path:
    """What DVC leaves of two variants, `kept` and `gone`, of which params.yaml lists the first."""
    stages = {}
    for name in ("kept", "gone"):
        for file in (f"models/{name}/model.gguf", f"models/{name}/deep/b", f"metrics/quantize/{name}.json"):
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_text(name, encoding="utf-8")
        out = {"path": f"models/{name}", "md5": Tree(tmp_path).md5(f"models/{name}")}
        stages[f"quantize-gguf@{name}"] = {"cmd": f"make {name}", "outs": [out]}
        with Repo.init(str(tmp_path), no_scm=True, force=True) as dvc:
            dvc.add(str(tmp_path / "models" / name))
        (tmp_path / f"models/{name}.dvc").unlink()
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}), encoding="utf-8")
    for name in variants.OTHER_MODELS:
        (tmp_path / "models" / name).mkdir()
    return tmp_path


def prune(root: Path, **sections: dict[str, Any]) -> tuple[list[str], list[str]]:
    given = values()
    given["bench_decoding"]["variant"] = "f16"
    given |= {"gguf": {"kept": block("gguf")}, **sections}
    return variants.prune(root, params.parse(given, "params.yaml").variants)


def models(root: Path) -> set[str]:
    return {path.name for path in (root / "models").iterdir() if path.is_dir()}


def test_a_variant_that_left_leaves_nothing(repo: Path) -> None:
    for raw in (
        "quantize/gone.log", "quantize/gone/log", "eval/gone.jsonl", "bench/cpu/gone.jsonl", "eval/kept.jsonl",
        "bench/gone/x",
    ):  # fmt: skip
        (repo / "runs" / raw).parent.mkdir(parents=True, exist_ok=True)
        (repo / "runs" / raw).write_text("")
    removed, kept = prune(repo)
    assert removed == ["metrics/quantize/gone.json", "models/gone", "quantize-gguf@gone"]
    assert kept == []
    assert models(repo) == {"kept", *variants.OTHER_MODELS}
    assert "gone" not in (repo / "dvc.lock").read_text(encoding="utf-8")
    runs = {
        path.relative_to(repo / "runs").as_posix() for path in (repo / "runs").rglob("*") if path.is_file()
    }
    assert runs == {"eval/kept.jsonl", "bench/gone/x"}
    assert prune(repo) == ([], [])


def test_the_reference_model_s_numbers_and_the_rounds_stay(repo: Path) -> None:
    names = ("reference.json", "rounds.csv", "machine.json", "baseline.json", "gone.json")
    for name in names:
        (repo / "metrics/bench/cpu").mkdir(parents=True, exist_ok=True)
        (repo / "metrics/bench/cpu" / name).write_text("", encoding="utf-8")
    prune(repo)
    assert {path.name for path in (repo / "metrics/bench/cpu").iterdir()} == {*names} - {"gone.json"}


@pytest.mark.parametrize("lost", ["files/md5", "files/md5/*/*[!r]"])
def test_the_only_copy_of_a_model_stays(repo: Path, lost: str) -> None:
    for path in (repo / ".dvc/cache").glob(lost):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    removed, kept = prune(repo)
    assert kept == ["models/gone: DVC's cache has no copy"]
    assert (repo / "models/gone/model.gguf").exists()
    assert "models/gone" not in removed


@pytest.mark.parametrize("change", ["a file of one's own", "another content", "a link"])
def test_what_is_not_as_its_stage_made_it_stays(repo: Path, change: str) -> None:
    folder = repo / "models/gone"
    if change == "a link":
        folder.rename(repo / "elsewhere")
        folder.symlink_to(repo / "elsewhere")
    else:
        path = folder / ("notes.txt" if change == "a file of one's own" else "model.gguf")
        path.write_text("mine", encoding="utf-8")
    removed, kept = prune(repo)
    assert (folder / "model.gguf").exists()
    assert [what.partition(":")[0] for what in kept] == ["models/gone"]
    assert "models/gone" not in removed


def test_what_no_stage_made_stays_and_is_named(repo: Path) -> None:
    (repo / "models/mine").mkdir()
    (repo / "models/mine.txt").write_text("", encoding="utf-8")
    assert [what.partition(":")[0] for what in prune(repo)[1]] == ["models/mine", "models/mine.txt"]
    assert (repo / "models/mine").is_dir()


def test_a_variant_that_moved_to_the_other_section_leaves_its_old_cell(repo: Path) -> None:
    removed, _ = prune(repo, gguf={}, gptq={"kept": block("gptq")})
    assert {"quantize-gguf@kept", "metrics/quantize/kept.json"} <= set(removed)
    assert "models/kept" not in removed


def test_the_rest_of_a_lock_keeps_its_bytes(tmp_path: Path) -> None:
    """DVC's own way to write it, on the graph's own lock."""
    before = (ROOT / "dvc.lock").read_text(encoding="utf-8")
    (tmp_path / "dvc.lock").write_text(before + "  eval@gone:\n    cmd: x\n", encoding="utf-8")
    cells = [name.partition("@")[2] for name in yaml.safe_load(before)["stages"] if "@" in name]
    given = variants.Variants(cells, cells, cells, (), ())
    assert variants.prune(tmp_path, given) == (["eval@gone"], [])
    assert (tmp_path / "dvc.lock").read_text(encoding="utf-8") == before


def test_a_broken_lock_removes_no_model(repo: Path) -> None:
    (repo / "dvc.lock").write_text("stages: [", encoding="utf-8")
    with pytest.raises(UserError, match=r"dvc\.lock"):
        prune(repo)
    assert (repo / "models/gone").is_dir()
