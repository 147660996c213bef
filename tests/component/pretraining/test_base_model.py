"""The embedded base model in git: size, shape, and one tokenizer in transformers and llama.cpp."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from typing import Any

import pytest

from cartlm.data import lexicon, rules
from cartlm.system import llama_cpp_build
from cartlm.task import prompt
from tests import ROOT
from tests.fixtures import fixed_params

BASE = ROOT / "base" / "model"
ODD = [
    "", " ", "  two  blanks ", "\n", "\n\nUser:\n", "\t tab", "trailing ", "\r\n", "\u00a0nbsp", "\u200bzero", "e\u0301 combining",
    "ﬁ ligature", "𝔣𝔞𝔫𝔠𝔶", "🛒🛒 2x 🥥", "👨‍👩‍👧‍👦", "漢字かな交じり", "עברית", "العربية", "\u202eright to left", "ÅÄÖß", "ǅ ǆ đ Đ",
    "<s>", "</s>", "<pad>", "<unk>", "<0x41>", "<|eot|>", "▁under▁", "½ ¼ ² €", "\ufeffbom", "\x00nul", "\x7f", "\U0010ffff",
    "9999999999", "1,5L 0.5 mm", "a" * 300, "ñ" * 50,
]  # fmt: skip


def _texts(count: int) -> list[str]:
    data = fixed_params.load().data
    rng = random.Random(99)
    found = list(ODD)
    while len(found) < count:
        language = rng.choice(lexicon.LANGUAGES)
        row = rules.draft(language, rng.choice(("add", "remove")), rng.random() < 0.3, data, rng)
        text = row.message
        if rng.random() < 0.1:  # anything that can be typed, somewhere in a message
            at = rng.randrange(len(text) + 1)
            point = rng.choice([rng.randrange(0x20, 0xD800), rng.randrange(0xE000, 0x110000)])
            text = text[:at] + chr(point) + text[at:]
        found.append(
            prompt.render_prompt([line.text for line in row.catalog], text) if rng.random() < 0.2 else text
        )
    return found


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from cartlm.engines import llama_cpp

    path = tmp_path_factory.mktemp("base") / "model.gguf"
    command = [sys.executable, str(llama_cpp_build.converter()), str(BASE), "--outfile", str(path)]
    done = subprocess.run([*command, "--outtype", "f16"], capture_output=True, text=True, cwd=path.parent)
    assert done.returncode == 0, done.stderr[-2000:]
    with llama_cpp.load(path) as engine:
        yield engine


def test_two_thousand_messages_tokenize_alike(gguf: Any) -> None:
    from transformers import AutoTokenizer

    ours = prompt.from_transformers(AutoTokenizer.from_pretrained(BASE), "\n")
    theirs = gguf.prompt_builder("\n")
    assert (ours.bos_id, ours.eos_id) == (theirs.bos_id, theirs.eos_id)
    texts = _texts(2_000)
    different = [text for text in texts if ours.tokenize(text) != theirs.tokenize(text)]
    assert not different, (len(different), different[:5])
    for text in texts[len(ODD) :: 50]:
        ids = ours.prompt_ids(text)
        assert ids.count(ours.bos_id) == 1
        assert gguf.decode(ids[1:]) == text + "\n"


def test_the_files_are_small_safe_and_complete() -> None:
    names = {path.name for path in BASE.iterdir()}
    assert {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer.model",
    } <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]
    assert sum(path.stat().st_size for path in BASE.iterdir()) <= 16 * 2**20


def test_every_k_quant_applies_and_the_size_is_bounded() -> None:
    from safetensors import safe_open

    config = json.loads((BASE / "config.json").read_text())
    assert config["model_type"] == "llama"
    assert config["hidden_size"] % 256 == 0
    assert config["intermediate_size"] % 256 == 0
    assert config["tie_word_embeddings"] is True
    ids = [config[f"{name}_token_id"] for name in ("bos", "eos", "pad")]
    assert len(set(ids)) == 3
    with safe_open(BASE / "model.safetensors", "pt") as file:
        keys = list(file.keys())
        count = sum(file.get_tensor(key).numel() for key in keys)
    assert count <= 8_000_000
    assert "lm_head.weight" not in keys


def test_the_card_tells_how_it_was_made() -> None:
    card = (BASE / "README.md").read_text()
    for word in ("seed", "hours", "machine", "tokens", "Limits"):
        assert word.lower() in card.lower()
