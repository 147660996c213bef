"""Where a base model may come from: the section `base` of the params."""

from __future__ import annotations

from typing import Any

import pytest

from cartlm import params
from cartlm.errors import UserError
from tests import ROOT
from tests.fixtures import fixed_params

PART = {"requirement": "some-model==1.0", "file": "some_model/model.gguf"}
PACKAGE = {"parts": [PART], "sha256": "0" * 64}
PRETRAINED = ("smollm2", "gemma3-270m", "qwen3-0.6b")
TYPES = ["Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_0", "IQ4_XS", "Q3_K_M", "IQ3_M", "Q2_K"]


def parse(**changes: Any) -> params.Base:
    values = fixed_params.values()
    values["base"] |= changes
    return params.parse(values, "params.yaml").base


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"source": "wheel"}, "base.source = 'wheel'"),
        ({"source": "package"}, "base: source is package, but base.package is null"),
        ({"package": {**PACKAGE, "sha256": "abc"}}, "base.package.sha256 = 'abc'"),
        ({"package": {**PACKAGE, "parts": []}}, "base.package.parts"),
        (
            {"package": {**PACKAGE, "parts": [{**PART, "requirement": "some-model"}]}},
            "base.package.parts.0.requirement = 'some-model'",
        ),
        (
            {"package": {**PACKAGE, "parts": [{**PART, "requirement": "some-model>=1"}]}},
            "base.package.parts.0.requirement",
        ),
        (
            {"package": {**PACKAGE, "parts": [{**PART, "requirement": "-r /etc/passwd==1"}]}},
            "base.package.parts.0.requirement",
        ),
        ({"package": {**PACKAGE, "url": "x"}}, "base.package.url = 'x': unknown key"),
        ({"download_mb": 0.0}, "base.download_mb = 0.0"),
    ],
)
def test_a_wrong_base_is_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        parse(**changes)
    assert said in str(error.value)


def test_a_package_is_a_list_of_parts() -> None:
    found = parse(source="package", package=PACKAGE).package
    assert found is not None
    assert [part.requirement for part in found.parts] == ["some-model==1.0"]


@pytest.mark.parametrize("name", PRETRAINED)
def test_presets_of_pretrained_models_are_large_enough_to_judge(name: str) -> None:
    found = fixed_params.load(ROOT / f"presets/{name}.yaml")
    assert found.data.test >= 400
    assert found.eval.natural_rows >= 150
    assert found.parity.rows >= 400
    assert [variant.type for variant in found.gguf.values()] == TYPES
    assert found.gguf["iq3_m"].imatrix
    assert {variant.bits for variant in found.gptq.values()} == {4, 8}
    assert found.base.license
    assert found.base.download_mb
    assert (found.base.source == "package") == (found.base.package is not None)


def test_gemma_is_kept_in_bfloat16() -> None:
    found = fixed_params.load(ROOT / "presets/gemma3-270m.yaml")
    assert (found.merge.dtype, found.finetune.compute_dtype) == ("bfloat16", "bfloat16")
