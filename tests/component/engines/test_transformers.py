"""The transformers engine: batch 1 and padded batches, its loading, and its agreement with llama.cpp."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from cartlm.engines import llama_cpp, model_dir, transformers
from cartlm.engines.llama_cpp import LlamaCpp
from cartlm.engines.transformers import Transformers
from cartlm.errors import UserError
from tests.fixtures.drafts import check_drafts
from tests.fixtures.toy import TRAINED, toy_rows


@pytest.fixture(scope="module")
def engine(toy_model: Path) -> Transformers:
    return transformers.load(toy_model, device="cpu", threads=1)


@pytest.fixture(scope="module")
def other(toy_gguf: Path) -> Iterator[LlamaCpp]:
    with llama_cpp.load(toy_gguf, threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def prompts(engine: Transformers) -> list[list[int]]:
    builder = engine.prompt_builder("\n")
    return [builder.prompt_ids(row.prompt) for row in toy_rows()]


def test_it_answers_what_the_model_learned(engine: Transformers, prompts: list[list[int]]) -> None:
    for row, ids in list(zip(toy_rows(), prompts, strict=True))[:TRAINED]:
        found = engine.answer(ids, 64)
        assert (found.text, found.finish_reason) == (row.completion, "stop")
        assert (found.prompt_tokens, found.decoded_tokens) == (len(ids), len(found.token_ids))
        assert found.prefill_s > 0
        assert found.decode_s > 0


def test_the_cap_holds_and_is_told_from_stopping(engine: Transformers, prompts: list[list[int]]) -> None:
    whole = engine.answer(prompts[0], 64)
    for cap in (1, 5, len(whole.token_ids)):
        cut = engine.answer(prompts[0], cap)
        assert (cut.token_ids, cut.finish_reason) == (whole.token_ids[:cap], "length")
    assert engine.answer(prompts[0], len(whole.token_ids) + 1).finish_reason == "stop"


@pytest.mark.parametrize("cap", [64, 5])
def test_a_draft_changes_nothing_but_the_number_of_passes(
    engine: Transformers, prompts: list[list[int]], cap: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    monkeypatch.setattr(
        engine, "_batch", lambda *given: made.append(1) or Transformers._batch(engine, *given)
    )
    for ids in prompts:
        right = check_drafts(engine, ids, cap).token_ids
        made.clear()
        engine.verify_draft(ids, cap, right)
        assert not made, "a right draft needs one pass"


def test_replicas_answer_as_one_engine_does(
    toy_model: Path, engine: Transformers, prompts: list[list[int]]
) -> None:
    wanted = [engine.answer(ids, 64).token_ids for ids in prompts]
    replicas = transformers.load(toy_model, device="cpu", threads=1, replicas=2).replicas
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda one: [one.answer(ids, 64).token_ids for ids in prompts], replicas)
        assert list(found) == [wanted] * 2


@pytest.mark.parametrize("batch_size", [5, 24])
def test_padded_batches_answer_as_batch_1_and_in_the_order_asked(
    engine: Transformers, prompts: list[list[int]], batch_size: int
) -> None:
    lengths = [len(ids) for ids in prompts]
    assert lengths != sorted(lengths, reverse=True)  # so that sorting back is tested
    together = engine.answers(prompts, 40, batch_size)
    alone = [engine.answer(ids, 40) for ids in prompts]
    assert [one.token_ids for one in together] == [one.token_ids for one in alone]
    assert [one.finish_reason for one in together] == [one.finish_reason for one in alone]
    assert [one.prompt_tokens for one in together] == lengths


def test_rows_of_one_batch_end_apart(engine: Transformers, prompts: list[list[int]]) -> None:
    chosen = prompts[2:18:5]
    cap = max(len(engine.answer(ids, 64).token_ids) for ids in chosen)
    found = engine.answers(chosen, cap, 4)
    assert {one.finish_reason for one in found} == {"stop", "length"}
    assert all(engine.eos_id not in one.token_ids for one in found)


def test_logits_of_a_padded_row_are_those_without_padding(
    engine: Transformers, prompts: list[list[int]]
) -> None:
    """The mask and positions are right, not merely good enough for the likeliest token."""
    seen: dict[int, list[torch.Tensor]] = {}
    forward = engine.model.forward

    def spy(*args: object, **given: object) -> object:
        out = forward(*args, **given)
        seen.setdefault(out.logits.shape[0], []).append(out.logits[:, -1].clone())
        return out

    engine.model.forward = spy
    try:
        engine.answers([prompts[0], prompts[6]], 3, 2)
        order = sorted((0, 6), key=lambda index: -len(prompts[index]))
        for index in order:
            engine.answer(prompts[index], 3)
    finally:
        engine.model.forward = forward
    for row in (0, 1):
        for step in range(3):
            assert torch.allclose(seen[2][step][row], seen[1][3 * row + step][0], atol=1e-4)


def test_both_engines_tokenize_and_decode_alike(engine: Transformers, other: LlamaCpp) -> None:
    mine, theirs = engine.prompt_builder("\n"), other.prompt_builder("\n")
    odd = [
        "",
        " ",
        "  two ",
        "\n\n",
        "Čaj\t1",
        "ž中😀\u200dx\x00",
        "<s></s><pad>\n",
        "12 345",
        "e\u0301",
        "\r\n",
        "\u2028",
    ]
    for text in [*odd, *(row.prompt for row in toy_rows()), *(row.completion for row in toy_rows())]:
        assert mine.tokenize(text) == theirs.tokenize(text)
        assert engine.decode(mine.tokenize(text)) == other.decode(theirs.tokenize(text)) == text
    draw = random.Random(7)
    for _ in range(500):  # byte tokens that make no letter, special tokens, leading spaces
        ids = [draw.randrange(other.vocabulary) for _ in range(8)]
        assert engine.decode(ids) == other.decode(ids)


def test_both_engines_answer_alike(engine: Transformers, other: LlamaCpp, prompts: list[list[int]]) -> None:
    for ids in prompts[:TRAINED]:
        assert engine.answer(ids, 64).token_ids == other.answer(ids, 64).token_ids


def test_the_folders_generation_config_plays_no_part(
    toy_model: Path, tmp_path: Path, prompts: list[list[int]]
) -> None:
    folder = shutil.copytree(toy_model, tmp_path / "model")
    wanted = transformers.load(toy_model, device="cpu", threads=1).answer(prompts[0], 64)
    sampling = {
        "do_sample": True,
        "temperature": 9.0,
        "repetition_penalty": 5.0,
        "eos_token_id": [wanted.token_ids[3]],
    }
    (folder / "generation_config.json").write_text(json.dumps({**sampling, "max_length": 3}))
    assert (
        transformers.load(folder, device="cpu", threads=1).answer(prompts[0], 64).token_ids
        == wanted.token_ids
    )


def test_dtypes(toy_model: Path, prompts: list[list[int]]) -> None:
    found = transformers.load(toy_model, dtype="bfloat16", device="cpu", threads=1)
    assert found.describe()["kernel"] == "bfloat16 on cpu"
    assert found.answer(prompts[0], 64).text == toy_rows()[0].completion


def test_byte_level_pieces_are_decoded_too(toy_model: Path) -> None:
    """The Llama 3 kind of tokenizer, whose vocabulary stands for bytes by printable letters."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    text = " čaj 中\n"
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)[0][0]
    backend = Tokenizer(
        models.BPE(vocab={letter: n for n, letter in enumerate(sorted(set(letters)))}, merges=[])
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<b>", eos_token="<e>")
    engine = Transformers(toy_model, None, tokenizer)
    ids = engine.prompt_builder("").tokenize(text)
    assert len(ids) == len(text.encode())
    assert engine.decode([tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]) == text


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("folder", "no config.json"), ("weights", "does not load"), ("cut", "does not load"),
        ("tensor", "lacks 1 weights"), ("config", "does not load"), ("tokenizer", "does not load"),
    ],
)  # fmt: skip
def test_a_broken_folder_is_one_clear_line(toy_model: Path, tmp_path: Path, damage: str, said: str) -> None:
    folder = shutil.copytree(toy_model, tmp_path / "model")
    weights = folder / "model.safetensors"
    if damage == "folder":
        shutil.rmtree(folder)
    elif damage == "weights":
        weights.rename(folder / "pytorch_model.bin")
    elif damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "tensor":
        from safetensors.torch import load_file, save_file

        tensors = load_file(weights)
        del tensors["model.layers.1.mlp.up_proj.weight"]
        save_file(tensors, weights, metadata={"format": "pt"})
    elif damage == "config":
        (folder / "config.json").write_text("{")
    else:
        for name in ("tokenizer.json", "tokenizer.model"):
            (folder / name).write_text("{")
    with pytest.raises(UserError, match=said) as caught:
        transformers.load(folder)
    assert str(folder) in caught.value.message
    assert "\n" not in str(caught.value)


def test_code_in_the_folder_never_runs(toy_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(toy_model, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "unheard_of",
        "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: pass\nclass Model: pass\n"
    )
    with pytest.raises(UserError, match="does not load"):
        transformers.load(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("checkpoint", "trained", "dtype", "advised"),
    [
        (False, False, "float32", "delete it"),
        (False, True, "float16", "finetune.compute_dtype"),
        (True, False, "float16", "gpu.dtype"),
        (False, False, "float16", "bfloat16 holds"),
    ],
)
def test_nan_names_the_param_that_decides(
    checkpoint: bool, trained: bool, dtype: str, advised: str, engine: Transformers, tmp_path: Path
) -> None:
    """Fine-tuning computes a float32 model in float16; gpu.dtype is that of GPTQ checkpoints alone."""
    if checkpoint:
        (tmp_path / "quantize_config.json").write_text("{}")
    model = torch.nn.Linear(1, 1, dtype=torch.float32 if trained else getattr(torch, dtype))
    model.dtype, model.device = model.weight.dtype, model.weight.device
    broken = Transformers(tmp_path, model, engine.tokenizer)
    with torch.autocast("cpu", torch.float16, enabled=trained), pytest.raises(UserError) as error:
        broken._tokens(torch.tensor([[float("nan")], [0.0]]))
    assert error.value.message == f"{tmp_path} computes NaN or infinity in {dtype}"
    assert advised in error.value.hint
    assert ("in params.yaml" in error.value.hint) == (trained or checkpoint)


def test_a_broken_model_of_ours_is_to_be_made_again(toy_model: Path, tmp_path: Path) -> None:
    """base.path has no say in models/merged."""
    folder = Path(shutil.copytree(toy_model, tmp_path / "merged"))
    (folder / model_dir.WHOLE).write_bytes(b"cut")
    for read in (
        lambda: model_dir.weights(folder), lambda: model_dir.read_json(folder / model_dir.WHOLE),
        lambda: model_dir.load_tokenizer(tmp_path), lambda: model_dir.weights(tmp_path),
    ):  # fmt: skip
        with pytest.raises(UserError) as error:
            read()
        assert error.value.hint == model_dir.AGAIN
    with pytest.raises(UserError) as error:
        model_dir.weights(folder, given=True)
    assert error.value.hint == model_dir.HINT
