"""The picture of the cliff: as many marks as were measured, none over another, nothing outside."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest

from cartlm.metrics import write_metrics
from cartlm.report import cliff
from cartlm.report.models import Model

SVG = "{http://www.w3.org/2000/svg}"
KINDS = {"q8_0": ("Q8_0", 8.5), "q4_k_m": ("Q4_K_M", 4.84), "q2_k": ("Q2_K", 3.2)}


@pytest.fixture
def model(tmp_path: Path) -> Model:
    """F16, three types with and without importance matrix, one with, a mix and a GPTQ variant."""
    shares = {"f16": 0.8, "q8_0": 0.8, "q4_k_m": 0.79, "q2_k": 0.5}
    files = {name: {"type": kind, "bits_per_weight": bits, "imatrix": False} for name, (kind, bits) in KINDS.items()}  # fmt: skip
    files |= {f"{name}-imatrix": {**made, "imatrix": True} for name, made in files.items()}
    files["iq3_m"] = {"type": "IQ3_M", "bits_per_weight": 3.9, "imatrix": True}
    files["mix"] = {**files["q4_k_m"], "tensor_types": "ffn=Q3_K"}
    for name, made in files.items():
        write_metrics(tmp_path / f"quantize/{name}.json", {"quantize": made})
    write_metrics(tmp_path / "gptq/int4.json", {"quantize": {"bits_per_weight": 4.2, "group_size": 128}})
    for number, name in enumerate(["f16", *files, "int4"]):
        share = shares.get(name.removesuffix("-imatrix"), 0.7)
        sections = {
            way: {"n": 1000, "exact_match": share + more, "exact_match_low": 0.0, "exact_match_high": 1.0}
            for way, more in (
                ("free", number / 1000),
                ("constrained", 0.1 + number / 1000),
                ("ensemble", 0.1),
            )
        }
        write_metrics(tmp_path / f"eval/{name}.json", sections)
    return Model("toy", tmp_path, ["f16", *files, "int4"], {})


def drawn(model: Model) -> ElementTree.Element:
    ((path, text),) = cliff.pictures([model], Path("docs/assets")).items()
    assert path == Path("docs/assets/cliff-toy.svg")
    return ElementTree.fromstring(text)


def test_as_many_marks_as_data(model: Model) -> None:
    root = drawn(model)
    marks = [str(mark.get("class")) for mark in root.iter(f"{SVG}circle")]
    assert Counter(marks) == {
        "mark free plain": 4, "mark free matrix": 4, "mark constrained plain": 4, "mark constrained matrix": 4,
    }  # F16 and three types; three types and IQ3_M  # fmt: skip
    bars = [line for line in root.iter(f"{SVG}line") if str(line.get("class")).startswith("bar")]
    assert len(bars) == len(marks) == len(cliff.points(model))
    assert len(list(root.iter(f"{SVG}polyline"))) == 4
    told = [str(mark[0].text) for mark in root.iter(f"{SVG}circle")]
    assert "F16, free, without importance matrix: 0.800 [0.774, 0.824]" in told
    names = [text.text for text in root.iter(f"{SVG}text") if text.get("class") == "text name"]
    assert names == ["F16", "Q8_0", "Q4_K_M", "IQ3_M", "Q2_K"]  # by bits


def test_marks_stand_where_the_shares_are_and_apart(model: Model) -> None:
    root = drawn(model)
    places = [(float(mark.get("cx", 0)), float(mark.get("cy", 0))) for mark in root.iter(f"{SVG}circle")]
    shares = [float(re.findall(r": (0\.\d+)", str(mark[0].text))[0]) for mark in root.iter(f"{SVG}circle")]
    ordered = [y for _, y in sorted(zip(shares, (y for _, y in places), strict=True))]
    assert ordered == sorted(ordered, reverse=True)  # a higher share stands higher
    across = sorted(x for x, _ in places)
    assert min(right - left for left, right in itertools.pairwise(across)) > 8
    for line in root.iter(f"{SVG}line"):
        for name, end in (
            ("x1", cliff.WIDTH),
            ("x2", cliff.WIDTH),
            ("y1", cliff.BOTTOM),
            ("y2", cliff.BOTTOM),
        ):
            assert 0 <= float(line.get(name, -1)) <= end + 0.1


def test_it_can_be_read_in_the_dark(model: Model) -> None:
    style = str(next(drawn(model).iter(f"{SVG}style")).text)
    light, dark = style.split("@media (prefers-color-scheme: dark)")
    for name in (".paper", ".text", ".grid", ".free", ".constrained"):
        assert name in light
        assert name in dark


def test_too_few_types_are_no_picture(model: Model) -> None:
    few = Model("few", model.metrics, ["f16", "q8_0", "q8_0-imatrix"], {})
    assert cliff.pictures([few], Path("docs/assets")) == {}
    assert cliff.markdown(few) == ""
    assert cliff.markdown(model) == f"![{cliff.title(model)}](assets/cliff-toy.svg)"


def test_it_says_what_it_is_of_and_how_to_read_it(model: Model) -> None:
    """The shares are of 1,000 rows; the least is 0.5, whose interval reaches below."""
    title = "Exact match by type of the file: toy, 4.2 M, 1,000 test rows"
    write_metrics(model.metrics / "merge.json", {"parameters": 4_197_632})
    root = drawn(model)
    assert str(next(root.iter(f"{SVG}title")).text) == title
    written = [str(text.text) for text in root.iter(f"{SVG}text")]
    assert title in written
    least = min(int(text.removesuffix(" %")) for text in written if text.endswith(" %"))
    assert 0 < least < 50
    (note,) = [text for text in written if text.startswith("Bars: 95 % interval")]
    assert note.endswith(f"Types are equally far apart, whatever their bits. The axis begins at {least} %.")
    whole = cliff.svg("from 0", [cliff.Point("F16", 16, "free", False, 0.1, 0.0, 0.2)])
    assert "The axis begins" not in whole
