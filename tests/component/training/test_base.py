"""models/base: what is kept, what is written, and each wrong folder as one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cartlm.engines.model_dir import load_tokenizer
from cartlm.errors import UserError
from tests.component.training.conftest import make_base


@pytest.fixture
def source(toy_model: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(toy_model, tmp_path / "source"))


def edit(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file; None removes one."""
    value = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    path.write_text(json.dumps({k: v for k, v in value.items() if v is not None}), encoding="utf-8")


def test_weights_and_tokenizer_stay_byte_for_byte(source: Path, tmp_path: Path) -> None:
    made = make_base("embedded", str(source), None, None, tmp_path / "models/base")
    for name in ("model.safetensors", "tokenizer.model", "tokenizer.json"):
        assert (tmp_path / "models/base" / name).read_bytes() == (source / name).read_bytes()
    assert (made.bos_id, made.eos_id, made.pad_id, made.tied) == (1, 2, 3, True)
    assert made.bytes == 2 * made.parameters
    assert (tmp_path / "models/base/model.safetensors").stat().st_mode & 0o777 == 0o644


def test_configs_and_tokenizer_agree_and_decoding_is_greedy(source: Path, tmp_path: Path) -> None:
    import transformers

    edit(source / "generation_config.json", do_sample=True, temperature=0.6, top_p=0.9, eos_token_id=[2, 7])
    edit(source / "config.json", pad_token_id=None, eos_token_id=[2, 7], _name_or_path="/home/me/model")
    make_base("embedded", str(source), None, None, tmp_path / "base")
    config = json.loads((tmp_path / "base/config.json").read_text())
    generation = json.loads((tmp_path / "base/generation_config.json").read_text())
    assert generation == {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3, "do_sample": False}
    assert (config["eos_token_id"], config["pad_token_id"]) == (2, 3)
    assert "/home/me" not in (tmp_path / "base/config.json").read_text()
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    assert model.generation_config.pad_token_id == 3


def no_pad(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", pad_token=None)


def pad_is_eos(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", pad_token="</s>")


@pytest.mark.parametrize("damage", [no_pad, pad_is_eos])
def test_the_pad_token_of_params_stands_in(
    damage: Callable[[Path], None], source: Path, tmp_path: Path
) -> None:
    damage(source)
    with pytest.raises(UserError, match=r"set prompt\.pad_token"):
        make_base("embedded", str(source), None, None, tmp_path / "base")
    assert not (tmp_path / "base").exists()
    made = make_base("embedded", str(source), None, "<pad>", tmp_path / "base")
    assert made.pad_id == 3
    assert load_tokenizer(tmp_path / "base").pad_token_id == 3


@pytest.mark.parametrize(
    ("token", "words"),
    [("<nothing>", "not in the vocabulary"), ("</s>", "is the end token"), ("<s>", "is the bos token")],
)
def test_a_wrong_pad_token_is_named(token: str, words: str, source: Path, tmp_path: Path) -> None:
    no_pad(source)
    with pytest.raises(UserError, match=words) as error:
        make_base("embedded", str(source), None, token, tmp_path / "base")
    assert repr(token) in str(error.value)


def test_any_end_token_of_the_model_is_no_pad(source: Path, tmp_path: Path) -> None:
    edit(source / "generation_config.json", eos_token_id=[2, 3])
    with pytest.raises(UserError, match="pads with its end token"):
        make_base("embedded", str(source), None, None, tmp_path / "base")


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def garbage(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0notjson!")


def lacking(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors")


def integers(folder: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"].to(torch.int8)
    save_file(weights, folder / "model.safetensors")


def missing_shard(folder: Path) -> None:
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").unlink()


def config(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "config.json", **changes)


def text(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content) and None


WRONG: dict[str, tuple[Callable[[Path], None], str]] = {
    "no folder": (shutil.rmtree, "is not a folder; git checkout base/model"),
    "no config": (remove("config.json"), "config.json is missing"),
    "config is no JSON": (text("config.json", "{"), "config.json is not JSON"),
    "another architecture": (config(architectures=["GPT2LMHeadModel"]), "GPT2LMHeadModel"),
    "code of its own": (config(auto_map={"AutoModel": "x.Y"}), "code of its own"),
    "quantized": (config(quantization_config={"quant_method": "gptq"}), "quantized already"),
    "no size": (config(vocab_size=None), "vocab_size"),
    "vocabulary of another size": (config(vocab_size=500), "embed_tokens.weight is"),
    "untied without a head": (config(tie_word_embeddings=False), "lm_head.weight"),
    "no weights": (remove("model.safetensors"), "holds no model.safetensors"),
    "pickled": (pickled, "only pickled weights (pytorch_model.bin)"),
    "truncated": (truncate, "not a whole safetensors file"),
    "garbage": (garbage, "not a whole safetensors file"),
    "a weight is missing": (lacking, "lacks 1 weights such as model.layers.1.mlp.up_proj.weight"),
    "integers": (integers, "model.norm.weight is (64,) in I8"),
    "a shard is missing": (missing_shard, "model-00001-of-00002.safetensors is missing"),
    "no tokenizer": (no_tokenizer, "no tokenizer.json"),
    "broken tokenizer": (text("tokenizer.json", "{}"), "does not load"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_folder_is_one_line(name: str, source: Path, tmp_path: Path) -> None:
    damage, words = WRONG[name]
    damage(source)
    with pytest.raises(UserError) as error:
        make_base("embedded", str(source), None, None, tmp_path / "models/base")
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.hint
    assert not list((tmp_path / "models").glob("*")) if (tmp_path / "models").exists() else True


def test_a_failure_keeps_the_base_that_was_there(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "models/base"
    make_base("embedded", str(source), None, None, target)
    no_pad(source)
    with pytest.raises(UserError):
        make_base("embedded", str(source), None, None, target)
    assert load_tokenizer(target).pad_token_id == 3
    assert [path.name for path in target.parent.iterdir()] == ["base"]


def test_what_a_kill_left_is_removed(source: Path, tmp_path: Path) -> None:
    (tmp_path / f"models/.tmp-{2**22 + 1}-base").mkdir(parents=True)  # of no process that lives
    make_base("embedded", str(source), None, None, tmp_path / "models/base")
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["base"]


def test_code_and_pickles_beside_the_weights_are_not_copied(source: Path, tmp_path: Path) -> None:
    for name in ("modeling_evil.py", "training_args.bin", "README.md"):
        (source / name).write_text("x")
    make_base("hub", str(source), None, None, tmp_path / "base")
    found = {path.name for path in (tmp_path / "base").iterdir()}
    assert not found & {"modeling_evil.py", "training_args.bin", "README.md"}


@pytest.mark.parametrize("path", ["/nowhere/model", "./nowhere", "nowhere", "a/b/c"])
def test_what_is_neither_folder_nor_hub_id_is_named(path: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a folder nor a hub id"):
        make_base("hub", path, None, None, tmp_path / "base")


def test_a_revision_of_a_local_folder_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"base\.revision=main"):
        make_base("hub", str(source), "main", None, tmp_path / "base")


def test_without_network_the_hub_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="the hub does not send the model") as error:
        make_base("hub", "meta-llama/Llama-3.2-1B", None, None, tmp_path / "base")
    assert "set base.path to a local folder" in str(error.value)


def test_only_weights_configs_and_tokenizers_are_asked_for(
    toy_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    asked: dict[str, Any] = {}
    commit = tmp_path / "snapshots/0123abc"
    shutil.copytree(toy_model, commit)

    def snapshot(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(commit)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    made = make_base("hub", "some/model", "v1", None, tmp_path / "base")
    assert (made.revision, asked["name"], asked["revision"]) == ("0123abc", "some/model", "v1")
    allowed = {pattern.rsplit(".", 1)[1] for pattern in asked["allow_patterns"]}
    assert allowed <= {"safetensors", "json", "model", "txt"}
