"""One mix tried: quantized, asked the validation rows, scored; and the tries that earlier runs left."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cartlm import decoding
from cartlm.engines import collect
from cartlm.evaluation.answers import rows_hash
from cartlm.evaluation.constrained import constrained
from cartlm.evaluation.reading import Within, open_asked
from cartlm.evaluation.statistics import Pairs, newcombe
from cartlm.files import MIB
from cartlm.quantization import gguf
from cartlm.quantization.config import Gguf
from cartlm.system import llama_cpp_build
from cartlm.task.rows import Row

Way = Literal["constrained", "free"]


@dataclass(frozen=True)
class Asking:
    """What each candidate is asked, and how."""

    rows: Sequence[Row]
    way: Way
    separator: str
    max_quantity: int
    max_new_tokens: int
    threads: int
    none: bool = False  # "no order" is a legal answer


@dataclass(frozen=True)
class Try:
    """A file and the ids of the rows that it does not answer exactly; `types` is empty for the F16 model."""

    types: dict[str, str]
    size_mib: float
    bits_per_weight: float
    n: int
    wrong: frozenset[str]

    @property
    def exact_match(self) -> float:
        return 1 - len(self.wrong) / self.n

    def against(self, first: Try) -> Pairs:
        """Paired with another try of the same rows, which comes first."""
        lost, won = len(self.wrong - first.wrong), len(first.wrong - self.wrong)
        neither = len(self.wrong & first.wrong)
        return Pairs(self.n - lost - won - neither, lost, won, neither)

    def as_json(self, first: Try) -> dict[str, Any]:
        """For the result file: with the difference to `first`, in percentage points."""
        pairs = self.against(first)
        low, high = newcombe(pairs)
        points = {"difference": pairs.difference, "low": low, "high": high}
        return {
            "types": self.types, "size_mib": round(self.size_mib, 4), "bits_per_weight": round(self.bits_per_weight, 4),
            "exact_match": round(self.exact_match, 6), "lost": pairs.lost, "won": pairs.won,
            **{f"{name}_points": round(100 * value, 3) for name, value in points.items()},
        }  # fmt: skip


class Trials:
    """Tries of mixes of one F16 file, kept in `folder`/tries.jsonl: a mix that was tried there is not tried again."""

    def __init__(self, source: Path, matrix: Path | None, asking: Asking, folder: Path) -> None:
        self.source, self.matrix, self.asking, self.folder = source, matrix, asking, folder
        code = [
            collect.file_digest(Path(inspect.getfile(module)).parent) for module in (decoding, collect, gguf)
        ]
        self._about = [
            *code, llama_cpp_build.build_info(), collect.file_digest(source), matrix and matrix.name, asking.way,
            rows_hash(asking.rows), asking.separator, asking.max_quantity, asking.max_new_tokens,
            *(["none"] if asking.none else []),  # a journal of before there was "no order" keeps its keys
        ]  # fmt: skip
        self._journal = folder / "tries.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        self._known = dict(self._read())

    def reference(self) -> Try:
        """The F16 model itself."""
        return self._known.get(self._key({})) or self._judge(self.source, gguf.inspect_gguf(self.source), {})

    def quantized(self, wanted: Gguf) -> Try:
        """The model quantized so; its file is gone afterwards. Raises UserError as `gguf.quantize`, OSError on a full disk."""
        types = wanted.tensor_types
        if known := self._known.get(self._key(types)):
            return known
        path = self.folder / "model.gguf"
        try:
            made = gguf.quantize(
                self.source, path, wanted.type, threads=self.asking.threads, log=self.folder / "quantize.log",
                imatrix=self.matrix, types=types,
            )  # fmt: skip
            return self._judge(path, made, types)
        finally:
            path.unlink(missing_ok=True)

    def _judge(self, path: Path, made: gguf.GgufFile, types: dict[str, str]) -> Try:
        """Ask and score; answers are kept until the try is in the journal."""
        asking, key = self.asking, self._key(types)
        part = self.folder / f"{key}.part.jsonl"
        within = Within(asking.max_quantity, baseline=None, none=asking.none)
        with open_asked(
            "llama.cpp", path, asking.separator, asking.max_new_tokens, asking.threads, within
        ) as asked:
            answers = collect.collect_answers(asked.engine, asked.job(asking.rows), part, "validation")
        if asking.way == "constrained":
            answers = [constrained(answer) for answer in answers]
        pairs = zip(asking.rows, answers, strict=True)
        wrong = frozenset(row.id for row, answer in pairs if not answer.exact(row.completion))
        found = Try(types, made.size_bytes / MIB, made.bits_per_weight, len(asking.rows), wrong)
        line = {
            "key": key,
            "types": types,
            "size_mib": found.size_mib,
            "bits_per_weight": found.bits_per_weight,
        }
        with self._journal.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**line, "n": found.n, "wrong": sorted(wrong)}) + "\n")
        self._known[key] = found
        part.unlink()
        return found

    def _key(self, types: Mapping[str, str]) -> str:
        text = json.dumps([self._about, sorted(types.items())])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _read(self) -> Iterator[tuple[str, Try]]:
        """What the journal holds; a line that a kill cut is passed over, and ended so that the next one stands alone."""
        text = self._journal.read_text(encoding="utf-8", errors="replace") if self._journal.exists() else ""
        if text and not text.endswith("\n"):
            with self._journal.open("a", encoding="utf-8") as file:
                file.write("\n")
        for line in text.split("\n"):
            try:
                value = json.loads(line)
                numbers = float(value["size_mib"]), float(value["bits_per_weight"]), int(value["n"])
                yield value["key"], Try(dict(value["types"]), *numbers, frozenset(value["wrong"]))
            except (ValueError, TypeError, KeyError):
                continue
