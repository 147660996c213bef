"""The presets of presets/, a user's among them: each is sound, and ours are what they are for."""

from __future__ import annotations

from pathlib import Path

import pytest

from cartlm import params, yaml_files
from cartlm.errors import UserError
from tests import ROOT
from tests.fixtures import fixed_params

PRESETS = sorted((ROOT / "presets").glob("*.yaml"))


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_presets_are_sound(path: Path) -> None:
    """Over params.yaml, or over the offline defaults that ours are made for."""
    try:
        params.lay_preset(ROOT / "params.yaml", path)
    except UserError:
        fixed_params.load(path)


def test_the_paper_preset_sets_the_paper_s_model_data_and_variants() -> None:
    paper = fixed_params.load(fixed_params.PAPER)
    assert (paper.base.path, paper.data.path) == ("meta-llama/Llama-3.2-1B", "jtlicardo/ecommerce-intent-3k")
    assert list(paper.gguf) == ["q8_0", "q5_k_m", "q4_k_m", "q3_k_m"]  # a preset's variants replace ours
    assert paper.finetune.epochs == 5.0
    assert paper.finetune.seed == fixed_params.load().finetune.seed  # the rest is that of params.yaml


def test_the_imatrix_preset_has_each_type_twice_and_the_default_s_model() -> None:
    default, found = fixed_params.load(), fixed_params.load(ROOT / "presets/imatrix.yaml")
    plain = {name: variant for name, variant in found.gguf.items() if not name.endswith("-imatrix")}
    assert len(plain) > 3
    assert set(found.gguf) == {f"{name}{end}" for name in plain for end in ("", "-imatrix")}
    for name, variant in found.gguf.items():
        type_ = plain[name.removesuffix("-imatrix")].type
        assert (variant.type, variant.imatrix) == (type_, name.endswith("-imatrix"))
    for section in ("base", "prompt", "data", "finetune", "merge", "reference", "parity", "decoding", "eval"):
        assert getattr(found, section) == getattr(default, section)  # taken from DVC's cache, and comparable


@pytest.mark.parametrize(
    ("text", "said"),
    [("base: {}\nfinetunes: 1\n", "finetunes = 1: unknown key"), ("base: [", "is not YAML"), ("base:\n  source: mine\n", "base.source"),
     ("", "has no sections"), ("- base\n", "has no sections"), ("base\n", "has no sections")],
)  # fmt: skip
def test_a_wrong_preset_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"mine\.yaml") as error:
        params.lay_preset(fixed_params.write(tmp_path), tmp_path / "mine.yaml")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_presets_know_no_price_that_nobody_looked_up(path: Path) -> None:
    for given in (yaml_files.parse(path.read_bytes()).get("remote") or {}).values():
        assert given["price_source"] or given["input_price"] is given["output_price"] is None
