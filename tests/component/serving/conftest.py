"""A folder with params and toy models, as a repository has them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cartlm import cli
from cartlm.system import cpu_limits
from tests.fixtures import fixed_params

Predict = Callable[..., Result]


@pytest.fixture
def repo(tmp_path: Path, toy_gguf: Path, toy_model: Path) -> Path:
    folder = tmp_path / "repo"
    for variant in ("f16", "q4_k_m"):  # the toy is too narrow for a K-quant: the name alone counts here
        (folder / "models" / variant).mkdir(parents=True)
        (folder / "models" / variant / "model.gguf").symlink_to(toy_gguf)
    (folder / "models/merged").symlink_to(toy_model)
    fixed_params.write(folder)
    return folder


@pytest.fixture
def predict(repo: Path, monkeypatch: pytest.MonkeyPatch) -> Predict:
    monkeypatch.chdir(repo)
    monkeypatch.setattr(cpu_limits, "threads", lambda: 1)  # on a busy machine several wait for each other

    def run(*arguments: str | Path, stdin: bytes = b"") -> Result:
        return CliRunner().invoke(cli.main, ["predict", *map(str, arguments)], input=io.BytesIO(stdin))

    return run


def failed(done: Result, *words: str) -> None:
    assert done.exit_code == 2, done.output
    assert len(done.stderr.splitlines()) == 1, done.stderr
    for word in words:
        assert word in done.stderr
