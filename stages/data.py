"""data: training, validation, calibration and test rows, through the quality gates.

python -m stages.data
"""

from __future__ import annotations

from pathlib import Path

from cartlm import stage
from cartlm.data import gates, rows, splits
from cartlm.results import write_metrics


@stage.command
def main() -> None:
    """Write data/*.jsonl and metrics/data.json."""
    settings = stage.params()
    made = splits.make(settings.data)
    metrics = gates.check(made, settings.data)
    for name, part in made.items():
        rows.write(Path("data") / f"{name}.jsonl", part)
    write_metrics(Path("metrics/data.json"), metrics)
    stage.done({name: len(part) for name, part in made.items()})


if __name__ == "__main__":
    main()
