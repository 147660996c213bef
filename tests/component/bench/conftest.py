from tests.fixtures.toy256 import repo, toy256

__all__ = ["repo", "toy256"]
