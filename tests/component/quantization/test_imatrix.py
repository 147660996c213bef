"""The importance matrix against transformers' own activations, and what reaches the quantized file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cartlm.engines import llama_cpp
from cartlm.errors import UserError
from cartlm.quantization import imatrix
from cartlm.system import llama_cpp_build
from cartlm.task import rows
from tests.component.quantization.in_process import stage


def pairs(repo: Path) -> list[tuple[str, str]]:
    return [(row.prompt, row.completion) for row in rows.read(repo / "data/calibration.jsonl")]


def activations(folder: Path, examples: list[list[int]]) -> dict[str, np.ndarray]:
    """Mean squared inputs of the matrices, by GGUF name: the definition, one row at a time."""
    import torch
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    sums: dict[str, torch.Tensor] = {}
    names = {"q_proj": "attn_q", "o_proj": "attn_output", "down_proj": "ffn_down"}
    for name, module in model.named_modules():
        if name.split(".")[-1] in names:
            key = f"blk.{name.split('.')[2]}.{names[name.split('.')[-1]]}.weight"

            def hook(_module: object, inputs: tuple[torch.Tensor], _output: object, key: str = key) -> None:
                sums[key] = sums.get(key, 0) + inputs[0].double().square().sum(dim=(0, 1))

            module.register_forward_hook(hook)
    with torch.inference_mode():
        for ids in examples:
            model(torch.tensor([ids]))
    tokens = sum(map(len, examples))
    return {key: (value / tokens).numpy() for key, value in sums.items()}


def test_equals_the_activations_in_training(repo: Path) -> None:
    """Each row alone, from BOS to EOS: else rows would see each other, or lose their heads to the tool's chunks."""
    from gguf import GGUFReader

    source = repo / "models/f16/model.gguf"
    with llama_cpp.load_vocabulary(source) as vocab:
        builder = vocab.prompt_builder("\n")
        examples = [builder.prompt_ids(p) + builder.completion_ids(c) for p, c in pairs(repo)]
        groups = imatrix.chunk_rows(pairs(repo), vocab, "\n")
    assert {len(ids) for ids in examples} == {group.tokens for group in groups}
    assert len({len(ids) for ids in examples}) < len(examples)  # both single rows and groups are tried
    assert any(group.count == 1 for group in groups)
    path = imatrix.build_imatrix(source, pairs(repo), "\n", repo / "runs/imatrix", threads=1)
    found = {tensor.name: np.array(tensor.data) for tensor in GGUFReader(path).tensors}
    expected = activations(repo / "models/merged", examples)
    assert len(expected) == 6
    for name, mean in expected.items():
        assert found[f"{name}.counts"].item() == sum(map(len, examples))
        ours = found[f"{name}.in_sum2"].ravel() / found[f"{name}.counts"].item()
        np.testing.assert_allclose(ours, mean, rtol=0.02)


def test_made_once(repo: Path) -> None:
    source = repo / "models/f16/model.gguf"
    first = imatrix.build_imatrix(source, pairs(repo)[:2], "\n", repo / "runs/imatrix", threads=1)
    made = first.stat().st_mtime_ns
    assert imatrix.build_imatrix(source, pairs(repo)[:2], "\n", repo / "runs/imatrix", threads=1) == first
    assert first.stat().st_mtime_ns == made
    assert imatrix.build_imatrix(source, pairs(repo)[1:3], "\n", repo / "runs/imatrix", threads=1) != first
    assert not list((repo / "runs/imatrix").glob(".tmp*"))


def test_tokenizer_with_a_dummy_prefix(toy256: Path, tmp_path: Path) -> None:
    """Such a one puts a space before the completion too, as it is tokenized apart."""
    data = bytearray((toy256 / "models/f16/model.gguf").read_bytes())
    key = b"tokenizer.ggml.add_space_prefix"
    place = data.index(key) + len(key) + 4  # behind the value's type
    assert data[place] == 0
    data[place] = 1
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    with llama_cpp.load_vocabulary(path) as vocab:
        groups = imatrix.chunk_rows(pairs(toy256), vocab, "\n")
        builder = vocab.prompt_builder("\n")
        ids = [builder.prompt_ids(p) + builder.completion_ids(c) for p, c in pairs(toy256)]
    assert all("\n {" in group.text for group in groups)
    assert sum(group.tokens * group.count for group in groups) == sum(map(len, ids))


@pytest.mark.parametrize("message", ["add </s> soap", "add <s>soap"])
def test_special_tokens_in_a_row_are_refused(toy256: Path, message: str) -> None:
    with (
        llama_cpp.load_vocabulary(toy256 / "models/f16/model.gguf") as vocab,
        pytest.raises(UserError, match=r"tokenizes a calibration row differently"),
    ):
        imatrix.chunk_rows([(f"Catalog:\nSoap\n\nUser:\n{message}", '{"action": "add"}')], vocab, "\n")


def test_stage_quantizes_with_it(repo: Path) -> None:
    (repo / "data/test.jsonl").unlink()  # never read
    for variant in ("q4_k_m", "q4_imatrix"):
        done = stage(repo, "quantize_gguf", variant)
        assert done.returncode == 0, done.stderr
    plain, weighted = (repo / f"models/{name}/model.gguf" for name in ("q4_k_m", "q4_imatrix"))
    from gguf import GGUFReader

    fields = GGUFReader(weighted).fields
    assert int(fields["quantize.imatrix.entries_count"].contents()) == 14
    data = {path: {t.name: t.data.tobytes() for t in GGUFReader(path).tensors} for path in (plain, weighted)}
    changed = {name for name in data[plain] if data[plain][name] != data[weighted][name]}
    assert {"blk.0.attn_q.weight", "blk.1.ffn_down.weight"} <= changed
    assert not {"token_embd.weight", "output_norm.weight"} & changed


def test_llama3_vocabulary(toy256: Path) -> None:
    """The paper's tokenizer, byte-level BPE: the text gives the tool the ids of training there too."""
    with llama_cpp.load_vocabulary(llama_cpp_build.llama3_vocabulary()) as vocab:
        assert (vocab.token_name(vocab.bos_id), vocab.token_name(vocab.eos_id)) == (
            "<|begin_of_text|>",
            "<|end_of_text|>",
        )
        groups = imatrix.chunk_rows(pairs(toy256), vocab, "\n")
        builder = vocab.prompt_builder("\n")
        ids = [builder.prompt_ids(p) + builder.completion_ids(c) for p, c in pairs(toy256)]
    assert sum(group.tokens * group.count for group in groups) == sum(map(len, ids))
