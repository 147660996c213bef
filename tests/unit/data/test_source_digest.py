"""The digest of the user's own files, by which `make repro` sees that they changed."""

from __future__ import annotations

from pathlib import Path

from cartlm.data.files import source_digest
from tests.fixtures import fixed_params

DATA = fixed_params.load().data


def test_it_follows_names_and_contents(tmp_path: Path) -> None:
    data = DATA.model_copy(update={"source": "file", "path": str(tmp_path)})
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/train.csv").write_text("a")
    first = source_digest(data)
    (tmp_path / "deep/train.csv").write_text("b")
    second = source_digest(data)
    (tmp_path / "deep/train.csv").rename(tmp_path / "deep/test.csv")
    assert len({first, second, source_digest(data), None}) == 4


def test_what_is_generated_or_on_the_hub_has_none() -> None:
    assert source_digest(DATA) is None
    assert source_digest(DATA.model_copy(update={"source": "hub", "path": "someone/dataset"})) is None
