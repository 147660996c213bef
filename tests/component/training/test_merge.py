"""Merging for real: what is written, and that it answers as the adapter did."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from cartlm.engines.answer import Agreement, Divergence
from cartlm.engines.model_dir import load_tokenizer
from cartlm.engines.transformers import load
from cartlm.errors import UserError
from cartlm.task.prompt import from_transformers
from cartlm.training import merge, qlora
from cartlm.training.config import Merge
from stages import merge as stage
from tests.component.training.conftest import job, make_base, run_stage, stage_folder
from tests.fixtures.toy import toy_rows

Trained = tuple[Path, qlora.Finetuned, qlora.Job]
PLAIN = {"quantization": "none", "compute_dtype": "float32"}


@pytest.fixture(scope="module")
def merged(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, merge.Merged]:
    adapter, _, given = trained
    target = tmp_path_factory.mktemp("merged") / "models/merged"
    return target, merge.merge(given.base, adapter, "float16", "16-bit", target)


def prompts(folder: Path, count: int) -> list[list[int]]:
    builder = from_transformers(load_tokenizer(folder), "\n")
    return [
        builder.prompt_ids(row.prompt) for row in toy_rows(60)[48 - count : 48]
    ]  # the base knows the first 18


def compare(trained: Trained, folder: Path, **changes: str) -> tuple[Agreement, dict[str, str | int]]:
    adapter, _, given = trained
    options: dict[str, Any] = {"quantization": "nf4", "compute_dtype": "bfloat16", **changes}
    asked = prompts(given.base, 12)
    compared = merge.compare(given.base, adapter, folder, asked, max_new_tokens=40, batch_size=6, **options)
    return compared.agreement, compared.engine


def test_the_tie_is_kept_and_bytes_add_up(merged: tuple[Path, merge.Merged]) -> None:
    folder, made = merged
    weights = load_file(folder / "model.safetensors")
    assert "lm_head.weight" not in weights
    assert "lm_head" not in made.bytes_by_group
    assert sum(made.bytes_by_group.values()) == sum(tensor.nbytes for tensor in weights.values())
    assert made.bytes_by_group["embedding"] == weights["model.embed_tokens.weight"].nbytes
    assert {str(tensor.dtype) for tensor in weights.values()} == {"torch.float16"}
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is True


def test_each_matrix_is_base_plus_adapter_rounded_once(
    trained: Trained, merged: tuple[Path, merge.Merged]
) -> None:
    adapter, _, given = trained
    before, after = load_file(given.base / "model.safetensors"), load_file(merged[0] / "model.safetensors")
    lora = load_file(adapter / "adapter_model.safetensors")
    for name, tensor in after.items():
        wanted = before[name].float()
        if f"base_model.model.{name.removesuffix('.weight')}.lora_A.weight" in lora:
            part = f"base_model.model.{name.removesuffix('.weight')}"
            wanted = wanted + 16 / 8 * lora[f"{part}.lora_B.weight"] @ lora[f"{part}.lora_A.weight"]
            assert not torch.equal(before[name], tensor)
        torch.testing.assert_close(tensor.float(), wanted, rtol=1e-3, atol=1e-6)


def test_the_merged_model_answers_as_the_adapter(trained: Trained, merged: tuple[Path, merge.Merged]) -> None:
    exact, engine = compare(trained, merged[0], **PLAIN)
    assert (exact.n, exact.share) == (12, 1.0)
    assert engine["name"] == "transformers"


def test_a_lost_adapter_would_show(trained: Trained) -> None:
    _, _, given = trained
    assert compare(trained, given.base, **PLAIN)[0].share < 0.7


def test_merging_onto_nf4_is_another_model(
    trained: Trained, merged: tuple[Path, merge.Merged], tmp_path: Path
) -> None:
    adapter, _, given = trained
    made = merge.merge(given.base, adapter, "float16", "nf4", tmp_path / "merged")
    assert made.bytes_by_group == merged[1].bytes_by_group
    ours, theirs = (
        load_file(tmp_path / "merged/model.safetensors"),
        load_file(merged[0] / "model.safetensors"),
    )
    assert ours.keys() == theirs.keys()
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(ours[name], theirs[name])
    torch.testing.assert_close(ours[name].float(), theirs[name].float(), rtol=0.2, atol=0.1)
    assert torch.equal(ours["model.embed_tokens.weight"], theirs["model.embed_tokens.weight"])
    assert "quantization_config" not in json.loads((tmp_path / "merged/config.json").read_text())
    # It is the model that the adapter was trained on, rounded to float16.
    assert compare(trained, tmp_path / "merged", compute_dtype="float32")[0].share == 1.0


def test_what_was_saved_is_compared(merged: tuple[Path, merge.Merged], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(merged[0], tmp_path / "m"))
    model = load(folder, dtype="float16").model
    merge.check_saved(folder, model, "float16")
    original = (folder / "config.json").read_text()
    (folder / "config.json").write_text(json.dumps({**json.loads(original), "dtype": "float32"}))
    with pytest.raises(UserError, match=r"config\.json has dtype float32"):
        merge.check_saved(folder, model, "float16")
    (folder / "config.json").write_text(original)
    weights = load_file(folder / "model.safetensors")
    save_file(
        {**weights, "lm_head.weight": weights["model.embed_tokens.weight"].clone()},
        folder / "model.safetensors",
    )
    with pytest.raises(UserError, match=r"lm_head\.weight differs"):
        merge.check_saved(folder, model, "float16")
    weights["model.norm.weight"] += 1
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.norm\.weight differs"):
        merge.check_saved(folder, model, "float16")


def test_what_float16_cannot_hold_is_refused(trained: Trained, tmp_path: Path) -> None:
    adapter = Path(shutil.copytree(trained[0], tmp_path / "adapter"))
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file({name: tensor * 1e4 for name, tensor in weights.items()}, adapter / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"does not fit into float16.*bfloat16"):
        merge.merge(trained[2].base, adapter, "float16", "16-bit", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_an_adapter_of_another_base_and_a_broken_one_are_one_line(trained: Trained, tmp_path: Path) -> None:
    adapter = Path(shutil.copytree(trained[0], tmp_path / "adapter"))
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file(
        {name: tensor[..., :-1].clone() for name, tensor in weights.items()},
        adapter / "adapter_model.safetensors",
    )
    with pytest.raises(UserError, match=r"does not fit the base model.*dvc repro -f finetune"):
        merge.merge(trained[2].base, adapter, "float16", "16-bit", tmp_path / "merged")
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"adapter_model\.safetensors is missing"):
        merge.merge(trained[2].base, adapter, "float16", "16-bit", tmp_path / "merged")


def test_an_untied_head_stays_a_head(toy_model: Path, tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(toy_model)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone() * 1.1)
    shutil.copytree(toy_model, tmp_path / "untied")
    model.half().save_pretrained(tmp_path / "untied")
    make_base("embedded", str(tmp_path / "untied"), None, None, tmp_path / "models/base")
    given = job(tmp_path, tmp_path / "models/base", max_steps=1)
    qlora.finetune(given, tmp_path / "runs", tmp_path / "adapter")
    made = merge.merge(given.base, tmp_path / "adapter", "float16", "16-bit", tmp_path / "merged")
    assert made.bytes_by_group["lm_head"] == made.bytes_by_group["embedding"]


@pytest.mark.slow
def test_the_stage_writes_model_and_metrics(
    trained: Trained, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    adapter, _, given = trained
    folder = stage_folder(tmp_path / "run", given.base)
    code, _, errors = run_stage(stage.main, folder, capfd)
    assert code == 2
    assert errors[-1] == "cartlm: error: models/adapter is missing; dvc repro finetune"
    shutil.copytree(adapter, folder / "models/adapter")
    code, last, errors = run_stage(stage.main, folder, capfd)
    assert code == 0, errors
    metrics = json.loads((folder / "metrics/merge.json").read_text())
    assert metrics["n"] == 8
    assert metrics["agreement"] == json.loads(last)["agreement"] == metrics["onto_16_bit"]["agreement"]
    assert metrics["adapter"]["n"] == metrics["onto_nf4"]["n"] == 8
    for name in ("adapter", "onto_16_bit", "onto_nf4"):
        share = metrics[name]
        assert share["exact_match_low"] <= share["exact_match"] <= share["exact_match_high"]
    assert [path.name for path in folder.glob("runs/*merge*")] == ["merge.json"]
    assert set(metrics["bytes"]) == {"embedding", "attention", "mlp", "norm"}
    assert metrics["machine"]["hash"]
    assert metrics["base"]["source"] == "embedded"  # of models/base/origin.json
    assert "dequantized_from" not in metrics["base"]
    assert metrics["finetune"]["device"] in ("cpu", "cuda")


@pytest.mark.slow
def test_a_merge_that_is_only_compared_stops_nothing(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    adapter, _, given = trained
    folder = stage_folder(tmp_path / "run", given.base)
    shutil.copytree(adapter, folder / "models/adapter")
    kept = merge.merge

    def fail(*arguments: Any) -> merge.Merged:
        made = kept(*arguments)
        if arguments[-1] != stage.MERGED:
            raise OSError(28, "No space left on device", str(arguments[-1]))
        return made

    monkeypatch.setattr(merge, "merge", fail)
    code, _, errors = run_stage(stage.main, folder, capfd)
    assert code == 0, errors
    assert "No space left" in "".join(errors)
    metrics = json.loads((folder / "metrics/merge.json").read_text())
    assert "onto_16_bit" in metrics
    assert "onto_nf4" not in metrics
    assert [path.name for path in folder.glob("runs/*merge*")] == ["merge.json"]


@pytest.mark.slow
def test_a_merge_that_lost_the_training_stops(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """One line, exit code 2; figures, answers and models stay, and the same command passes once params allow it."""
    adapter, _, given = trained
    folder = stage_folder(tmp_path / "run", given.base)
    shutil.copytree(adapter, folder / "models/adapter")
    kept = merge.merge

    def lose(*arguments: Any) -> merge.Merged:
        made = kept(*arguments)
        shutil.copy(given.base / "model.safetensors", arguments[-1] / "model.safetensors")
        return made

    def merge_with(**changes: Any) -> tuple[int, str]:
        values = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
        values["merge"] |= {"check_rows": 12, **changes}
        (folder / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
        code, _, errors = run_stage(stage.main, folder, capfd)
        return code, errors[-1]

    monkeypatch.setattr(merge, "merge", lose)
    code, line = merge_with(min_agreement=0.99)
    agreement = json.loads((folder / "metrics/merge.json").read_text(encoding="utf-8"))["agreement"]
    assert agreement < 0.7
    assert code == 2
    for word in (f"{agreement:.4g} of 12", "merge.min_agreement=0.99", "merge.onto: nf4", "runs/merge.json"):
        assert word in line
    differ = json.loads((folder / "runs/merge.json").read_text(encoding="utf-8"))
    assert len(differ) == round(12 * (1 - agreement))
    assert all(one["adapter"] != one["merged"] for one in differ)
    assert (folder / "models/adapter/adapter_model.safetensors").exists()
    assert (folder / "models/merged/model.safetensors").exists()

    monkeypatch.setattr(merge, "merge", kept)
    assert merge_with(onto="nf4")[0] == 0, "the advice works"
    assert json.loads((folder / "metrics/merge.json").read_text(encoding="utf-8"))["agreement"] >= 0.99


def test_ways_of_merging_begin_with_the_one_that_is_kept() -> None:
    assert merge.ways("16-bit", "nf4") == ["16-bit", "nf4"]
    assert merge.ways("nf4", "nf4") == ["nf4", "16-bit"]
    assert merge.ways("16-bit", "none") == ["16-bit"]


@pytest.mark.parametrize(
    ("share", "least", "onto", "quantization", "said"),
    [
        (0.4, 0.5, "16-bit", "nf4", "merge.onto: nf4"),
        (0.4, 0.5, "nf4", "nf4", "learning_rate"),
        (0.4, 0.5, "16-bit", "none", "learning_rate"),
        (0.5, 0.5, "16-bit", "nf4", None),
        (0.0, 0.0, "16-bit", "nf4", None),
    ],
)
def test_the_least_agreement(
    share: float, least: float, onto: Literal["16-bit", "nf4"], quantization: str, said: str | None
) -> None:
    alike = Agreement(10, [Divergence(at, "a", "b") for at in range(round(10 * (1 - share)))])
    assert alike.share == pytest.approx(share)
    settings = Merge(dtype="float16", onto=onto, check_rows=10, min_agreement=least)
    if said is None:
        merge.require_agreement(alike, settings, quantization)
        return
    with pytest.raises(UserError, match=said) as error:
        merge.require_agreement(alike, settings, quantization)
    assert f"{share:g} of 10" in error.value.message
