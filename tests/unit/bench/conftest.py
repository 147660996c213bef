import pytest

from cartlm.bench import aggregate


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals as rough as tests need them."""
    monkeypatch.setattr(aggregate, "RESAMPLES", 40)
