"""What a client that errs is answered."""

from __future__ import annotations

import pytest

from tests.unit.serving.http.conftest import Serve, ask


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/catalogs/shop", "DELETE, GET, PUT"),
        ("/v1/catalogs", "GET"),
        ("/v1/models/first", "GET, POST"),
        ("/v1/intents", "POST"),
        ("/metrics", "GET"),
    ],
)
def test_a_method_that_is_not_allowed_is_answered_with_all_that_are(
    serve: Serve, path: str, methods: str
) -> None:
    app = serve().app
    for method in ("OPTIONS", "PATCH"):
        refused = ask(app, method, path)
        assert (refused.status_code, refused.headers["Allow"]) == (405, methods)
    assert set(ask(app, "PATCH", "/openapi.json").headers["Allow"].split(", ")) == {"GET", "HEAD"}
