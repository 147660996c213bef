"""A variant that left params.yaml, under real DVC: what a bare `dvc repro` removes, and what `cartlm prune`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from dvc.repo import Repo

from cartlm import cli
from tests import ROOT
from tests.fixtures import fixed_params

CELL = "mkdir -p models/${key} metrics/quantize && echo ${key} >models/${key}/a && echo {} >metrics/quantize/${key}.json"
STAGES: dict[str, Any] = {
    "quantize-gguf": {
        "foreach": "${gguf}",
        "do": {"cmd": CELL, "outs": ["models/${key}", {"metrics/quantize/${key}.json": {"cache": False}}]},
    },
    "bench-cpu": {
        "cmd": f"PYTHONPATH={ROOT} {sys.executable} bench.py",
        "deps": ["metrics/quantize"],
        "params": ["gguf"],
        "outs": [{"metrics/bench": {"cache": False, "persist": True}}],
    },
}
BENCH = """
from pathlib import Path
from cartlm import command
from cartlm.pipeline.variants import prune_metrics
prune_metrics(Path("."), command.params().variants)
Path("metrics/bench").mkdir(parents=True, exist_ok=True)
Path("metrics/bench/x.json").write_text("{}")
"""


def test_a_bare_repro_removes_its_metrics_and_prune_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)
    Repo.init().close()
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}), encoding="utf-8")
    Path("bench.py").write_text(BENCH, encoding="utf-8")
    fixed_params.write(tmp_path)
    values = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    block = values["gguf"]["q8_0"]

    def repro(*names: str) -> list[str]:
        values["gguf"] = dict.fromkeys(names, block)
        values["bench_decoding"]["variant"] = "f16"
        Path("params.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
        with Repo() as repo:
            return [stage.addressing for stage in repo.reproduce()]

    def metrics() -> set[str]:
        return {path.stem for path in Path("metrics/quantize").iterdir()}

    assert len(repro("kept", "gone")) == 3
    assert repro("kept") == ["bench-cpu"]
    assert metrics() == {"kept"}
    assert repro("kept") == []  # what the benchmark removed makes nothing stale
    assert CliRunner().invoke(cli.main, ["prune"]).exit_code == 0
    assert not Path("models/gone").exists()
    assert "gone" not in Path("dvc.lock").read_text(encoding="utf-8")
    assert repro("kept") == []
