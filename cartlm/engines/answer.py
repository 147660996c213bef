"""What an engine returns, how token pieces become text, and how often two engines answer alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from cartlm.errors import UserError

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Legal:
    """What constrained decoding answers to the same prompt (cartlm.decoding).

    `probability` is of this answer among the legal ones. `proposal` is the baseline's answer, None where there is no
    baseline or its answer is not legal; `proposal_probability` is of that, and `gap` how far its tokens are below the
    likeliest legal ones, in logits.
    """

    text: str
    token_ids: tuple[int, ...]
    probability: float
    proposal: str | None = None
    proposal_probability: float = 0.0
    gap: float = 0.0

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Legal:
        """As `Answer.from_json`."""
        return cls(**{**value, "token_ids": tuple(value["token_ids"])})


@dataclass(frozen=True)
class Answer:
    """One completion.

    `token_ids` and `text` exclude EOS; `finish_reason` is "stop" after EOS, "length" at the cap. `decoded_tokens` +
    `forced_tokens` = len(token_ids): chosen by the model, and put there by constrained decoding.
    `prefill_s`: seconds from the prompt's ids to the logits of the first new token; `decode_s`: all seconds after that,
    EOS included. `decode_s` has one forward pass a decoded token (one less at the cap), so `decoded_tokens / decode_s`
    is the decode speed. The answers of a batch share its seconds evenly. After `verify_draft` the draft's check is in
    `prefill_s`: such an answer gives no speeds. An engine without tokens (cartlm.baseline) leaves ids, counts and seconds at 0.
    `legal` is set by cartlm.evaluation.reading alone.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    prompt_tokens: int
    decoded_tokens: int
    forced_tokens: int
    prefill_s: float
    decode_s: float
    legal: Legal | None = None

    def exact(self, completion: str) -> bool:
        """Whether this is the completion byte for byte and ended by itself: what counts as correct everywhere."""
        return self.finish_reason == "stop" and self.text == completion

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Answer:
        """The answer that was stored as `dataclasses.asdict`. Raises TypeError or KeyError for other fields."""
        legal = value.get("legal")
        more = {
            "token_ids": tuple(value["token_ids"]),
            "legal": None if legal is None else Legal.from_json(legal),
        }
        return cls(**{**value, **more})


class Stopped(Exception):
    """Ends an answer that nobody waits for any more."""


class Engine(Protocol):
    """The least that answers rows one at a time. `replicas` may answer at the same time; the engine is the first of them.

    Stages also open it in a `with` block, call `prompt_builder(separator)`, and set `stopped` after an error. Batches need
    `answers`, drafts `verify_draft` (cartlm/engines/transformers.py).
    """

    @property
    def replicas(self) -> Sequence[Engine]: ...

    def answer(self, prompt_ids: list[int], max_new_tokens: int) -> Answer:
        """The greedy completion of `prompt_ids`, at most `max_new_tokens` long."""
        ...

    def describe(self) -> dict[str, str | int]:
        """Name, version, kernel and threads, for the `engine` section of a metrics file."""
        ...


def describe_threads(engine: Engine, threads: int) -> dict[str, str | int]:
    """The threads of all replicas, and how many replicas share them if there are several."""
    count = len(engine.replicas)
    return {"threads": threads * count, **({"workers": count} if count > 1 else {})}


def join_pieces(pieces: list[bytes]) -> str:
    """The text of token pieces, joined as bytes first: a letter may be spread over byte-fallback tokens.

    Nothing is stripped or added; bytes that are not UTF-8 become U+FFFD.
    """
    return b"".join(pieces).decode("utf-8", errors="replace")


def length_sorted_batches(prompts: Sequence[Sequence[int]], size: int) -> list[list[int]]:
    """Indices of `prompts` in batches of similar length, the longest first; the same for the same prompts."""
    order = sorted(range(len(prompts)), key=lambda index: (-len(prompts[index]), index))
    return [order[start : start + size] for start in range(0, len(order), size)]


@dataclass(frozen=True)
class Divergence:
    """The texts of two answers that differ; `index` is the place of their prompt."""

    index: int
    first: str
    second: str


@dataclass(frozen=True)
class Agreement:
    n: int
    divergences: list[Divergence]

    @property
    def share(self) -> float:
        """Share of the prompts that are answered alike."""
        return 1 - len(self.divergences) / self.n

    def listed(self, ids: Sequence[str], first: str, second: str) -> list[dict[str, str]]:
        """The answers that differ, under the names `first` and `second`, each with the id of its row; `ids` are of all rows."""
        return [{"id": ids[one.index], first: one.first, second: one.second} for one in self.divergences]


def agreement(first: Sequence[Answer], second: Sequence[Answer]) -> Agreement:
    """Compare the answers to the same prompts, in the same order: to a user, text and ending make an answer."""
    return _agreement(
        first, second, lambda one, two: (one.text, one.finish_reason) == (two.text, two.finish_reason)
    )


def _agreement(
    first: Sequence[Answer], second: Sequence[Answer], alike: Callable[[Answer, Answer], bool]
) -> Agreement:
    pairs = enumerate(zip(first, second, strict=True))
    different = [Divergence(at, one.text, two.text) for at, (one, two) in pairs if not alike(one, two)]
    return Agreement(len(first), different)


def same_tokens(one: Answer, other: Answer) -> bool:
    """Whether two answers are the same to a model: token for token, and in their ending."""
    return (one.token_ids, one.finish_reason) == (other.token_ids, other.finish_reason)


@dataclass(frozen=True)
class Compared:
    """The answers of the adapter and of a model that it was merged into, to the same prompts; the engine of the latter."""

    adapter: list[Answer]
    merged: list[Answer]
    engine: dict[str, str | int]

    @property
    def agreement(self) -> Agreement:
        """How often the adapter (first) and the merged model (second) give the same tokens."""
        return _agreement(self.adapter, self.merged, same_tokens)


def check_parity(parity: Mapping[str, Any], least: float) -> None:
    """Raise UserError where metrics/parity.json says that merged and F16 agree on less than the share `least`."""
    share, n = parity.get("agreement", 0.0), parity.get("n", 0)
    if share < least:
        raise UserError(
            f"merged and f16 answer {share:.4f} of {n} rows alike, less than parity.min_agreement={least}",
            "see runs/parity.json of dvc repro parity: the tokenizer, the converter or the merge lost something",
        )
