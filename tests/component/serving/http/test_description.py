"""What the service answers to requests that follow its OpenAPI description or break it, by schemathesis."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cartlm.serving.http.limits import Limits
from cartlm.serving.reader import Reader, load
from tests import ROOT
from tests.fixtures.baseline import write_baseline
from tests.fixtures.http_service import running, served

KEY = "key-of-schemathesis"
CASES, PHASES = os.environ.get("CARTLM_SCHEMATHESIS", "20 examples,fuzzing,stateful").split()
"""The most for each operation and phase; these are about 300 in all. `make fuzz-serve` makes more than 10,000."""
REFUSED = """
[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 408, 409, 413, 414, 422, 429, 431]
"""
HOOKS = """
import schemathesis

@schemathesis.hook
def map_body(context, body):
    if not isinstance(body, dict):
        return body
    body = dict(body)
    if isinstance(name := body.get("model"), str) and len(name) <= 100:
        body["model"] = "baseline"
    if isinstance(text := body.get("prompt"), str) and len(text) % 2:
        body["prompt"] = asked(text)
    if isinstance(each := body.get("messages"), list):
        body["messages"] = [spoken(one) if isinstance(one, dict) else one for one in each]
    return body

def spoken(one):
    text = one.get("content")
    is_text = isinstance(text, str) and isinstance(one.get("role"), str)
    return one | {"role": "user", "content": asked(text)} if is_text and len(text) % 2 else one

def asked(text):
    return f"Catalog:\\nTea\\nOat Milk 1 l\\n\\nUser:\\n{text or 'tea'}"
"""
"""Of bodies for the OpenAI API: chance finds neither a variant's name nor a prompt. What breaks the description still does."""
CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "allow_header_conformance",
    "use_after_free",
    "ignored_auth",
]
# Not "positive_data_acceptance": a message that nobody can read follows the description and is 422 all the same.


@pytest.mark.slow
def test_no_request_is_a_servers_error_and_each_answer_is_described(tmp_path: Path) -> None:
    """On a real server over a fitted baseline."""
    write_baseline(tmp_path / "baseline/model.json")

    def opened(source: str) -> Reader:
        return load(source, threads=1)

    (tmp_path / "schemathesis.toml").write_text(REFUSED)
    (tmp_path / "hooks.py").write_text(HOOKS)
    with (
        served(tmp_path, [str(tmp_path / "baseline")], Limits(256, 60), [KEY], load=opened) as made,
        running(made.app) as url,
    ):
        command = [
            sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--max-examples", CASES,
            "--phases", PHASES, "--checks", ",".join(CHECKS), "--header", f"Authorization: Bearer {KEY}",
            "--request-timeout", "100", "--suppress-health-check", "all", "--continue-on-failure", "--no-color",
        ]  # fmt: skip
        environment = os.environ | {
            "PYTHONPATH": f"{ROOT}:{tmp_path}",
            "NO_PROXY": "127.0.0.1",
            "SCHEMATHESIS_HOOKS": "hooks",
        }
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    print(done.stdout[-20_000:])
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
    cases = re.search(r"^  (\d+) generated", done.stdout, re.MULTILINE)
    assert cases, done.stdout[-2000:]
    assert int(cases[1]) >= 8 * int(CASES)  # most of the 14 operations take parameters
