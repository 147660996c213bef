"""What is not YAML, or no params, is one line; edited files keep comments, quotes, order and line ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from base.pretraining import recipe
from cartlm import params, yaml_files
from cartlm.errors import UserError
from tests import ROOT

BROKEN = [
    (b"a: 1\nb: 1\na: 2\n", 'duplicate key "a", line 3'), (b"a:\n  b: secret\n  b: 2\n", 'duplicate key "b", line 3'),
    (b"a:\n\tb: 1\n", "line 2"), (b"a: [\n", "line"), (b"a: b: c\n", "line 1"), (b"a: !mine 1\n", "!mine"),
    (b"a: 1\n---\nb: 2\n", "single document"), (b"a: *x\n", "alias 'x'"), (b"a: \xff\n", "'utf-8' codec can't decode byte 0xff in position 3"),
    ("a: é\n".encode("cp1252"), "utf-8"), ("a: 1\n".encode("utf-16"), "utf-8"), (b"a: \x00\n", "#x0000"),
    (b"a: 2026-13-01\n", "does not read"), (b"[" * 5000, "recursion"), (b"a: 'b\n", "line"),
    (b"? {a: 1}\n: 2\n", "line 1"), (b"a: =\n", "line 1"),
]  # fmt: skip


@pytest.mark.parametrize(("whole", "said"), BROKEN)
def test_what_is_not_yaml_is_one_line_with_file_and_place(tmp_path: Path, whole: bytes, said: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(whole)
    for load in (params.load, recipe.load):
        with pytest.raises(UserError) as error:
            load(path)
        for part in ("params.yaml is not YAML: ", said):
            assert part in str(error.value)
        assert "\n" not in str(error.value)
        assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    "whole", ["gguf: {8: {type: Q8_0}}", "gguf: {on: 1}", "1: 2", "a: &a [*a]", "compare: 2026-11-28"]
)
def test_yaml_that_is_no_params_is_one_line(tmp_path: Path, whole: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(whole, encoding="utf-8")
    with pytest.raises(UserError, match=r"params\.yaml: ") as error:
        params.load(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ['a: !!int ""', "a: !!bool maybe", "a: !!float x"])
def test_a_tag_that_does_not_fit_its_value_is_one_line(text: str) -> None:
    with pytest.raises(UserError, match="is not YAML") as caught:
        yaml_files.parse(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["presets/paper.yaml", "presets/imatrix.yaml"])
def test_an_unedited_file_keeps_its_bytes(name: str) -> None:
    data = (ROOT / name).read_bytes()
    assert yaml_files.dump(yaml_files.parse_editable(data)).encode() == data


def test_an_overlay_changes_what_it_names() -> None:
    document = yaml_files.parse_editable(b"# top\na:\n  b: 1 # why\n  c: 'x'\nvariants: {p: 1, q: 2}\n")
    changes = yaml_files.parse_editable(b"a:\n  b: 2 # because\nvariants: {q: 3}\nnew: null\n")
    yaml_files.overlay(document, changes, replaced=("variants",))
    assert yaml_files.dump(document) == (
        "# top\na:\n  b: 2 # because\n  c: 'x'\nvariants: {q: 3}\nnew: null\n"
    )


def test_line_ends_stay(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"a: 1\r\nb: 2 # why\r\n")
    document = yaml_files.parse_editable(path.read_bytes())
    document["a"] = 3
    yaml_files.write(path, yaml_files.dump(document))
    assert path.read_bytes() == b"a: 3\r\nb: 2 # why\r\n"
