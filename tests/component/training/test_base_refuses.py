"""What a later stage would refuse or drop without a word, the base stage refuses: one line, exit code 2, nothing left."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cartlm.errors import UserError
from stages import base as stage
from tests.component.training.broken_bases import (
    CASES,
    EMBEDDING,
    EOS_DICT,
    GGUF,
    HEAD,
    INDEX,
    NORM,
    Damage,
    both,
    config,
    edit,
    index,
    split,
    weights,
)  # fmt: skip
from tests.component.training.conftest import make_base, run_stage
from tests.fixtures import fixed_params, llama3


@pytest.fixture
def source(toy_model: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(toy_model, tmp_path / "source"))


PARAMS = fixed_params.values()


def run(source: Path, capfd: pytest.CaptureFixture[str], **sections: dict[str, Any]) -> tuple[int, str]:
    """The stage in a folder of its own: exit code and the last line of stderr."""
    folder = source.parent
    sections["base"] = {"path": str(source)}
    values = PARAMS | {name: PARAMS[name] | changes for name, changes in sections.items()}
    (folder / "params.yaml").write_text(json.dumps(values), encoding="utf-8")
    code, _, errors = run_stage(stage.main, folder, capfd)
    return code, errors[-1]


def refused(
    source: Path, capfd: pytest.CaptureFixture[str], words: tuple[str, ...], **sections: dict[str, Any]
) -> None:
    code, line = run(source, capfd, **sections)
    assert code == 2, line
    assert line.startswith("cartlm: error: ")
    assert [word for word in words if word not in line] == [], line
    assert "; " in line, "no hint"
    models = source.parent / "models"
    assert not models.exists() or not list(models.iterdir())


@pytest.mark.parametrize("name", CASES)
def test_one_error_names_what_is_wrong(name: str, source: Path, tmp_path: Path) -> None:
    damage, words = CASES[name]
    damage(source)
    with pytest.raises(UserError) as error:
        make_base("hub", str(source), None, None, tmp_path / "models/base")
    assert [word for word in words if word not in error.value.message] == [], error.value.message
    assert error.value.hint
    assert not list((tmp_path / "models").glob("*"))


@pytest.mark.usefixtures("llama_cpp")
@pytest.mark.parametrize("name", GGUF)
def test_what_llama_cpp_would_read_otherwise_is_one_line(
    name: str, source: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    damage, words = GGUF[name]
    damage(source)
    refused(source, capfd, words)


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"prompt": {"max_tokens": 4000}}, ("prompt.max_tokens=4000", "max_position_embeddings 1024")),
        ({"prompt": {"separator": "</s>"}}, ("prompt.separator='</s>'", "special token </s>")),
        ({"prompt": {"pad_token": "a"}}, ("pad_token 'a'", "plain text", "prompt.pad_token")),
    ],
)
def test_params_that_do_not_fit_the_model(
    sections: dict[str, Any], words: tuple[str, ...], source: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    edit("tokenizer_config.json", pad_token=None)(source) if "pad_token" in sections["prompt"] else None
    refused(source, capfd, words, **sections)


def test_three_bits_want_sides_of_32(source: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config(intermediate_size=100)(source)

    def cut(tensors: dict[str, np.ndarray]) -> None:
        for name in [name for name in tensors if ".mlp." in name]:
            part = tensors[name]
            tensors[name] = part[:, :100].copy() if "down" in name else part[:100].copy()

    weights(cut)(source)
    three = {"bits": 3, "group_size": 128, "symmetric": True, "act_order": False, "damp": 0.05}
    refused(source, capfd, ("gptq.int3.bits=3", "100"), gptq={"int3": three})
    assert run(source, capfd, gptq={"int3": three | {"bits": 4}})[0] == 0, "the advice works"


def test_a_bfloat16_merge_takes_what_float16_cannot(source: Path, capfd: pytest.CaptureFixture[str]) -> None:
    weights(lambda w: w.update({NORM: w[NORM].astype(np.float32) + 1e5}))(source)
    refused(source, capfd, (NORM, "set merge.dtype to bfloat16"))
    assert run(source, capfd, merge={"dtype": "bfloat16"})[0] == 0


def files(folder: Path) -> set[str]:
    return {path.name for path in (folder.parent / "models/base").glob("*.*") if "safetensors" in path.name}


def test_the_index_s_shards_are_checked_copied_and_loaded(
    source: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """An older whole file beside them is neither; transformers, left to itself, would load that one."""
    import torch
    from transformers import AutoModelForCausalLM

    wanted = load_file(source / "model.safetensors")
    old = {name: tensor * 0 for name, tensor in wanted.items()}
    split(source)
    save_file(old, source / "model.safetensors", metadata={"format": "pt"})
    save_file(old, source / "model-00003-of-00003.safetensors")
    (source / "pytorch_model.bin").write_bytes(b"x")
    code, line = run(source, capfd)  # this index has no metadata, without which transformers loads none
    assert code == 0, line
    assert "left out model-00003-of-00003.safetensors, model.safetensors, pytorch_model.bin" in line
    assert files(source) == {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", INDEX}
    model = AutoModelForCausalLM.from_pretrained(source.parent / "models/base", dtype="float16")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, torch.from_numpy(wanted.get(name, wanted[EMBEDDING]))), name


def test_other_weights_beside_the_whole_file_are_left_out(
    source: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("model.fp16.safetensors", "consolidated.safetensors"):
        shutil.copy(source / "model.safetensors", source / name)
    code, line = run(source, capfd)
    assert code == 0, line
    assert files(source) == {"model.safetensors"}
    assert "left out consolidated.safetensors, model.fp16.safetensors" in line


ACCEPTED: dict[str, Damage] = {
    "several ends, the tokenizer's among them": both(
        config(eos_token_id=7), edit("generation_config.json", eos_token_id=[2, 7])
    ),
    "no generation config": lambda f: (f / "generation_config.json").unlink(),
    "ids below 0": config(pad_token_id=-1),
    "keys that are off": config(sliding_window=None, use_qk_norm=False, quantization_config=None, layer_types=None),
    "keys that count for nothing": config(unsloth_fixed=True, is_llama_config=True, rope_interleaved=False),
    "settings of generation": config(temperature=0.6, do_sample=True, max_length=4096, top_p=0.9),
    "a head that repeats the tied embedding": weights(lambda w: w.update({HEAD: w[EMBEDDING].copy()})),
    "frequencies of an old checkpoint": weights(
        lambda w: w.update({"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(8, np.float32)})
    ),
    "swish": config(hidden_act="swish"),
    "linear": config(rope_parameters=..., rope_theta=10000.0, rope_scaling={"type": "linear", "factor": 2.0}),
    "an index to the whole file": lambda f: index(dict.fromkeys(load_file(f / "model.safetensors"), "model.safetensors"))(f),
    "eos as an object": edit("tokenizer_config.json", eos_token=EOS_DICT | {"content": "</s>"}),
}  # fmt: skip


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_all_stages_take_is_taken(name: str, source: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ACCEPTED[name](source)
    code, line = run(source, capfd)
    assert code == 0, line
    made = json.loads((source.parent / "models/base/config.json").read_text(encoding="utf-8"))
    assert (made["bos_token_id"], made["eos_token_id"], made["pad_token_id"]) == (1, 2, 3)
    assert not made.keys() & {"temperature", "do_sample", "max_length", "top_p"}, (
        "transformers saves no such model"
    )


@pytest.mark.usefixtures("llama_cpp")
def test_llama_3_is_taken(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = llama3.make_toy_llama3(tmp_path / "source")
    code, line = run(
        source, capfd, prompt={"pad_token": llama3.PAD}, gguf={"q4": {"type": "Q4_K_M", "imatrix": True}}
    )
    assert code == 0, line
    made, generation = (
        json.loads((tmp_path / f"models/base/{name}.json").read_text(encoding="utf-8"))
        for name in ("config", "generation_config")
    )
    assert (made["bos_token_id"], made["eos_token_id"], made["pad_token_id"]) == (
        128000,
        128001,
        llama3.PAD_ID,
    )
    assert generation["eos_token_id"] == [128001, 128009]  # <|eot_id|> too
    assert generation["do_sample"] is False
    assert "temperature" not in generation
