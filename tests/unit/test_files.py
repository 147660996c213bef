"""Files and folders are replaced whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from cartlm.files import replacing


def test_an_error_keeps_the_old_folder(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m/old").write_text("old")

    def fail() -> None:
        with replacing(tmp_path / "m", folder=True) as temporary:
            (temporary / "new").write_text("new")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        fail()
    assert (tmp_path / "m/old").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
