"""What all tests of components share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cartlm.system import llama_cpp_build
from tests.fixtures.warm_converter import warm

COLD = llama_cpp_build.converter


@pytest.fixture(scope="session", autouse=True)
def warm_converter() -> Iterator[None]:
    """The converter without the seconds that its imports take."""
    with warm() as converter, pytest.MonkeyPatch.context() as patch:
        patch.setattr(llama_cpp_build, "converter", converter)
        yield


@pytest.fixture
def cold_converter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The converter as a user's run calls it."""
    monkeypatch.setattr(llama_cpp_build, "converter", COLD)
