"""The variants that a service answers with, and how one takes another's place."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from cartlm.errors import UserError
from cartlm.serving import models
from cartlm.serving.http.failures import Refused
from cartlm.serving.http.lane import Lane, Timed
from cartlm.serving.http.limits import Limits
from cartlm.serving.reader import Reader, Unreadable
from cartlm.text import few

Load = Callable[[str], Reader]
FIRST = (("Milk 1 l", "Milk 2 l"), "2 of the big milk please")


class Variants:
    """Lanes by name; the first is the default. Names do not change but in `swap`."""

    def __init__(self, load: Load, limits: Limits, observe: Callable[[str, Timed], None]) -> None:
        self._load, self._limits, self._observe = load, limits, observe
        self._lanes: list[Lane] = []
        self._swapping = asyncio.Lock()

    def open(self, sources: Iterable[str]) -> None:
        """Load these, in order. Raises UserError, FileNotFoundError."""
        for source in sources:
            name = name_of(source)
            if name in self.names:
                way = "name each once; a path is called after its folder or file"
                raise UserError(f"two variants are called {name!r}", way)
            self._lanes.append(self._lane(name, source))

    def _lane(self, name: str, source: str) -> Lane:
        """Its reader has read one message: the first takes longer, and shows that the model answers."""
        reader = self._load(source)
        try:
            reader.predict(*FIRST)
        except Unreadable:  # of free decoding
            pass
        except BaseException:
            reader.close()
            raise
        return Lane(name, source, reader, self._limits, self._observe)

    @property
    def names(self) -> list[str]:
        return [lane.name for lane in self._lanes]

    def __iter__(self) -> Iterator[Lane]:
        return iter(list(self._lanes))

    def get(self, name: str | None) -> Lane:
        """The lane of that name, or the default one. Raises Refused (404).

        Await nothing between this and `Lane.ask`, or the lane may be closed by then.
        """
        for lane in self._lanes:
            if name in (None, lane.name):
                return lane
        raise Refused(404, f"there is no variant {name!r} here; there are: {few(self.names, 8)}")

    async def swap(self, name: str, place: str | None) -> Lane:
        """Load `name`, and let it answer in the `place` of that variant: by default its own, or that of the default one.

        What the old one accepted is answered by it, and this returns when it is freed. Raises Refused: 404 for what is no
        variant, 409 for one that is broken or has a place already, or while another is loaded; nothing has changed then.
        """
        if self._swapping.locked():
            raise Refused(409, "another variant is being loaded: ask again later")
        async with self._swapping:
            served = {lane.name: lane for lane in self._lanes}
            old = self.get(place or (name if name in served else None))
            if name in served and served[name] is not old:
                raise Refused(409, f"{name} answers already, so it cannot take the place of {old.name}")
            try:
                source = served[name].source if name in served else known_variant(name)
                new = await asyncio.to_thread(self._lane, name, source)
            except FileNotFoundError as error:
                raise Refused(404, f"{error.filename} is missing: {name} is not made yet") from None
            except UserError as error:
                raise Refused(409, f"{name} cannot be loaded: {error.message}") from None
            self._lanes[self._lanes.index(old)] = new
            await asyncio.to_thread(old.close)
        return new

    def close(self) -> None:
        """Answer what was accepted, then free all."""
        for lane in self._lanes:
            lane.close()


def name_of(source: str) -> str:
    """What a variant's name or a model's path is called: the folder of model.gguf, else the file or folder."""
    path = Path(source)
    stem = path.stem if path.suffix in (".gguf", ".json") else path.name
    if len(path.parts) > 1 and stem == "model":
        stem = path.parent.name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem or path.resolve().name)[:100]


def known_variant(name: str) -> str:
    """The name, if it is one of params.yaml: a request cannot name a path. Raises Refused (404)."""
    root = models.find_root(Path())
    known = models.params_of(root).variants.names if root is not None else []
    if name not in known:
        raise Refused(
            404, f"there is no variant {name!r} in params.yaml; there are: {few(known, 20) or 'none'}"
        )
    return name
