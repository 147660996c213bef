"""base/pretrain.py: the recipe file is checked, and a small recipe runs to an accepted model."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from safetensors.torch import load_file

from base import pretrain
from base.pretraining import trainer
from tests import ROOT
from tests.fixtures import fixed_params

SMALL = {"vocabulary": 512, "hidden": 64, "intermediate": 64, "layers": 2, "heads": 2, "tokens_per_step": 2800,
         "save_every": 2, "probe_every": 4, "probe_rows": 6,
         "anchor_head": [0, 0], "choice_head": [0, 1], "recall_head": [1, 0], "copy_head": [1, 1]}  # fmt: skip
PHASE = {"steps": 2, "learning_rate": 0.001, "warmup_steps": 1, "decay_share": 0.5, "last_rate": 0.1, "text_weight": 0.5, "everyday": 0.5,
         "guidance": 0.3, "passing_on": 0.2}  # fmt: skip
PHASES = [PHASE | {"steps": 4, "learning_rate": 0.002, "guidance": 0.0, "passing_on": 0.0}, PHASE]


@pytest.fixture(autouse=True)
def small_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrain, "TOKENIZER_TEXTS", 60)


def prepare(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    recipe = yaml.safe_load((ROOT / "base/params.yaml").read_text(encoding="utf-8"))
    recipe["pretraining"]["shape"] |= SMALL
    recipe["pretraining"]["phases"] = [dict(phase) for phase in PHASES]
    change(recipe["pretraining"])
    (folder / "base").mkdir(exist_ok=True)
    fixed_params.write(folder)
    (folder / "base/params.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")


def run(folder: Path, *arguments: str) -> Result:
    """The command in this process and `folder`."""
    with contextlib.chdir(folder):
        return CliRunner().invoke(pretrain.main, list(arguments))


def test_two_phases_make_a_model_with_its_card(tmp_path: Path) -> None:
    prepare(tmp_path, lambda recipe: None)
    done = run(tmp_path)
    assert done.exit_code == 0, done.stderr
    made = tmp_path / "base/build/model"
    log = [json.loads(line) for line in (made / "training_log.jsonl").read_text().splitlines()]
    assert [(line["phase"], line["step"]) for line in log] == [(1, 4), (2, 2)]
    assert json.loads(done.stdout.splitlines()[-1])["phase"] == 2
    card = (made / "README.md").read_text(encoding="utf-8")
    for words in ("  2. ", "guided attention 0.3", "guided attention not used", '"learning_rate": 0.002'):
        assert words in card
    assert not list((tmp_path / "base/build/work").iterdir())
    names = {path.name for path in made.iterdir()}
    assert {"model.safetensors", "tokenizer.model", "tokenizer.json", "config.json"} <= names

    shutil.copytree(made, tmp_path / "base/model")
    prepare(tmp_path, lambda recipe: recipe["phases"].append({**PHASE, "learning_rate": 1e-9}))
    done = run(tmp_path, "--after", "2")
    assert done.exit_code == 0, done.stderr
    again = [json.loads(line) for line in (made / "training_log.jsonl").read_text().splitlines()]
    assert again[:2] == log
    assert [(line["phase"], line["step"]) for line in again] == [(1, 4), (2, 2), (3, 2)]
    weights = [load_file(place / "model.safetensors") for place in (tmp_path / "base/model", made)]
    assert all(torch.allclose(value, weights[1][name], atol=1e-3) for name, value in weights[0].items())

    prepare(tmp_path, lambda recipe: None)
    done = run(tmp_path, "--after", "1")
    assert done.exit_code == 2
    assert "--after 1: base/model was made by 2 phases; python -m base.pretrain --after 2" in done.stderr


def test_a_kill_in_the_second_phase_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kill is an error after the second phase's first checkpoint; a third step would follow."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
        prepare(folder, lambda recipe: recipe["phases"][1].update(steps=3))
    assert run(whole).exit_code == 0
    save = trainer.State.save

    def save_then_die(state: trainer.State, folder: Path) -> None:
        save(state, folder)
        if folder.name.startswith("2-"):
            raise RuntimeError("killed")

    monkeypatch.setattr(trainer.State, "save", save_then_die)
    assert run(cut).exit_code == 2
    monkeypatch.setattr(trainer.State, "save", save)
    assert not (cut / "base/build/model").exists()
    done = run(cut)
    assert done.exit_code == 0, done.stderr
    assert "phase 1 resumed at step 4" in done.stderr
    assert "phase 2 resumed at step 2" in done.stderr
    first, second = (path / "base/build/model/model.safetensors" for path in (whole, cut))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda recipe: recipe["shape"].update(headz=3), "headz"),
        (lambda recipe: recipe["shape"].pop("heads"), "heads"),
        (lambda recipe: recipe["phases"][1].update(learning_rate="fast"), "learning_rate = 'fast'"),
        (lambda recipe: recipe["shape"].update(tokens_per_step=700), "tokens_per_step=700"),
        (lambda recipe: recipe["shape"].update(copy_head=[9, 0]), "no layer 9"),
        (lambda recipe: recipe["shape"].update(hidden=255), "hidden 255"),
        (lambda recipe: recipe["phases"][1].update(hidden=64), "hidden is in shape and in a phase"),
        (lambda recipe: recipe["phases"][0].update(text_weight=0.0), "text_weight = 0.0"),
        (lambda recipe: recipe["phases"][0].update(warmup_steps=0), "warmup_steps = 0"),
        (lambda recipe: recipe["phases"].clear(), "no phase"),
        (lambda recipe: recipe.pop("shape"), "lacks pretraining.shape"),
    ],
)
def test_a_wrong_recipe_is_one_line(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], word: str
) -> None:
    prepare(tmp_path, change)
    done = run(tmp_path)
    assert done.exit_code == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("cartlm: error: ")]
    assert len(errors) == 1, done.stderr
    assert word in errors[0]
    assert "Traceback" not in done.stderr
