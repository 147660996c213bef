"""Fixtures that more than one folder of tests uses; each stands in its own file under tests/fixtures/."""

from hypothesis import settings

from tests.fixtures.toy import toy_gguf, toy_model

__all__ = ["toy_gguf", "toy_model"]

# A busy machine makes single examples slow: that is no failure.
settings.register_profile("cartlm", deadline=None)
settings.load_profile("cartlm")
