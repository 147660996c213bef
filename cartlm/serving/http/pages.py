"""The pages for people: files that are sent as they are, and that no browser lets load or run anything else."""

from __future__ import annotations

import base64
import re
from hashlib import sha256
from pathlib import Path

from fastapi import APIRouter, Response
from starlette.responses import HTMLResponse

router = APIRouter(include_in_schema=False)


def _page(name: str) -> tuple[str, dict[str, str]]:
    """A page's text, and headers that allow its own script and style, by their hashes, and requests to this service."""
    text = Path(__file__).with_name(name).read_text("utf-8")
    hashes = {
        tag: base64.b64encode(sha256(found[1].encode()).digest()).decode()
        for tag in ("script", "style")
        if (found := re.search(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL))
    }
    policy = {
        "default-src": "'none'", "script-src": f"'sha256-{hashes['script']}'", "style-src": f"'sha256-{hashes['style']}'",
        "connect-src": "'self'", "img-src": "data:", "base-uri": "'none'", "form-action": "'none'",
        "frame-ancestors": "'none'",
    }  # fmt: skip
    rules = "; ".join(f"{name} {value}" for name, value in policy.items())
    return text, {"Content-Security-Policy": rules, "Referrer-Policy": "no-referrer"}


TRY, REFERENCE = _page("page.html"), _page("reference.html")


@router.api_route("/", methods=["GET", "HEAD"])
async def try_it() -> Response:
    text, headers = TRY
    return HTMLResponse(text, headers=headers)


@router.api_route("/docs", methods=["GET", "HEAD"])
async def reference() -> Response:
    text, headers = REFERENCE
    return HTMLResponse(text, headers=headers)
