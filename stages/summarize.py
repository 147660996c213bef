"""summarize: metrics/summary.csv and docs/results.md, from the metrics of the main graph.

python -m stages.summarize
"""

from __future__ import annotations

from pathlib import Path

from cartlm import command
from cartlm.files import write_text
from cartlm.pipeline.variants import prune_metrics
from cartlm.report import results, summary


@command.command
def main() -> None:
    """Write the tables; metrics of variants that left params.yaml are removed."""
    settings, metrics = command.params(), Path("metrics")
    removed = prune_metrics(Path("."), settings.variants)
    for name in removed:
        command.progress(f"removed {name}, no longer in params.yaml")
    variants = settings.variants.names
    write_text(metrics / "summary.csv", summary.to_csv(summary.collect(metrics, variants)))
    write_text(Path("docs/results.md"), results.document(metrics, variants))
    print(summary.table(metrics, variants))
    command.done({"variants": len(variants), "removed": len(removed)})


if __name__ == "__main__":
    main()
