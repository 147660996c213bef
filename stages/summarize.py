"""summarize: metrics/summary.csv, the README's results block and docs/paper.md, from all files under metrics/.

python -m stages.summarize
"""

from __future__ import annotations

from pathlib import Path

from cartlm import command
from cartlm.pipeline import variants
from cartlm.report import paper, readme, summary


@command.command
def main() -> None:
    """Write metrics/summary.csv, the results block of README.md and docs/paper.md."""
    metrics = Path("metrics")
    settings = command.params()
    listed = settings.variants.names
    gone = variants.prune_metrics(metrics.parent, settings.variants)
    for name in gone:
        command.progress(f"removed {name}, no longer in params.yaml")
    rows = summary.collect(metrics, listed)
    summary.write(metrics / "summary.csv", rows)
    changed = readme.update(Path("README.md"), metrics, listed)
    measured = paper.Measured(settings.base.path, settings.data.path or paper.GENERATED)
    paper.write(Path("docs/paper.md"), metrics, measured)
    print(summary.table(rows))
    command.done({"variants": len(rows), "readme_changed": changed, "removed": len(gone)})


if __name__ == "__main__":
    main()
