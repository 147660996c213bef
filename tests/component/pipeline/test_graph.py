"""dvc.yaml against the code: dependencies are the imports, and the graph never reaches into base/dvc.yaml.

A stage depends on its script, its inputs, and the cartlm modules whose change can change the bytes of its
outputs. NOT_TRACKED names the modules that a stage may import without depending on them, and why.
"""

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

from tests import ROOT

NOT_TRACKED = {
    "cartlm/__init__.py": "a version number",
    "cartlm/errors.py": "how a failure is told",
    "cartlm/pipeline/answer_cache.py": "looks whether paid answers are missing, and stops",
    "cartlm/params.py": "checks values; the values themselves are tracked as params",
    "cartlm/system/processes.py": "starts another program; what it starts and with what is in the caller",
    "cartlm/metrics.py": "how numbers are written, not which",
    "cartlm/command.py": "progress, errors and the last line of output",
    "cartlm/pipeline/variants.py": "names the files of variants that are gone",
    "cartlm/yaml_files.py": "reads params.yaml as DVC does; the values themselves are tracked as params",
    "cartlm/system/llama_cpp_build.py": "finds the build that docker/llama_cpp.sh made, which is tracked",
    "cartlm/system/machine.py": "says where a stage ran",
}
PIPELINES = ("dvc.yaml", *sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("*/dvc.yaml")))
DATA_FILES = (".tsv", ".yaml", ".txt", ".json")


def stages(pipeline: str = "dvc.yaml") -> dict[str, dict[str, Any]]:
    """Name -> definition, of a foreach the body."""
    found = yaml.safe_load((ROOT / pipeline).read_text(encoding="utf-8"))["stages"]
    return {name: body.get("do", body) for name, body in found.items()}


def module_files(name: str) -> list[Path]:
    """The files that importing the dotted `name` runs, packages included; empty if it is none of ours."""
    parts = name.split(".")
    files = [ROOT.joinpath(*parts[:i], "__init__.py") for i in range(1, len(parts))]
    last = ROOT.joinpath(*parts)
    files.append(last / "__init__.py" if last.is_dir() else last.with_suffix(".py"))
    return [path for path in files if path.exists()]


def imports(path: Path) -> Iterator[Path]:
    """Files of ours that a script or module imports or starts, those inside functions included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names = [node.value]  # python -m cartlm.bench.worker, in a process of its own
        for name in names:
            if name.split(".")[0] in ("cartlm", "stages"):
                yield from module_files(name)


def closure(script: Path) -> set[str]:
    """All files of ours that a stage script runs or may run, itself included."""
    seen: set[Path] = set()
    queue = [script]
    while queue:
        path = queue.pop()
        if path not in seen:
            seen.add(path)
            # An excluded module's own imports are followed only where a tracked one imports them too.
            if path.relative_to(ROOT).as_posix() not in NOT_TRACKED:
                queue.extend(imports(path))
    return {path.relative_to(ROOT).as_posix() for path in seen if not is_docstring(path)}


def is_docstring(path: Path) -> bool:
    """Whether a file holds nothing that runs, as most __init__.py."""
    return all(isinstance(node, ast.Expr) for node in ast.parse(path.read_text(encoding="utf-8")).body)


def declared(body: dict[str, Any]) -> set[str]:
    """The code files among a stage's dependencies, folders as their files."""
    found = set()
    for dep in body.get("deps", []):
        if dep.startswith(("cartlm", "stages", "base/pre")):
            path = ROOT / dep
            assert path.exists(), f"dvc.yaml: {dep} does not exist"
            if path.suffix in DATA_FILES:
                continue
            files = (
                [path] if path.is_file() else [p for p in path.rglob("*.py") if "__pycache__" not in p.parts]
            )
            found |= {file.relative_to(ROOT).as_posix() for file in files if not is_docstring(file)}
    return found


def script(body: dict[str, Any]) -> Path:
    cmd = body["cmd"] if isinstance(body["cmd"], str) else body["cmd"][-1]
    words = cmd.split()
    assert words[:2] == ["python", "-m"], cmd
    return ROOT / (words[2].replace(".", "/") + ".py")


@pytest.mark.parametrize(("pipeline", "name"), [(file, name) for file in PIPELINES for name in stages(file)])
def test_dependencies_are_the_imports(pipeline: str, name: str) -> None:
    body = stages(pipeline)[name]
    needed, listed = closure(script(body)), declared(body)
    assert needed - listed - set(NOT_TRACKED) == set(), f"{name} imports these and does not depend on them"
    assert listed - needed - set(NOT_TRACKED) == set(), f"{name} depends on these and does not import them"


@pytest.mark.parametrize("folder", ["metrics/gptq", "metrics/quantize"])
def test_a_folder_that_stages_read_is_there_without_a_variant(folder: str) -> None:
    """git keeps no empty one, so a clone of `gptq: {}` would lack what summarize depends on."""
    assert (ROOT / folder / ".gitkeep").exists()
    assert ".gitkeep" in (ROOT / ".dvcignore").read_text(encoding="utf-8").split()  # and it is no input


def test_every_exclusion_exists_and_has_a_reason() -> None:
    for path, reason in NOT_TRACKED.items():
        assert (ROOT / path).exists(), path
        assert reason


def test_data_files_of_a_package_are_tracked_with_it() -> None:
    """Whoever imports a module that stands beside data files depends on the whole folder."""
    for name, body in stages().items():
        for path in closure(script(body)) & {
            "cartlm/data/lexicon.py",
            "cartlm/data/wording.py",
            "cartlm/data/noise.py",
        }:
            folder = Path(path).parent.as_posix()
            assert folder in body["deps"], f"{name} reads the data files of {folder}"
        if "cartlm/report/paper.py" in closure(script(body)):
            assert "cartlm/report/paper.yaml" in body["deps"], f"{name} reads the paper's figures"


@pytest.mark.parametrize("name", stages())
def test_a_stage_script_is_thin(name: str) -> None:
    path = script(stages()[name])
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 80, path


def test_scripts_and_stages_agree() -> None:
    graph = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in ROOT.glob("*/dvc.yaml")]
    others = {body.get("do", body)["cmd"] for found in graph for body in found["stages"].values()}
    called = {script(body).stem for body in stages().values()}
    for path in (ROOT / "stages").glob("*.py"):
        elsewhere = any(f"stages.{path.stem}" in str(cmd) for cmd in others)
        assert path.stem in called or elsewhere or path.stem == "__init__", f"no stage calls {path}"


def outs(body: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """(path, options, kind) of every output of a stage; kind is outs, metrics or plots."""
    for kind in ("outs", "metrics", "plots"):
        for out in body.get(kind, []):
            yield (out, {}, kind) if isinstance(out, str) else (*next(iter(out.items())), kind)


@pytest.mark.parametrize("name", stages())
def test_outputs_stand_where_design_puts_them(name: str) -> None:
    for path, options, kind in outs(stages()[name]):
        in_git = path.startswith(("metrics/", "docs/"))
        assert options.get("cache", True) is not in_git, (
            f"{path}: in git means cache: false, else DVC's cache"
        )
        measured = path.startswith(("metrics/eval", "metrics/bench", "metrics/outcomes", "metrics/parity"))
        if measured:
            assert (kind, options.get("persist")) == ("outs", True), f"{path} must survive a failing stage"
        assert not options.get("frozen")
        assert in_git or path.startswith(("models/", "data/")), path


def test_top_level_metrics_are_files_with_numbers_only() -> None:
    found = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    for path in found["metrics"]:
        assert path.startswith("metrics/")
        assert "outcomes" not in path
    assert "metrics" not in found["metrics"], "metrics/ holds outcomes too: list its folders"
    listed = tuple(found["metrics"])
    cells = stages("remote/dvc.yaml")["eval-remote"]["metrics"]  # DVC shows those of a stage by itself
    assert [next(iter(cell)) for cell in cells] == ["metrics/remote/${key}.json"]
    listed = (*listed, "metrics/remote/")
    for path in (ROOT / "metrics").rglob("*.json"):
        assert path.relative_to(ROOT).as_posix().startswith(listed), f"{path} is not shown by dvc metrics"


@pytest.mark.parametrize("forbidden", ["frozen", "always_changed"])
def test_no_stage_hides_from_change(forbidden: str) -> None:
    for path in [ROOT / "dvc.yaml", *ROOT.glob("*/dvc.yaml")]:
        assert forbidden not in path.read_text(encoding="utf-8")


def crossings(root: Path) -> list[str]:
    """Stages of other pipeline files that a bare `dvc repro` in `root` would walk into."""
    with Repo(str(root)) as repo:
        graph = repo.index.graph
        own = [stage for stage in graph if stage.path_in_repo == "dvc.yaml"]
        assert own
        seen, queue = set(own), list(own)
        while queue:
            for upstream in graph.successors(queue.pop()):
                if upstream not in seen:
                    seen.add(upstream)
                    queue.append(upstream)
        return sorted(f"{stage.path_in_repo}:{stage.name}" for stage in seen - set(own))


@pytest.fixture
def pipelines(tmp_path: Path) -> Path:
    """A DVC repository with nothing but our pipeline files and params."""
    for path in [
        ROOT / "dvc.yaml",
        ROOT / "params.yaml",
        *ROOT.glob("*/dvc.yaml"),
        *ROOT.glob("*/params.yaml"),
    ]:
        target = tmp_path / path.relative_to(ROOT)
        target.parent.mkdir(exist_ok=True)
        shutil.copy(path, target)
    paper = yaml.safe_load((ROOT / "presets/paper.yaml").read_text(encoding="utf-8"))
    params = yaml.safe_load((tmp_path / "params.yaml").read_text(encoding="utf-8"))
    params["remote"] = paper["remote"]  # so that remote/dvc.yaml has a cell
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    Repo.init(str(tmp_path)).close()
    return tmp_path


def test_the_main_graph_never_reaches_another_pipeline_file(pipelines: Path) -> None:
    assert (pipelines / "base" / "dvc.yaml").exists()
    with Repo(str(pipelines)) as repo:
        assert "eval-remote@gpt-4-1" in {stage.name for stage in repo.index.graph}
    assert crossings(pipelines) == []


def test_the_image_for_cards_runs_all_but_the_other_target_s_benchmark(pipelines: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    found = re.search(
        r"^STAGES := \$\(if \$\(filter gpu,\$\(CARTLM_IMAGE\)\),(.+)\)$", makefile, flags=re.MULTILINE
    )
    assert found
    with Repo(str(pipelines)) as repo:
        graph = repo.index.graph
        main = {stage.name: stage for stage in graph if stage.path_in_repo == "dvc.yaml"}
        asked = {name for name in main if name.partition("@")[0] in found[1].split()}
        upstream = {stage.name for name in asked for stage in nx.descendants(graph, main[name])}
        assert main.keys() - asked - upstream == {"bench-cpu", "summarize"}
        groups = {
            stage.name
            for target in found[1].split()
            for stage in repo.stage.collect(str(pipelines / "dvc.yaml") + ":" + target)
        }
        assert groups == asked


def test_a_dependency_on_the_pretraining_output_would_be_found(pipelines: Path) -> None:
    main = pipelines / "dvc.yaml"
    base = yaml.safe_load((pipelines / "base" / "dvc.yaml").read_text(encoding="utf-8"))
    body = next(body for body in base["stages"].values() if body.get("outs"))
    out = next(iter(outs(body)))[0]
    made = (pipelines / "base" / body.get("wdir", ".") / out).resolve().relative_to(pipelines).as_posix()
    text = main.read_text(encoding="utf-8")
    main.write_text(text.replace("- base/model\n", f"- {made}\n"), encoding="utf-8")
    assert crossings(pipelines) != []
