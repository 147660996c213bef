"""The transformers engine: a model folder (safetensors only), one query at a time or in left-padded batches."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import transformers as hf

from cartlm.engines.answer import Answer, FinishReason, Stopped, batches, text, workers
from cartlm.errors import UserError
from cartlm.prompt import PromptBuilder, from_transformers

Dtype = Literal["float32", "float16", "bfloat16"]
BYTE_FALLBACK = re.compile(r"<0x([0-9A-F]{2})>")


class Transformers:
    """A loaded causal language model and its tokenizer; make it with `load`.

    Decoding is our own greedy loop over logits: the folder's generation config (sampling, penalties, several
    end tokens) plays no part. Only the tokenizer's EOS ends an answer.
    """

    def __init__(self, folder: Path, model: Any, tokenizer: Any, beside: int = 0) -> None:
        self.folder, self.model, self.tokenizer = folder, model, tokenizer
        self.beside, self.stopped = beside, False
        self.eos_id: int = tokenizer.eos_token_id
        self._pieces: dict[int, bytes] = {}
        self._byte_of = _byte_level(tokenizer)

    @property
    def crew(self) -> list[Transformers]:
        """This engine as often as it may answer at the same time: a query's state is its own."""
        return [self] * (1 + self.beside)

    def answer(self, prompt_ids: list[int], max_new_tokens: int) -> Answer:
        """The greedy completion of exactly `prompt_ids`, up to EOS or `max_new_tokens`, at batch 1."""
        return self._batch([prompt_ids], max_new_tokens)[0]

    def verified(self, prompt_ids: list[int], max_new_tokens: int, draft: Sequence[int]) -> Answer:
        """The greedy completion at batch 1, faster where `draft` guesses it.

        As in speculative decoding (arXiv 2211.17192) one forward pass over prompt and draft tells how far the draft
        is what greedy decoding chooses; only what comes after that is decoded token by token.
        """
        if not prompt_ids or max_new_tokens < 1:
            raise ValueError(f"the prompt is empty or max_new_tokens is {max_new_tokens}")
        draft = list(draft[:max_new_tokens])
        started = time.perf_counter()
        chosen = self._greedy(prompt_ids + draft, len(draft) + 1)
        seconds = time.perf_counter() - started
        pairs = enumerate(zip(draft, chosen, strict=False))
        right = next(
            (at for at, (guess, token) in pairs if guess != token or token == self.eos_id), len(draft)
        )
        kept = draft[:right]
        if right == max_new_tokens or chosen[right] == self.eos_id:
            reason: FinishReason = "length" if right == max_new_tokens else "stop"
            return Answer(self.decode(kept), tuple(kept), reason, len(prompt_ids), right, 0, seconds, 0.0)
        rest = self._batch([prompt_ids + kept], max_new_tokens - right)[0]
        ids = (*kept, *rest.token_ids)
        return Answer(
            self.decode(ids), ids, rest.finish_reason, len(prompt_ids), len(ids), 0,
            seconds + rest.prefill_s, rest.decode_s,
        )  # fmt: skip

    @torch.inference_mode()
    def _greedy(self, ids: list[int], last: int) -> list[int]:
        """The likeliest token after each of the `last` last of `ids`."""
        given = torch.tensor([ids], device=self.model.device)
        logits = self.model(input_ids=given, use_cache=False, logits_to_keep=last).logits[0]
        return self._likeliest(logits)

    def answers(self, prompts: Sequence[list[int]], max_new_tokens: int, batch_size: int) -> list[Answer]:
        """The answers to `prompts` in their order, computed in batches of like length."""
        done: dict[int, Answer] = {}
        for indices in batches(prompts, batch_size):
            batch = self._batch([prompts[index] for index in indices], max_new_tokens)
            done.update(zip(indices, batch, strict=True))
        return [done[index] for index in range(len(prompts))]

    @torch.inference_mode()
    def _batch(self, prompts: list[list[int]], max_new_tokens: int) -> list[Answer]:
        """One batch: prompts padded on the left to [rows, longest], positions counted from each prompt's start."""
        if not all(prompts) or max_new_tokens < 1:
            raise ValueError(f"a prompt is empty or max_new_tokens is {max_new_tokens}")
        rows, longest = len(prompts), max(map(len, prompts))
        ids = torch.full((rows, longest), self.eos_id)  # any id: the mask hides it
        mask = torch.zeros((rows, longest), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        ids, mask = ids.to(self.model.device), mask.to(self.model.device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        cache = hf.DynamicCache(config=self.model.config)
        chosen: list[list[int]] = [[] for _ in prompts]
        running = set(range(rows))

        started = time.perf_counter()
        tokens = self._next(ids, mask, positions, cache)
        prefilled = time.perf_counter()
        for step in range(max_new_tokens):
            if self.stopped:
                raise Stopped
            for row in sorted(running):
                if tokens[row] == self.eos_id:
                    running.remove(row)
                else:
                    chosen[row].append(tokens[row])
            if not running or step == max_new_tokens - 1:
                break
            mask = torch.cat([mask, mask.new_ones((rows, 1))], dim=1)
            positions = positions[:, -1:] + 1
            tokens = self._next(ids.new_tensor(tokens)[:, None], mask, positions, cache)
        ended = time.perf_counter()
        return [
            Answer(
                self.decode(made), tuple(made), "length" if row in running else "stop", len(prompt), len(made), 0,
                (prefilled - started) / rows, (ended - prefilled) / rows,
            )
            for row, (prompt, made) in enumerate(zip(prompts, chosen, strict=True))
        ]  # fmt: skip

    def _next(self, ids: Any, mask: Any, positions: Any, cache: Any) -> list[int]:
        """The likeliest next token of each row; the copy to the host waits for the device."""
        logits = self.model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]  # fmt: skip
        return self._likeliest(logits)

    def _likeliest(self, logits: Any) -> list[int]:
        """The index of the highest of each row of [rows, vocabulary]. Raises UserError for NaN and infinity."""
        best, tokens = logits.max(dim=-1)
        if not torch.isfinite(best).all():
            raise UserError(f"{self.folder} computes NaN or infinity", "delete it, then dvc repro")
        chosen: list[int] = tokens.tolist()
        return chosen

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, byte for byte; special tokens have none. Unlike tokenizer.decode, no space is cut."""
        return text([self._piece(token) for token in ids])

    def _piece(self, token: int) -> bytes:
        if token not in self._pieces:
            self._pieces[token] = self._make_piece(token)
        return self._pieces[token]

    def _make_piece(self, token: int) -> bytes:
        added = self.tokenizer.added_tokens_decoder.get(token)
        if added is not None:
            return b"" if added.special else str(added.content).encode()
        piece = self.tokenizer.convert_ids_to_tokens(token)
        if piece is None:  # the embedding has more rows than the vocabulary
            return b""
        if self._byte_of:
            return bytes(self._byte_of[letter] for letter in piece)
        byte = BYTE_FALLBACK.fullmatch(piece)
        return bytes([int(byte[1], 16)]) if byte else piece.replace("▁", " ").encode()

    def prompt_builder(self, separator: str) -> PromptBuilder:
        """The builder over the folder's tokenizer. Raises UserError as `cartlm.prompt.from_transformers` does."""
        return from_transformers(self.tokenizer, separator)

    def describe(self) -> dict[str, str | int]:
        """Name, versions, dtype and device, threads."""
        return {
            "name": "transformers",
            "version": f"transformers {hf.__version__}, torch {torch.__version__}",
            "kernel": f"{str(self.model.dtype).removeprefix('torch.')} on {self.model.device.type}",
            "threads": torch.get_num_threads() * len(self.crew),
            **workers(self),
        }

    def __enter__(self) -> Transformers:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to free: Python drops the weights with the engine."""


def _byte_level(tokenizer: Any) -> dict[str, int]:
    """Letter to byte of a byte-level BPE tokenizer (the table of GPT-2); empty for any other."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    if "ByteLevel" not in str(tokenizer.backend_tokenizer.decoder):
        return {}
    return {letter: byte for byte, letter in bytes_to_unicode().items()}


def load(
    folder: Path, dtype: Dtype = "float32", device: str | None = None, threads: int | None = None,
    beside: int = 0,
) -> Transformers:  # fmt: skip
    """The model in `folder` with its tokenizer; nothing is downloaded and no code of the folder runs.

    `device` is "cpu" or "cuda", by default CUDA where there is a card; `threads` are torch's, of each of
    1 + `beside` that may answer at the same time (on the CPU; a card has one). Raises UserError if the folder is missing, has no safetensors, or its weights are broken or
    incomplete.
    """
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} holds no model (no config.json)", "dvc repro")
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"{folder} holds no *.safetensors", "convert its weights to safetensors")
    if threads:
        torch.set_num_threads(threads)
    hf.logging.set_verbosity_error()
    hf.logging.disable_progress_bar()
    try:
        tokenizer = hf.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        loaded: Any = hf.AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, dtype), use_safetensors=True, local_files_only=True,
            trust_remote_code=False, output_loading_info=True,
        )  # fmt: skip
    except Exception as error:  # each file of the folder fails in its own library's way
        what = " ".join(str(error).split())[:200]
        raise UserError(f"{folder} does not load: {what}", "delete it, then dvc repro") from None
    model, report = loaded
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise UserError(
            f"{folder} lacks {len(missing)} weights such as {missing[0]}", "delete it, then dvc repro"
        )
    model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()
    return Transformers(folder, model, tokenizer, beside if model.device.type == "cpu" else 0)
