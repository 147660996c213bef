"""Fixtures that more than one folder of tests uses; each stands in its own file under tests/fixtures/."""

from tests.fixtures.toy import toy_gguf, toy_model

__all__ = ["toy_gguf", "toy_model"]
