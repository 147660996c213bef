"""What DVC writes and reads as YAML is what we read."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo
from dvc.utils.hydra import apply_overrides
from dvc.utils.serialize import load_yaml

from cartlm import params, yaml_files
from tests import ROOT
from tests.fixtures import fixed_params


def same(one: Any, other: Any) -> bool:
    nan = isinstance(one, float) and isinstance(other, float) and math.isnan(one) and math.isnan(other)
    return nan or (type(one) is type(other) and one == other)


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("2e-05", 2e-05), ("1e-4", 1e-4), ("0.00002", 2e-05), ("1e3", 1000.0), ("1E+3", 1000.0), ("-1e-07", -1e-07),
        ("1_000", 1000), ("0o17", "0o17"), ("on", "on"), ("yes", "yes"), ("off", "off"), ("n", "n"), ("true", True),
        ("null", None), ("'~'", "~"), ("'a#b'", "a#b"), ("'a #b'", "a #b"), ("'#b'", "#b"), ("'a: b'", "a: b"),
        (".5", 0.5), ("1.", 1.0), ("inf", math.inf), ("-inf", -math.inf), ("nan", math.nan), ("'2e-05'", "2e-05"),
        ("'null'", "null"), ("'1_000'", "1_000"), ("'on'", "on"), ("''", ""), ("'1:30'", "1:30"), ("2026-11-28", "2026-11-28"),
    ],
)  # fmt: skip
def test_what_dvc_writes_is_what_we_read(tmp_path: Path, given: str, value: Any) -> None:
    """`dvc exp run -S`: Hydra reads the word, ruamel.yaml writes it."""
    path = tmp_path / "params.yaml"
    path.write_text("data: {path: x}\nkept: 1 # why\n", encoding="utf-8")
    apply_overrides(path, [f"data.path={given}"])
    ours = yaml_files.parse(path.read_bytes())["data"]["path"]
    assert same(ours, load_yaml(str(path))["data"]["path"])
    assert same(ours, value)


@pytest.mark.parametrize(
    "text",
    [
        "2e-05", "1e-4", "0.00002", "1_000", "0o17", "017", "0x1F", "0b11", "on", "yes", "off", "y", "NO", "null", "~", "",
        "a#b", "a #b", "'#b'", ".5", "1.", "+.5", ".inf", "-.INF", ".nan", "1:30", "2026-11-28", "2026-11-28 10:00:00",
        "[on, 1e1]", "{a: 1e1}", "&x 1e1", "!!str 1e1", "!!float 1", "|\n  a\n  b", ">-\n  a\n  b", "1e", "e1", "1e400",
    ],
)  # fmt: skip
def test_what_a_hand_wrote_is_to_us_what_it_is_to_dvc(tmp_path: Path, text: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(f"a: {text}\n", encoding="utf-8")
    assert same(yaml_files.parse(path.read_bytes())["a"], load_yaml(str(path))["a"])


@pytest.mark.parametrize(
    ("whole", "value"),
    [
        (b"\xef\xbb\xbfa: on\n", {"a": "on"}), (b"a: 1\r\nb: 2\r\n", {"a": 1, "b": 2}), (b"---\na: 1\n...\n", {"a": 1}),
        (b"x: &x {a: 1, b: 1}\ny:\n  <<: *x\n  b: 2\n", {"x": {"a": 1, "b": 1}, "y": {"a": 1, "b": 2}}),
        (b"a: &x [1]\nb: *x\n", {"a": [1], "b": [1]}), (b"", None), (b"# nothing\n", None),
    ],
)  # fmt: skip
def test_a_whole_file_is_read_as_dvc_does(tmp_path: Path, whole: bytes, value: Any) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(whole)
    assert yaml_files.parse(whole) == value
    assert load_yaml(str(path)) == (value or {})


@pytest.mark.timeout(300)
def test_an_experiment_runs_with_a_value_that_dvc_writes_in_its_own_way(tmp_path: Path) -> None:
    fixed_params.write(tmp_path)
    code = "from cartlm import command; print('rate', command.params().finetune.learning_rate == 0.00002)"
    (tmp_path / "read.py").write_text(code, encoding="utf-8")
    stages = f"stages:\n  t:\n    cmd: {sys.executable} read.py\n    params: [finetune]\n"
    (tmp_path / "dvc.yaml").write_text(stages, encoding="utf-8")
    who = ("-c", "user.name=t", "-c", "user.email=t@example.invalid")
    for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "first"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
        if command[0] == "init":
            Repo.init(str(tmp_path)).close()
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "exp", "run", "-S", "finetune.learning_rate=0.00002"],
        cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert "rate True" in done.stdout, done.stdout + done.stderr
    assert "learning_rate: 2e-05" in (tmp_path / "params.yaml").read_text(encoding="utf-8")
    assert params.load(tmp_path / "params.yaml").finetune.learning_rate == 0.00002
