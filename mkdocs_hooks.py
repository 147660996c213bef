"""mkdocs: the page of `cartlm report`, made from this checkout's numbers, is a file of the site."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from cartlm import params
from cartlm.cli_report import sources
from cartlm.report_page import page


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add report.html."""
    root = Path(config.config_file_path).parent
    content = page.html(sources(params.load(root / "params.yaml"), root))
    files.append(File.generated(config, "report.html", content=content))
    return files
