"""architecture, weights: a model folder of the architecture in params.yaml, with random weights.

python -m stages.random_weights
"""

from __future__ import annotations

from pathlib import Path

from cartlm import architecture, stage
from cartlm.training import folders


@stage.command
def main() -> None:
    """Write models/architecture/NAME/weights."""
    settings = stage.params()
    wanted = settings.architecture
    target = Path("models/architecture") / wanted.name / "weights"
    with folders.replacing(target) as new:
        count = architecture.write(new, architecture.SHAPES[wanted.name], wanted.seed)
        architecture.write_tokenizer(new)
    stage.done({"architecture": wanted.name, "parameters": count})


if __name__ == "__main__":
    main()
