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
    with (
        served(tmp_path, [str(tmp_path / "baseline")], Limits(256, 60), [KEY], load=opened) as made,
        running(made.app) as url,
    ):
        command = [
            sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--max-examples", CASES,
            "--phases", PHASES, "--checks", ",".join(CHECKS), "--header", f"Authorization: Bearer {KEY}",
            "--request-timeout", "100", "--suppress-health-check", "all", "--continue-on-failure", "--no-color",
        ]  # fmt: skip
        environment = os.environ | {"PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    print(done.stdout[-20_000:])
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
    made = re.search(r"^  (\d+) generated", done.stdout, re.MULTILINE)
    assert made, done.stdout[-2000:]
    assert int(made[1]) >= 8 * int(CASES)  # most of the 14 operations take parameters
