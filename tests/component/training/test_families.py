"""Every supported family through the stages: base, a few steps of QLoRA, merge, GGUF, quantization, both engines.

Of these Gemma 3 differs most from the Llama that all other tests have; the others run every night, after the base stage.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cartlm.engines import llama_cpp, transformers
from cartlm.engines.answer import agreement
from cartlm.engines.model_dir import read_json
from cartlm.errors import UserError
from cartlm.quantization import gguf, gptq
from cartlm.quantization.config import Gptq
from cartlm.quantization.imatrix import chunk_rows
from cartlm.task.prompt import PromptBuilder, shared_ids
from cartlm.training import base, merge, qlora
from tests.component.training.conftest import job, make_base
from tests.component.training.logits import logit_distance
from tests.fixtures.families import TOYS, make_toy, qwen2_vocabulary
from tests.fixtures.toy import TRAINED, toy_rows

pytestmark = pytest.mark.slow
PADS = {"smollm2": "<spare>", "mistral": "<pad>"}
"""prompt.pad_token of those that bring none."""
ENDS = {"smollm2": {"<|im_end|>"}, "gemma3": {"<end_of_turn>"}}
"""Beside EOS."""
KNOWN = toy_rows()[:TRAINED]


@dataclass(frozen=True)
class Chain:
    name: str
    folder: Path
    base: base.BaseModel
    trained: qlora.Finetuned
    job: qlora.Job

    @property
    def merged(self) -> Path:
        return self.folder / "merged"

    @property
    def f16(self) -> Path:
        return self.folder / "f16.gguf"


FAMILIES = [name for name in TOYS if name != "qwen2"]
NIGHTLY = [pytest.param(name, marks=() if name == "gemma3" else pytest.mark.nightly) for name in FAMILIES]


@pytest.fixture(scope="module", params=NIGHTLY)
def chain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    folder = tmp_path_factory.mktemp(request.param)
    source = make_toy(folder / "source", request.param)
    made = make_base("hub", str(source), None, PADS.get(request.param), folder / "base")
    given = job(folder, folder / "base", max_steps=4, learning_rate=1e-3)
    trained = qlora.finetune(given, folder / "runs", folder / "adapter")
    assert trained is not None
    merge.merge(folder / "base", folder / "adapter", "bfloat16" if request.param == "gemma3" else "float16", "16-bit",
                folder / "merged")  # fmt: skip
    gguf.convert(folder / "merged", folder / "f16.gguf", folder / "log")
    return Chain(request.param, folder, made, trained, given)


def prompts(builder: PromptBuilder) -> list[list[int]]:
    return [builder.prompt_ids(row.prompt) for row in KNOWN]


def check_tokens(name: str, made: base.BaseModel, *folders: Path) -> None:
    """bos, eos and pad of the family are what the base stage says, and what each folder's configs say."""
    toy, numbers = TOYS[name], dict(TOYS[name].tokens.values())
    wanted = (numbers.get(toy.bos or ""), numbers[toy.eos], numbers[PADS.get(name) or toy.pad or ""])
    assert (made.bos_id, made.eos_id, made.pad_id) == wanted
    assert made.llama_cpp_checked
    for folder in folders:
        config, generation = (read_json(folder / f"{file}.json") for file in ("config", "generation_config"))
        kinds = ("bos_token_id", "eos_token_id", "pad_token_id")
        assert tuple(config[kind] for kind in kinds) == wanted
        ends = generation["eos_token_id"]
        if name in ENDS:
            assert ends[0] == wanted[1]
            assert len(ends) == 2
        else:
            assert ends == wanted[1]
        assert generation["do_sample"] is False
        if name == "mistral":
            assert config["sliding_window"] is None


@pytest.mark.usefixtures("llama_cpp")
@pytest.mark.parametrize("name", FAMILIES)
def test_base_takes_each_family(name: str, tmp_path: Path) -> None:
    """Its tokens, its config, and its tokenizer as llama.cpp reads it."""
    source = make_toy(tmp_path / "source", name, steps=0)
    made = make_base("hub", str(source), None, PADS.get(name), tmp_path / "base")
    check_tokens(name, made, tmp_path / "base")


def test_merged_has_the_tokens_of_the_base(chain: Chain) -> None:
    check_tokens(chain.name, chain.base, chain.folder / "base", chain.merged)


def test_all_linear_layers_get_an_adapter(chain: Chain) -> None:
    found = read_json(chain.folder / "adapter/adapter_config.json")["target_modules"]
    assert found == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert chain.trained.steps == 4


def test_merged_answers_as_the_adapter(chain: Chain) -> None:
    builder = transformers.load(chain.merged, threads=1).prompt_builder("\n")
    found = merge.compare(
        chain.folder / "base", chain.folder / "adapter", chain.merged, prompts(builder)[:6], quantization="none",
        compute_dtype="float32", max_new_tokens=40, batch_size=3,
    )  # fmt: skip
    assert found.agreement.share == 1.0


@pytest.fixture(scope="module")
def engines(chain: Chain) -> Iterator[tuple[transformers.Transformers, llama_cpp.LlamaCpp]]:
    with llama_cpp.load(chain.f16, threads=1) as theirs:
        yield transformers.load(chain.merged, threads=1), theirs


def test_both_engines_answer_alike(
    chain: Chain, engines: tuple[transformers.Transformers, llama_cpp.LlamaCpp]
) -> None:
    ours, theirs = engines
    ids = shared_ids(KNOWN, ours.prompt_builder("\n"), theirs.prompt_builder("\n"))
    assert ids == prompts(ours.prompt_builder("\n"))
    one, other = ours.answers(ids, 40, 6), [theirs.answer(each, 40) for each in ids]
    assert agreement(one, other).share == 1.0
    exact = [answer.exact(row.completion) for answer, row in zip(one, KNOWN, strict=True)]
    assert sum(exact) >= 0.8 * len(exact), "it knows these rows"


def test_any_end_token_ends_an_answer(
    chain: Chain,
    engines: tuple[transformers.Transformers, llama_cpp.LlamaCpp],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, theirs = engines
    ends = ours.end_ids
    assert ends == theirs.end_ids
    names = {TOYS[chain.name].eos} | ENDS.get(chain.name, set())
    assert {theirs.token_name(token) for token in ends} == names
    ids = prompts(ours.prompt_builder("\n"))[0]
    whole = ours.answer(ids, 40)
    for engine in engines:  # as if the third token of the answer were one
        monkeypatch.setattr(engine, "end_ids", ends | {whole.token_ids[2]})
        cut = engine.answer(ids, 40)
        assert (cut.token_ids, cut.finish_reason) == (whole.token_ids[:2], "stop")
    assert ours.verify_draft(ids, 40, whole.token_ids).token_ids == whole.token_ids[:2]


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_K_M"])
def test_quantized_gguf_answers(chain: Chain, kind: str) -> None:
    made = gguf.quantize(chain.f16, chain.folder / f"{kind}.gguf", kind, threads=1, log=chain.folder / "log")
    with llama_cpp.load(chain.folder / f"{kind}.gguf", threads=1) as engine:
        answers = [engine.answer(ids, 40) for ids in prompts(engine.prompt_builder("\n"))[:6]]
    if kind == "Q8_0":
        exact = [answer.exact(row.completion) for answer, row in zip(answers, KNOWN, strict=False)]
        assert sum(exact) >= 5
        assert made.fallback_shares(kind) == {}
    if kind == "Q4_K_M":  # rows of 64 and 96 weights
        groups = {"token_embd", "attention", "ffn"} | ({"output"} if chain.name == "mistral" else set())
        assert made.fallback_shares(kind) == dict.fromkeys(groups, 1.0)


def test_a_fixed_cache_answers_as_a_growing_one(
    chain: Chain, engines: tuple[transformers.Transformers, llama_cpp.LlamaCpp]
) -> None:
    ids = prompts(engines[0].prompt_builder("\n"))[:7]
    fixed = transformers.load(chain.merged, device="cpu", threads=1, fixed=max(map(len, ids)) + 40)
    wanted = engines[0].answers(ids, 40, 4)
    assert [one.token_ids for one in fixed.answers(ids, 40, 4)] == [one.token_ids for one in wanted]


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_gptq_answers(chain: Chain) -> None:
    how = Gptq(bits=8, group_size=32, symmetric=True, act_order=False, damp=0.05)
    builder = transformers.load(chain.merged, threads=1).prompt_builder("\n")
    rows = [builder.prompt_ids(row.prompt) + builder.completion_ids(row.completion) for row in KNOWN]
    made = gptq.quantize(
        chain.merged, chain.folder / "int8", how, rows, device="cpu", threads=1, runs=chain.folder / "gptq"
    )
    layers = TOYS[chain.name].config.get("num_hidden_layers", 2)
    assert made["quantize"]["quantized_matrices"] == 7 * layers
    engine = transformers.load(chain.folder / "int8", device="cpu", threads=1)
    answers = [engine.answer(ids, 40) for ids in prompts(builder)]
    exact = [answer.exact(row.completion) for answer, row in zip(answers, KNOWN, strict=True)]
    assert sum(exact) >= 0.8 * len(exact)


@pytest.fixture(scope="module")
def qwen2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """models/base of a Qwen 2 with the real vocabulary, which knows nothing; and what comes of it."""
    folder = tmp_path_factory.mktemp("qwen2")
    vocabulary = qwen2_vocabulary(folder)
    if vocabulary is None:
        pytest.skip("needs llama.cpp's source release in the cache, where docker/llama_cpp.sh keeps it")
    source = make_toy(folder / "source", "qwen2", steps=0, vocabulary=vocabulary, initializer_range=0.3)
    made = make_base("hub", str(source), None, "<|im_start|>", folder / "base")
    assert (made.bos_id, made.eos_id, made.pad_id, made.llama_cpp_checked) == (None, 151643, 151644, True)
    qlora.finetune(
        job(folder, folder / "base", max_steps=1, batch_size=2), folder / "runs", folder / "adapter"
    )
    merge.merge(folder / "base", folder / "adapter", "float16", "16-bit", folder / "merged")
    gguf.convert(folder / "merged", folder / "f16.gguf", folder / "log")
    return folder


@pytest.mark.nightly
def test_qwen2_with_its_own_vocabulary(qwen2: Path) -> None:
    ours = transformers.load(qwen2 / "merged", threads=1)
    assert logit_distance(qwen2 / "merged", qwen2 / "f16.gguf") < 0.05
    with llama_cpp.load(qwen2 / "f16.gguf", threads=1) as theirs:
        assert theirs.adds_bos is False
        assert ours.end_ids == theirs.end_ids == {151643, 151645}
        ids = shared_ids(toy_rows(60), ours.prompt_builder("\n"), theirs.prompt_builder("\n"))
        assert ours.decode(ids[0]) == theirs.decode(ids[0]) == toy_rows()[0].prompt + "\n"
        chunk_rows([(row.prompt, row.completion) for row in toy_rows(60)], theirs, "\n")
    made = gguf.quantize(qwen2 / "f16.gguf", qwen2 / "q.gguf", "Q5_K_M", threads=1, log=qwen2 / "log")
    assert made.fallback_shares("Q5_K_M") == {"token_embd": 1.0, "attention": 1.0, "ffn": 1.0}
    with llama_cpp.load(qwen2 / "q.gguf", threads=1) as engine:
        assert engine.answer(ids[0], 3).decoded_tokens == 3


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_gptq_of_qwen2(qwen2: Path) -> None:
    """Its biases stay."""
    how = Gptq(bits=8, group_size=32, symmetric=True, act_order=False, damp=0.05)
    builder = transformers.load(qwen2 / "merged", threads=1).prompt_builder("\n")
    rows = [builder.prompt_ids(row.prompt) + builder.completion_ids(row.completion) for row in KNOWN]
    gptq.quantize(qwen2 / "merged", qwen2 / "int8", how, rows, device="cpu", threads=1, runs=qwen2 / "gptq")
    given, made = (
        dict(transformers.load(qwen2 / name, device="cpu", threads=1).model.named_parameters())
        for name in ("merged", "int8")
    )
    assert given.keys() == made.keys()
    for name, weights in given.items():
        apart = float((made[name] - weights).detach().norm() / weights.detach().norm())
        assert apart < 0.01, name
        assert (apart > 0) == ("_proj.weight" in name), name


WRONG: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "no pad": ("smollm2", {}, ("has no pad token", "prompt.pad_token")),
    "pad is eos": ("smollm2", {"pad_token": "<|endoftext|>"}, ("pads with its end token", "<spare>")),
    "pad is another end": ("gemma3", {"pad_token": None, "set": "<end_of_turn>"}, ("<end_of_turn>", "the end token")),
    "llama.cpp adds a bos": ("qwen3", {"add_bos_token": True}, ("has no bos token", "add_bos_token to false")),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.usefixtures("llama_cpp")
def test_what_does_not_fit_is_refused(name: str, tmp_path: Path) -> None:
    family, changes, words = WRONG[name]
    source = make_toy(tmp_path / "source", family, steps=0)
    path = source / "tokenizer_config.json"
    pad = changes.pop("set", None)
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")
    with pytest.raises(UserError) as error:
        make_base("hub", str(source), None, pad, tmp_path / "base")
    assert [word for word in words if word not in str(error.value)] == [], str(error.value)
    assert not (tmp_path / "base").exists()


@pytest.mark.usefixtures("llama_cpp")
def test_a_window_that_rows_fill_is_refused(tmp_path: Path) -> None:
    source = make_toy(tmp_path / "source", "mistral", steps=0, sliding_window=600)
    with pytest.raises(UserError, match=r"sliding_window 600.*prompt\.max_tokens=640"):
        make_base("hub", str(source), None, "<pad>", tmp_path / "base")


def test_groups_that_do_not_divide_a_width_are_told(tmp_path: Path) -> None:
    source = make_toy(tmp_path / "source", "qwen3", steps=0)  # 64, 96 and 128 wide
    said = gptq.uneven_groups(source, 128)
    assert said is not None
    assert said.startswith("128 does not divide 64:")
    assert said.endswith("group_size 32 or 16 divides all widths")
    assert gptq.uneven_groups(source, 32) is None
    assert gptq.uneven_groups(source, -1) is None
