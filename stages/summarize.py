"""summarize: metrics/summary.csv and the README's results block, from all files under metrics/.

python -m stages.summarize
"""

from __future__ import annotations

from pathlib import Path

from cartlm import stage, variants
from cartlm.report import readme, summary


@stage.command
def main() -> None:
    """Write metrics/summary.csv and the results block of README.md."""
    metrics = Path("metrics")
    listed = variants.listed(stage.params())
    gone = variants.prune(Path("."), listed)
    for name in gone:
        stage.progress(f"removed {name}, no longer in params.yaml")
    rows = summary.collect(metrics, listed)
    summary.write(metrics / "summary.csv", rows)
    changed = readme.update(Path("README.md"), metrics, listed)
    print(summary.table(rows))
    stage.done({"variants": len(rows), "readme_changed": changed, "removed": len(gone)})


if __name__ == "__main__":
    main()
