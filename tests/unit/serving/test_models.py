"""Which model a name, a file or a folder means, and how it is asked."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from cartlm.errors import UserError
from cartlm.serving.models import Settings, default_variant, find_model
from tests.fixtures import fixed_params
from tests.fixtures.baseline import write_baseline


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A repository with models that nobody loads, whose params differ from the defaults."""
    folder = tmp_path / "shop"
    for name in ("q4_k_m", "merged", "elsewhere"):
        (folder / "models" / name).mkdir(parents=True)
    (folder / "models/q4_k_m/model.gguf").write_bytes(b"GGUF")
    for name in ("config.json", "model.safetensors"):
        (folder / "models/merged" / name).touch()
    write_baseline(folder / "models/baseline/model.json")
    fixed_params.write(folder)
    text = (folder / "params.yaml").read_text(encoding="utf-8")
    (folder / "params.yaml").write_text(text.replace("max_tokens: 640", "max_tokens: 99"), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("model", "engine", "path"),
    [
        ("q4_k_m", "llama.cpp", "models/q4_k_m/model.gguf"),
        ("baseline", "rules", "models/baseline/model.json"),
        ("merged", "transformers", "models/merged"),
        ("models/q4_k_m", "llama.cpp", "models/q4_k_m/model.gguf"),
        ("models/q4_k_m/model.gguf", "llama.cpp", "models/q4_k_m/model.gguf"),
        ("models/merged", "transformers", "models/merged"),
        ("models/baseline", "rules", "models/baseline/model.json"),
    ],
)
def test_names_files_and_folders_in_the_repository(
    repo: Path, monkeypatch: pytest.MonkeyPatch, model: str, engine: str, path: str
) -> None:
    monkeypatch.chdir(repo)
    found = find_model(model)
    assert (found.engine, found.path.absolute()) == (engine, repo / path)
    assert found.settings == Settings(max_tokens=99)
    assert found.baseline == repo / "models/baseline/model.json"
    monkeypatch.chdir(repo.parent)
    if os.sep in model:  # from anywhere: the params are those of the model's own repository
        assert find_model(repo / model).settings == found.settings
    monkeypatch.chdir(repo / "models")
    if os.sep not in model and model not in ("q4_k_m", "merged"):
        assert find_model(model).path == repo / path


def test_a_model_outside_of_any_repository_has_the_defaults(repo: Path, tmp_path: Path) -> None:
    shutil.copytree(repo / "models", tmp_path / "other/models")
    (tmp_path / "other/params.yaml").write_text("train: {seed: 1}\n", encoding="utf-8")  # another project's
    found = find_model(tmp_path / "other/models/q4_k_m")
    assert found.settings == Settings()
    assert found.baseline == tmp_path / "other/models/baseline/model.json"
    alone = tmp_path / "alone.gguf"
    alone.write_bytes(b"GGUF")
    assert find_model(alone).baseline is None
    assert found.settings.given(separator=" ", max_tokens=None) == Settings(separator=" ")


def test_what_names_no_model_says_what_would(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="'q4_k_m' names no model"):
        find_model("q4_k_m")
    with pytest.raises(UserError, match="default"):
        default_variant()
    monkeypatch.chdir(repo)
    assert default_variant() == "q4_k_m"
    with pytest.raises(UserError, match="no variant 'q9'"):
        find_model("q9")
    with pytest.raises(FileNotFoundError, match=r"models/q8_0/model\.gguf"):
        find_model("q8_0")
    with pytest.raises(FileNotFoundError, match="models/q9"):
        find_model("models/q9")
    with pytest.raises(UserError, match="holds no model"):
        find_model("models/elsewhere")
    for name in ("a.gguf", "b.gguf"):
        (repo / "models/elsewhere" / name).touch()
    with pytest.raises(UserError, match=r"a\.gguf, b\.gguf"):
        find_model("models/elsewhere")
    with pytest.raises(UserError, match=r"params\.yaml is no model"):
        find_model("./params.yaml")
    (repo / "rules.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="no baseline"):
        find_model("rules.json")
    (repo / "params.yaml").write_text("prompt: {separator: 1}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"params\.yaml"):
        find_model("models/q4_k_m")
