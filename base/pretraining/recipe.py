"""The recipe of the base model: base/params.yaml, checked, one Recipe a phase of training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from cartlm import yaml_files
from cartlm.config import Count, Positive, Section, Seed, Share, first_wrong
from cartlm.errors import UserError

Head = Annotated[tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]], Field(strict=False)]
LONGEST = 1400  # tokens of a document; longer ones are left out
GUIDED = ("anchors", "choices", "recalls", "copies")
"""What heads are guided to (encoding.Encoded), in the order of `Recipe.heads_guided`."""
PASSED_ON = ("meant", "begun")
"""What the input of a layer must know (encoding.Encoded), in the order of `Recipe.layers_read`."""


class Recipe(Section):
    """Shape of the base model, and one phase of its training. `tokens_per_step` counts padded tokens.

    `text_weight` scales the loss on all but answers. The rate ends at `last_rate` times `learning_rate`.
    Of the documents, the share `everyday` has catalogs and messages of cartlm/data/everyday.py.
    `guidance` weighs the attention loss of four heads (guidance.py), each given as (layer, head), and `passing_on`
    the loss on what two of them must pass on.
    """

    seed: Seed
    vocabulary: Count
    longest_piece: Count
    hidden: Count
    intermediate: Count
    layers: Count
    heads: Count
    steps: Count
    tokens_per_step: Count
    learning_rate: Positive
    warmup_steps: Count
    decay_share: Share
    last_rate: Share
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    everyday: Share
    text_weight: Positive  # with 0, a part of a batch may have nothing to learn
    guidance: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    passing_on: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    anchor_head: Head
    choice_head: Head
    recall_head: Head
    copy_head: Head
    save_every: Count
    probe_every: Count
    probe_rows: Count

    @property
    def heads_guided(self) -> tuple[tuple[int, int], ...]:
        return (self.anchor_head, self.choice_head, self.recall_head, self.copy_head)

    @property
    def layers_read(self) -> tuple[int, int]:
        """The recall head's layer reads what the choice head found, the copy head's what the recall head found."""
        return (self.recall_head[0], self.copy_head[0])

    @model_validator(mode="after")
    def _fits(self) -> Recipe:
        if self.hidden % (2 * self.heads):
            raise ValueError(f"hidden {self.hidden} is not a multiple of twice heads {self.heads}")
        if self.tokens_per_step < 2 * LONGEST:
            raise ValueError(
                f"tokens_per_step={self.tokens_per_step} is less than two documents of {LONGEST}"
            )
        for layer, head in self.heads_guided:
            if layer >= self.layers or head >= self.heads:
                raise ValueError(
                    f"no layer {layer} with a head {head}: {self.layers} layers of {self.heads} heads"
                )
        return self


def rate(recipe: Recipe, step: int) -> float:
    """Learning rate: linear warm-up, constant, then linear to its last value over the last `decay_share`."""
    left = (recipe.steps - step) / max(1, round(recipe.steps * recipe.decay_share))
    falling = recipe.last_rate + (1 - recipe.last_rate) * min(1.0, left)
    return recipe.learning_rate * min((step + 1) / recipe.warmup_steps, falling)


def load(path: Path) -> list[Recipe]:
    """The phases of a recipe file. Raises UserError naming the first wrong key and its value."""
    hint = f"edit {path}, then make base"
    try:
        content: Any = yaml_files.parse(path.read_bytes(), str(path), hint)
        shape, phases = content["pretraining"]["shape"], content["pretraining"]["phases"]
        if twice := sorted(set(shape) & {name for phase in phases for name in phase}):
            raise UserError(f"{path}: {twice[0]} is in shape and in a phase", hint)
        if not phases:
            raise UserError(f"{path}: no phase", hint)
        return [Recipe.model_validate({**shape, **phase}) for phase in phases]
    except ValidationError as error:
        raise UserError(f"{path}: {first_wrong(error)}", hint) from None
    except (KeyError, TypeError):
        raise UserError(f"{path} lacks pretraining.shape or pretraining.phases", hint) from None
