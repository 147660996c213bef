"""The generated documents of this repository are those of its metrics and studies."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from cartlm import cli, params
from cartlm.pipeline import dvc_lock
from cartlm.pipeline.repository import Tree
from cartlm.report import results, summary
from tests import ROOT


def changed_params() -> set[str]:
    """Keys of params.yaml that are not as the main graph was run with: the tables are made anew when it runs again."""
    tree = Tree(ROOT)
    run = {name: stage for name, stage in dvc_lock.read_stages(tree).items() if ":" not in name}
    tracked = {key for stage in run.values() for keys in stage.params.values() for key in keys}
    return tracked & {key for changed in dvc_lock.outdated_stages(run, tree).values() for key in changed}


def test_the_tables_of_this_repository_are_what_metrics_say(monkeypatch: pytest.MonkeyPatch) -> None:
    if changed := changed_params():
        pytest.skip(
            f"params.yaml has changed since the numbers were made ({', '.join(sorted(changed))}): make repro"
        )
    monkeypatch.chdir(ROOT)
    names = params.load(ROOT / "params.yaml").variants.names
    done = CliRunner().invoke(cli.main, ["readme-table", "--check"])
    assert done.exit_code == 0, f"cartlm readme-table: {done.output}"
    document = results.document(ROOT / "metrics", names)
    assert (ROOT / "docs/results.md").read_text("utf-8") == document, "dvc repro summarize"
    csv = summary.to_csv(summary.collect(ROOT / "metrics", names))
    assert (ROOT / "metrics/summary.csv").read_text("utf-8") == csv, "dvc repro summarize"
