"""`cartlm search-quantization`; `cartlm.cli` adds it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cartlm import command

if TYPE_CHECKING:
    from cartlm.quantization_search.trials import Way

FILE = click.Path(path_type=Path)
F16, WORK = Path("models/f16/model.gguf"), Path("runs/search-quantization")
VALIDATION, CALIBRATION = Path("data/validation.jsonl"), Path("data/calibration.jsonl")


@click.command("search-quantization", cls=command.Guard)
@click.option(
    "--model", type=FILE, default=F16, show_default=True, help="F16 GGUF file that the mixes are made of."
)
@click.option(
    "--types", metavar="TYPE,...", default="",
    help="What a group of tensors may get.  [default: Q8_0,Q6_K,Q5_K,Q4_K,Q3_K,Q2_K; narrow rows: Q8_0,Q5_1,Q5_0,Q4_0]",
)  # fmt: skip
@click.option(
    "--decoding", "way", type=click.Choice(["constrained", "free"]), default="constrained", show_default=True,
    help="Decoding mode of the scored answers.",
)  # fmt: skip
@click.option(
    "--tolerance", type=click.FloatRange(0, 100), default=0.5, show_default=True,
    help="Points of exact match that a mix may be below F16 on the same rows.",
)  # fmt: skip
@click.option("--limit", type=click.IntRange(1), help="Use this many validation rows.  [default: all]")
@click.option(
    "--imatrix/--no-imatrix", default=True, show_default=True, help="An importance matrix of the calibration rows."
)  # fmt: skip
@click.option(
    "--output", type=FILE, default=WORK / "result.json", show_default=True, help="All tries, as JSON."
)
def search_quantization(
    model: Path, types: str, way: Way, tolerance: float, limit: int | None, imatrix: bool, output: Path
) -> None:
    """Search the smallest mix of tensor types that loses nothing, on validation rows; prints it as lines for params.yaml.

    A line for each mix that is tried. A killed run goes on where it stopped.
    """
    from cartlm.quantization_search import search, space
    from cartlm.quantization_search.trials import Asking
    from cartlm.system import cpu_limits
    from cartlm.task import rows

    settings = command.params()
    kinds = space.parse_types(types, imatrix) if types else []
    chosen = search.choose_rows(rows.read(VALIDATION), limit)
    asking = Asking(
        chosen, way, settings.prompt.separator, settings.decoding.max_quantity, settings.eval.max_new_tokens,
        cpu_limits.threads(), settings.decoding.none,
    )  # fmt: skip
    order = search.Order(model, kinds, tolerance, imatrix, WORK)
    calibration = rows.read(CALIBRATION) if imatrix else []
    with command.alone("cartlm search-quantization", "the same command"):
        found = search.search(order, asking, calibration, lambda line: print(line, flush=True))
        search.write_result(output, order, asking, found)
    print(f"\n{len(found.tries) - 1} mixes tried on {len(chosen)} validation rows, {way}; all in {output}")
    print(found.caution)
    print(found.params_lines)


COMMANDS = (search_quantization,)
