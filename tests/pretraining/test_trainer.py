"""Pretraining goes on after a kill as if nothing had happened."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cartlm import params
from cartlm.pretraining import corpus, tokenizer, trainer

DATA = params.load(Path(__file__).parents[2] / "params.yaml").data
RECIPE = trainer.Recipe("nothing", 3, 512, 4, 64, 128, 1, 2, 6, 2800, 0.002, 2, 0.35, 0.01, 2, 6, 4)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import LlamaTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    lines = (line for text in corpus.texts(DATA, 150, 3) for line in text.split("\n"))
    tokenizer.train(lines, folder, RECIPE.vocabulary, RECIPE.longest_piece)
    return LlamaTokenizer.from_pretrained(folder)


def _run(loaded: Any, work: Path, recipe: trainer.Recipe = RECIPE) -> Any:
    return trainer.run(recipe, DATA, loaded, work, lambda model: {"exact": 0.0}, lambda line: None)


def test_a_stop_and_a_resume_end_in_the_same_weights(loaded: Any, tmp_path: Path) -> None:
    import torch

    whole = _run(loaded, tmp_path / "whole")

    class Killed(Exception):
        pass

    calls = 0

    def save_then_die(folder: Path, state: dict[str, Any]) -> None:
        nonlocal calls
        save(folder, state)
        calls += 1
        if calls == 2:
            raise Killed

    save = trainer._save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "_save", save_then_die)
        with pytest.raises(Killed):
            _run(loaded, tmp_path / "cut")
    again = _run(loaded, tmp_path / "cut")
    assert calls == 2
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    log = [json.loads(line) for line in (tmp_path / "cut/log.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == RECIPE.steps
    assert "exact" in log[-1]


def test_another_recipe_never_resumes(loaded: Any, tmp_path: Path) -> None:
    _run(loaded, tmp_path)
    with pytest.raises(ValueError, match="another recipe"):
        _run(loaded, tmp_path, replace(RECIPE, learning_rate=0.001))


def test_too_few_tokens_a_step_are_refused(loaded: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tokens_per_step=700"):
        _run(loaded, tmp_path, replace(RECIPE, tokens_per_step=700))


def test_the_rate_warms_up_stays_and_ends_at_zero() -> None:
    rates = [trainer.rate(replace(RECIPE, steps=100, warmup_steps=10), step) for step in range(101)]
    assert rates[0] == pytest.approx(0.0002)
    assert rates[10] == rates[60] == 0.002
    assert rates[100] == 0.0
    assert rates[80] < rates[70] < 0.002


def test_training_goes_on_from_an_accepted_model(loaded: Any, tmp_path: Path) -> None:
    import torch

    first = _run(loaded, tmp_path / "first", replace(RECIPE, steps=2))
    accepted = tmp_path / "accepted"
    first.to(torch.float16).save_pretrained(accepted)
    (accepted / "training_log.jsonl").write_text((tmp_path / "first/log.jsonl").read_text())
    more = _run(loaded, tmp_path / "more", replace(RECIPE, start=str(accepted), steps=2, learning_rate=1e-9))
    for name, value in first.state_dict().items():
        assert torch.allclose(value.float(), more.state_dict()[name], atol=1e-3), name
    log = [json.loads(line) for line in (tmp_path / "more/log.jsonl").read_text().splitlines()]
    assert [line.get("before", False) for line in log] == [True, False]
    assert log[1]["tokens"] > log[0]["tokens"]
