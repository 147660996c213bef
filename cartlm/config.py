"""Types and errors of strict sections of a YAML file: an unknown key, a wrong type or value names the key."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]
Tokens = Annotated[int, Field(ge=1, le=2**17)]  # as many as the context of the longest small models
Threads = Annotated[int, Field(ge=1, le=2**10)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
# No dot: DVC would split the key there. A file or folder is named after it, and may be no longer than 255.
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=100)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def first_wrong(error: ValidationError) -> str:
    """The first wrong key, its value and what is wrong with it, and how many more there are."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "(top level)"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    # a check of a whole section names its values itself
    silent = first["type"] in ("missing", "value_error") and not isinstance(first["input"], int | float | str)
    silent = silent or "key" in key.rpartition(".")[2]  # an API key, put where none belongs
    given = "" if silent else f" = {first['input']!r:.80}"
    what = {"extra_forbidden": "unknown key", "missing": "missing key", "bool_type": "true or false"}.get(
        first["type"], first["msg"]
    )
    return f"{key}{given}: {what.removeprefix('Value error, ')}{more}"
