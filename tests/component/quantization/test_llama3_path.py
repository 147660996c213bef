"""The paper preset's stages on the real Llama 3 vocabulary: a toy model and 60 rows in the published form.

Everything is as in presets/paper.yaml but the sizes and where model and dataset come from.
"""

from __future__ import annotations

import contextlib
import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cartlm.quantization import gguf
from cartlm.task import rows
from cartlm.task.prompt import PromptBuilder, from_transformers
from tests.fixtures import fixed_params, llama3

ODD = [
    "",
    " ",
    "a\n\n b",
    "dvije boce čaja 12345",
    "¡añade 3!",
    "😀‍👩🏽 \u00a0\u2028",
    "don't WE'LL",
    "<|eot_id|>",
    "\t\t{}",
]
SIZES: dict[str, dict[str, Any]] = {
    "data": {"train": 40, "validation": 12, "calibration": 12, "test": 12, "held_out": None},
    "finetune": {"max_steps": 2, "batch_size": 2, "gradient_accumulation": 2, "save_steps": 1},
    "merge": {"check_rows": 4, "min_agreement": 0.0},
    "parity": {"rows": 12},
    "eval": {"max_new_tokens": 6, "batch_size": 4, "flip_rows": 4, "natural_rows": 0},
}

pytestmark = [pytest.mark.slow, pytest.mark.nightly, pytest.mark.timeout(1800)]


def stage(name: str, *words: str) -> None:
    """Run one stage in this process (importing everything anew for each would take most of the time)."""
    importlib.import_module(f"stages.{name}").main(list(words), standalone_mode=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all stages of the paper preset have run."""
    folder = tmp_path_factory.mktemp("llama3")
    settings = fixed_params.load(fixed_params.PAPER).model_dump()
    settings["base"]["path"] = str(llama3.make_toy_llama3(folder / "hub/model"))
    settings["data"]["path"] = str(llama3.write_dataset(folder / "hub/dataset"))
    for section, sizes in SIZES.items():
        settings[section] |= sizes
    (folder / "params.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    with contextlib.chdir(folder):
        for name in ("base", "data", "finetune", "merge", "convert_gguf", "parity"):
            stage(name)
        stage("quantize_gguf", "q4_k_m")
        stage("evaluate", "q4_k_m")
    return folder


@pytest.fixture(scope="module")
def builders(made: Path) -> tuple[PromptBuilder, PromptBuilder]:
    """Prompt builders of the merged folder (transformers) and of its GGUF (llama.cpp)."""
    from transformers import AutoTokenizer

    from cartlm.engines import llama_cpp

    separator = "\n"
    ours = from_transformers(AutoTokenizer.from_pretrained(made / "models/merged"), separator)
    engine = llama_cpp.load(made / "models/f16/model.gguf", threads=1)
    return ours, engine.prompt_builder(separator)


def test_both_engines_give_the_same_ids(made: Path, builders: tuple[PromptBuilder, PromptBuilder]) -> None:
    ours, theirs = builders
    assert (ours.bos_id, ours.eos_id) == (theirs.bos_id, theirs.eos_id) == (128000, 128001)
    for row in [*rows.read(made / "data/train.jsonl"), *rows.read(made / "data/test.jsonl")]:
        ids = ours.prompt_ids(row.prompt)
        assert ids == theirs.prompt_ids(row.prompt)
        assert ids.count(ours.bos_id) == 1
        assert ids[0] == ours.bos_id
        assert ours.completion_ids(row.completion) == theirs.completion_ids(row.completion)
    for text in ODD:
        assert ours.tokenize(text) == theirs.tokenize(text), text
        assert not {ours.bos_id, ours.eos_id} & set(ours.tokenize(text))


def test_the_pad_token_is_never_an_end(made: Path) -> None:
    from transformers import AutoTokenizer

    for name in ("base", "adapter", "merged"):
        tokenizer = AutoTokenizer.from_pretrained(made / "models" / name)
        assert (tokenizer.pad_token, tokenizer.pad_token_id) == (llama3.PAD, llama3.PAD_ID)
        assert tokenizer.eos_token_id == 128001
    for name in ("base", "merged"):
        for file in ("config.json", "generation_config.json"):
            config = json.loads((made / "models" / name / file).read_text(encoding="utf-8"))
            ends = 128001 if file == "config.json" else [128001, 128009]  # <|eot_id|> too
            assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (
                128000,
                ends,
                128004,
            )
        generation = json.loads(
            (made / "models" / name / "generation_config.json").read_text(encoding="utf-8")
        )
        assert generation["do_sample"] is False
        assert "temperature" not in generation


def test_the_converter_knew_the_tokenizer(made: Path) -> None:
    fields = gguf.open_gguf(made / "models/q4_k_m/model.gguf").fields
    assert fields["tokenizer.ggml.pre"].contents() == "llama-bpe"
    assert len(fields["tokenizer.ggml.tokens"].data) == 128256
    assert fields["tokenizer.ggml.padding_token_id"].contents() == llama3.PAD_ID


def test_rows_are_the_published_ones_byte_for_byte(made: Path) -> None:
    text = (made / "hub/dataset/training_data.jsonl").read_text(encoding="utf-8")
    published = {(one["prompt"], one["completion"]) for one in map(json.loads, text.splitlines())}
    splits = {
        name: rows.read(made / f"data/{name}.jsonl")
        for name in ("train", "validation", "calibration", "test")
    }
    for found in splits.values():
        assert {(row.prompt, row.completion) for row in found} <= published
    assert not {row.id for row in splits["train"]} & {row.id for row in splits["validation"]}
    assert splits["test"] == splits["validation"], (
        "the published dataset has no test: the paper's is its validation"
    )
    assert {row.id for row in splits["calibration"]} <= {row.id for row in splits["train"]}


def test_the_metrics_are_there(made: Path) -> None:
    merge = json.loads((made / "metrics/merge.json").read_text(encoding="utf-8"))
    assert "lm_head" not in merge["bytes"]
    assert merge["bytes"]["embedding"] == 128256 * 256 * 2
    assert (merge["finetune"]["quantization"], merge["finetune"]["steps"]) == ("nf4", 2)
    parity = json.loads((made / "metrics/parity.json").read_text(encoding="utf-8"))
    assert parity["n"] == 12
    assert parity["agreement"] >= 0.995
    assert json.loads((made / "metrics/eval/q4_k_m.json").read_text(encoding="utf-8"))["free"]["n"] == 12
