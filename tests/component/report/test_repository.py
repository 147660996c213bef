"""The generated documents of this repository are those of its metrics and studies."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from cartlm import cli, params
from cartlm.report import results, summary
from tests import ROOT


def test_the_tables_of_this_repository_are_what_metrics_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    names = params.load(ROOT / "params.yaml").variants.names
    done = CliRunner().invoke(cli.main, ["readme-table", "--check"])
    assert done.exit_code == 0, f"cartlm readme-table: {done.output}"
    document = results.document(ROOT / "metrics", names)
    assert (ROOT / "docs/results.md").read_text("utf-8") == document, "dvc repro summarize"
    csv = summary.to_csv(summary.collect(ROOT / "metrics", names))
    assert (ROOT / "metrics/summary.csv").read_text("utf-8") == csv, "dvc repro summarize"
