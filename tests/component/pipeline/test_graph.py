"""dvc.yaml against the code: each stage depends on the packages it imports, and a bare repro stays in the main graph."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
import yaml
from dvc.repo import Repo

from cartlm import yaml_files
from tests import ROOT
from tests.fixtures import fixed_params

NOT_TRACKED = {
    "cartlm/pipeline": "answers that were paid for, files of variants that are gone: it computes nothing",
    "cartlm/system": "where a program runs: in each result as its machine and engine",
}
"""Packages that no stage depends on. Modules beside the packages say how numbers are written, read and reported."""
PIPELINES = ("dvc.yaml", *sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("*/dvc.yaml")))


def stages(pipeline: str = "dvc.yaml") -> dict[str, dict[str, Any]]:
    """Name -> definition, of a foreach the body."""
    found = yaml.safe_load((ROOT / pipeline).read_text(encoding="utf-8"))["stages"]
    return {name: body.get("do", body) for name, body in found.items()}


def imports(path: Path) -> Iterator[str]:
    """Modules of ours that a script imports or starts by name, those inside functions included, as paths."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names = [node.value]  # python -m cartlm.bench.worker
        for name in names:
            module = f"{name.replace('.', '/')}.py"
            if name.startswith(("base.", "cartlm.")) and (ROOT / module).is_file():
                yield module


def modules(script: Path) -> set[str]:
    """Modules in packages of ours that a stage script runs, without those of packages that are not tracked."""
    seen: set[str] = set()
    queue = [script]
    while queue:
        for module in imports(queue.pop()):
            package = module.rpartition("/")[0]
            if module not in seen and package not in ("cartlm", *NOT_TRACKED):
                seen.add(module)
                queue.append(ROOT / module)
    return seen


def script(body: dict[str, Any]) -> str:
    words = body["cmd"].split()
    assert words[:2] == ["python", "-m"]
    return f"{words[2].replace('.', '/')}.py"


@pytest.mark.parametrize(("pipeline", "name"), [(file, name) for file in PIPELINES for name in stages(file)])
def test_a_stage_depends_on_what_it_runs(pipeline: str, name: str) -> None:
    body = stages(pipeline)[name]
    needed = modules(ROOT / script(body))
    code = {dep for dep in body["deps"] if dep.startswith(("cartlm", "stages", "base/pretrain"))}
    assert script(body) in code
    for dep in code:
        assert (ROOT / dep).exists(), f"{dep} is not there"
        assert dep == script(body) or any(module.startswith(dep) for module in needed), f"{dep} is not used"
    configs = {
        f"{module.rpartition('/')[0]}/config.py" for module in needed
    }  # checks of params, tracked as such
    missing = {module for module in needed - configs if not any(module.startswith(dep) for dep in code)}
    assert not missing


def outs(body: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """(path, options, kind) of every output of a stage; kind is outs, metrics or plots."""
    for kind in ("outs", "metrics", "plots"):
        for out in body.get(kind, []):
            yield (out, {}, kind) if isinstance(out, str) else (*next(iter(out.items())), kind)


@pytest.mark.parametrize("name", stages())
def test_numbers_are_in_git_and_survive_a_failing_stage(name: str) -> None:
    for path, options, kind in outs(stages()[name]):
        in_git = path.startswith(("metrics/", "docs/"))
        assert options.get("cache", True) is not in_git
        if path.startswith(("metrics/eval", "metrics/bench", "metrics/outcomes", "metrics/parity")):
            assert (kind, options.get("persist")) == ("outs", True)


@pytest.mark.parametrize(("pipeline", "name"), [(file, name) for file in PIPELINES for name in stages(file)])
def test_dvc_removes_nothing_that_a_killed_stage_goes_on_from(pipeline: str, name: str) -> None:
    """It removes outputs before a stage runs: what lies in runs/ is none, and paid answers persist."""
    for path, options, _ in outs(stages(pipeline)[name]):
        assert not path.startswith("runs")
        assert options.get("persist") or not path.startswith(("data/answers", "data/responses"))


@pytest.mark.parametrize("folder", ["metrics/gptq", "metrics/quantize"])
def test_a_folder_that_stages_read_is_there_without_a_variant(folder: str) -> None:
    """git keeps no empty one, so a clone of `gptq: {}` would lack what summarize depends on."""
    assert (ROOT / folder / ".gitkeep").exists()
    assert ".gitkeep" in (ROOT / ".dvcignore").read_text(encoding="utf-8").split()  # and it is no input


@pytest.fixture
def pipelines(tmp_path: Path) -> Path:
    """A DVC repository with nothing but our pipeline files and params, with a server so that remote/dvc.yaml has a cell."""
    names = [
        "dvc.yaml",
        ".dvcignore",
        *(f"{path.parent.name}/{path.name}" for path in ROOT.glob("*/dvc.yaml")),
    ]
    for name in [*names, "base/params.yaml"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    text = fixed_params.text(fixed_params.PAPER)
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    Repo.init(str(tmp_path)).close()
    shutil.copy(ROOT / ".dvcignore", tmp_path)
    return tmp_path


def stages_of_other_files(root: Path) -> list[str]:
    """Stages of other pipeline files that a bare `dvc repro` in `root` would run."""
    with Repo(str(root)) as repo:
        graph = repo.index.graph
        main = [stage for stage in graph if stage.path_in_repo == "dvc.yaml"]
        assert main
        reached = set(main).union(*(nx.descendants(graph, stage) for stage in main))
        return sorted(f"{stage.path_in_repo}:{stage.name}" for stage in reached - set(main))


def test_a_bare_repro_runs_no_stage_of_another_pipeline_file(pipelines: Path) -> None:
    with Repo(str(pipelines)) as repo:
        assert {"eval-remote@gpt-4-1", "pretrain", "bench-gpu"} <= {stage.name for stage in repo.index.graph}
    assert stages_of_other_files(pipelines) == []


@pytest.mark.parametrize(
    ("dep", "other"),
    [("base/build/model", "base/dvc.yaml:pretrain"), ("metrics/bench", "gpu/dvc.yaml:bench-gpu")],
)
def test_a_dependency_on_another_file_s_output_would_be_found(pipelines: Path, dep: str, other: str) -> None:
    main = yaml_files.parse((pipelines / "dvc.yaml").read_bytes())
    main["stages"]["summarize"]["deps"].append(dep)
    (pipelines / "dvc.yaml").write_text(yaml.safe_dump(main), encoding="utf-8")
    assert other in stages_of_other_files(pipelines)


def test_the_image_for_cards_runs_all_but_the_other_target_s_benchmark(pipelines: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    found = re.search(
        r"^STAGES := \$\(if \$\(filter gpu,\$\(CARTLM_IMAGE\)\),(.+)\)$", makefile, re.MULTILINE
    )
    assert found
    with Repo(str(pipelines)) as repo:
        graph = repo.index.graph
        main = {stage.name: stage for stage in graph if stage.path_in_repo == "dvc.yaml"}
        asked = {name for name in main if name.partition("@")[0] in found[1].split()}
        upstream = {stage.name for name in asked for stage in nx.descendants(graph, main[name])}
        assert main.keys() - asked - upstream == {"bench-cpu", "bench-decoding", "summarize"}


def test_the_rounds_of_a_benchmark_are_no_metric(pipelines: Path) -> None:
    folder = pipelines / "metrics/bench/cpu"
    folder.mkdir(parents=True)
    (folder / "f16.json").write_text('{"cpu": {"load_s": 0.5}}', encoding="utf-8")
    (folder / "rounds.csv").write_text("round,variant,metric,value\n1,f16,cpu.load_s,0.5\n", encoding="utf-8")
    with Repo(str(pipelines)) as repo:
        shown = repo.metrics.show()[""]["data"]
    assert [path for path in shown if "bench" in path] == ["metrics/bench/cpu/f16.json"]
