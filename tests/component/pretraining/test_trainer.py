"""Pretraining goes on after a kill as if nothing had happened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from base.pretraining import corpus, tokenizer, trainer
from base.pretraining.guidance import Guide
from base.pretraining.recipe import Recipe, rate
from cartlm.errors import UserError
from tests.fixtures import fixed_params

DATA = fixed_params.load().data
RECIPE = Recipe(
    seed=3, vocabulary=512, longest_piece=4, hidden=64, intermediate=128, layers=1, heads=2,
    steps=6, tokens_per_step=2800, learning_rate=0.002, warmup_steps=2, decay_share=0.35, last_rate=0.0, weight_decay=0.01, text_weight=1.0, everyday=0.5,
    guidance=0.3, passing_on=0.2, anchor_head=(0, 0), choice_head=(0, 0), recall_head=(0, 1), copy_head=(0, 1), save_every=2, probe_every=6,
    probe_rows=4,
)  # fmt: skip


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import LlamaTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    lines = (line for text in corpus.texts(DATA, 60, 3) for line in text.split("\n"))
    tokenizer.train(lines, folder, RECIPE.vocabulary, RECIPE.longest_piece)
    return LlamaTokenizer.from_pretrained(folder)


def _with(**changes: Any) -> Recipe:
    return RECIPE.model_copy(update=changes)


def _run(loaded: Any, work: Path, recipe: Recipe = RECIPE, **more: Any) -> Any:
    return trainer.train(recipe, DATA, loaded, work, lambda model: {"exact": 0.0}, lambda line: None, **more)


def test_a_stop_and_a_resume_end_in_the_same_weights(loaded: Any, tmp_path: Path) -> None:
    import torch

    whole = _run(loaded, tmp_path / "whole")

    class Killed(Exception):
        pass

    calls = 0

    def save_then_die(state: trainer.State, folder: Path) -> None:
        nonlocal calls
        save(state, folder)
        calls += 1
        if calls == 2:
            raise Killed

    save = trainer.State.save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.State, "save", save_then_die)
        with pytest.raises(Killed):
            _run(loaded, tmp_path / "cut")
    again = _run(loaded, tmp_path / "cut")
    assert calls == 2
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    log = [json.loads(line) for line in (tmp_path / "cut/log.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == RECIPE.steps
    assert "exact" in log[-1]
    assert {"choices_loss", "recalls_loss", "copies_loss", "meant_loss", "begun_loss"} <= set(log[-1])


def test_another_recipe_never_resumes(loaded: Any, tmp_path: Path) -> None:
    _run(loaded, tmp_path, _with(steps=1))
    with pytest.raises(UserError, match=r"another recipe.*make base"):
        _run(loaded, tmp_path, _with(learning_rate=0.001))


def test_the_rate_warms_up_stays_and_ends_at_zero() -> None:
    rates = [rate(_with(steps=100, warmup_steps=10), step) for step in range(101)]
    assert rates[0] == pytest.approx(0.0002)
    assert rates[10] == rates[60] == 0.002
    assert rates[100] == 0.0
    assert rates[80] < rates[70] < 0.002
    ends = _with(steps=100, warmup_steps=10, last_rate=0.25)
    assert rate(ends, 60) == 0.002
    assert rate(ends, 100) == pytest.approx(0.0005)


def test_a_phase_goes_on_from_the_weights_of_the_one_before(loaded: Any, tmp_path: Path) -> None:
    import torch

    first = _run(loaded, tmp_path / "first", _with(steps=2)).state_dict()
    recipe = _with(steps=2, learning_rate=1e-9)
    more = _run(loaded, tmp_path / "more", recipe, phase=1, start=first).state_dict()
    assert all(torch.allclose(value, more[name], atol=1e-5) for name, value in first.items())
    assert json.loads((tmp_path / "more/log.jsonl").read_text())["phase"] == 2


def test_guidance_reaches_the_guided_heads_alone(loaded: Any) -> None:
    """The weights of queries and keys change by it, in the rows of each guided head."""
    from concurrent.futures import ThreadPoolExecutor

    recipe = RECIPE.model_copy(
        update={"layers": 2, "anchor_head": (0, 0), "choice_head": (0, 1), "copy_head": (1, 1)}
    )
    special = trainer.Special(loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id)

    def tokenize(text: str) -> list[int]:
        return list(loaded(text, add_special_tokens=False)["input_ids"])

    batch = trainer.batches(recipe, DATA, 1, 0, tokenize, special)[0]
    found = []
    for guidance in (1e-9, 0.3):
        model = trainer.build(recipe, special)
        guide = Guide(model, [0, 1])
        with ThreadPoolExecutor(1) as workers:
            changed = recipe.model_copy(update={"guidance": guidance})
            gradients, losses = trainer._gradients(model, batch, changed, guide, workers)
        named = dict(zip([name for name, _ in model.named_parameters()], gradients, strict=True))
        found.append((named["model.layers.1.self_attn.q_proj.weight"], losses))
    (without, plain), (with_it, guided) = found
    assert guided["loss"] > plain["loss"] + 0.1
    moved = (with_it - without).abs().sum(dim=1)
    assert moved[32:].sum() > 10 * moved[:32].sum()  # the copying head is the second one of 32 rows


def test_phases_draw_other_text(loaded: Any) -> None:
    special = trainer.Special(1, 2, 3)

    def ids(phase: int) -> list[int]:
        made = trainer.batches(RECIPE, DATA, phase, 0, lambda text: [ord(c) % 500 for c in text], special)
        return made[0].ids.flatten().tolist()

    assert ids(0) != ids(1)
    assert ids(1) == ids(1)
