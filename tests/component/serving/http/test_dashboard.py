"""docker/monitoring: each panel asks for what a running service exposes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests import ROOT
from tests.component.serving.http.conftest import Server
from tests.fixtures.toy import toy_rows

FOLDER = ROOT / "docker/monitoring"
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text("utf-8"))
EXPRESSIONS = [
    target["expr"].replace("$__rate_interval", "1m")
    for panel in DASHBOARD["panels"]
    for target in panel["targets"]
]
OF_PROMETHEUS = {"job", "instance"}
"""Labels that Prometheus adds to what it scrapes; it makes the series `up` itself."""


def asked(expression: str) -> dict[str, set[str]]:
    """The metrics of an expression, each with the labels that the expression reads."""
    grouped = {
        label for labels in re.findall(r"by \(([\w, ]+)\)", expression) for label in labels.split(", ")
    }
    found: dict[str, set[str]] = {}
    for name, selector in re.findall(r"\b((?:cartlm|process)_\w+|up)\b(\{[^}]*\})?", expression):
        found.setdefault(name, {*grouped}).update(re.findall(r"(\w+)=~?\"", selector))
    return found


def test_each_metric_and_label_of_the_dashboard_is_exposed(server: Server) -> None:
    row = toy_rows()[0]
    for _ in range(2):
        server.client.post("/v1/intents", json={"message": row.message, "catalog": row.catalog})
    exposed: dict[str, set[str]] = {"up": set()}
    for family in text_string_to_metric_families(server.client.get("/metrics").text):
        for sample in family.samples:
            exposed.setdefault(sample.name, set()).update(sample.labels)
    wanted = [(name, labels) for each in EXPRESSIONS for name, labels in asked(each).items()]
    assert len(wanted) >= len(EXPRESSIONS) > 15
    for name, labels in wanted:
        assert name in exposed
        assert labels <= exposed[name] | OF_PROMETHEUS, name
    ours = {re.sub("_(bucket|count|sum)$", "", name) for name in exposed if name.startswith("cartlm_")}
    shown = {re.sub("_bucket$", "", name) for name, _ in wanted}
    assert {name for name in ours if not name.endswith("_created")} <= shown


def test_each_legend_and_source_is_there() -> None:
    source = yaml.safe_load((FOLDER / "datasource.yaml").read_text("utf-8"))["datasources"][0]
    scraped = yaml.safe_load((FOLDER / "prometheus.yaml").read_text("utf-8"))
    assert source["jsonData"]["timeInterval"] == scraped["global"]["scrape_interval"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == panel["datasource"]["uid"] == source["uid"]
            (labels, *_) = asked(target["expr"]).values()
            known = labels | OF_PROMETHEUS | ({"variant"} if "queue" in target["expr"] else set())
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= known, target


def test_prometheus_reads_its_file_and_every_expression(tmp_path: Path) -> None:
    """By promtool, in Debian's package prometheus."""
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("promtool is missing; install it: apt-get install prometheus")
    secret = tmp_path / "metrics-key"
    secret.write_text("key")
    config = (FOLDER / "prometheus.yaml").read_text("utf-8")
    (tmp_path / "prometheus.yml").write_text(config.replace("/run/secrets/metrics-key", str(secret)))
    rules = [{"record": f"panel:{number}", "expr": each} for number, each in enumerate(EXPRESSIONS)]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    for check in (("config", "prometheus.yml"), ("rules", "rules.yml")):
        done = subprocess.run([promtool, "check", *check], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
