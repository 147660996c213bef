"""The llama.cpp engine: a GGUF file, one query at a time, through the low-level binding."""

from __future__ import annotations

import ctypes
import os
import time
from contextlib import AbstractContextManager
from pathlib import Path
from threading import Lock
from typing import Any

import llama_cpp as c
import numpy as np

from cartlm.engines.answer import Answer, FinishReason, Stopped, describe_threads, join_pieces
from cartlm.errors import UserError
from cartlm.system import cpu_limits, llama_cpp_probe
from cartlm.task.prompt import PromptBuilder, end_ids

CONTEXT_STEP = 256  # llama.cpp rounds the context up to this many tokens
_errors: list[str] = []


@c.llama_log_callback
def _log(level: int, message: bytes, _user_data: ctypes.c_void_p) -> None:
    """Keeps llama.cpp's errors (level 4) for the message of a UserError and drops the rest."""
    if level == 4 and message.strip():
        _errors.append(message.decode("utf-8", "replace").strip())
        del _errors[:-5]


c.llama_log_set(_log, ctypes.c_void_p(0))
c.llama_backend_init()


class LlamaCpp(AbstractContextManager["LlamaCpp"]):
    """A loaded GGUF model; make it with `load`, free it with a `with` block.

    No prefix is reused: the KV cache (float16, llama.cpp's default) is emptied before each query.
    """

    def __init__(self, path: Path, model: Any, threads: int) -> None:
        self.path, self.threads = path, threads
        self._model, self._context, self.context_tokens = model, None, 0
        self._vocab = c.llama_model_get_vocab(model)
        self.vocabulary = c.llama_vocab_n_tokens(self._vocab)
        self.bos_id = c.llama_vocab_bos(self._vocab) if self._names("bos") else None
        self.eos_id = c.llama_vocab_eos(self._vocab)
        self.end_ids = end_ids(self.eos_id, self._find)
        # whether llama.cpp's tools do it by themselves
        self.adds_bos = bool(c.llama_vocab_get_add_bos(self._vocab))
        self._adds_space = self._join(self.tokenize("a")) == " a"
        self.stopped = False  # set from another thread: the current answer ends at its next token
        self.replicas = [self]  # and others over the same weights, which may answer at the same time
        self._busy = Lock()

    def reserve(self, tokens: int) -> None:
        """Make room for a prompt plus answer of `tokens`; a context that is large enough stays."""
        if tokens <= self.context_tokens:
            return
        if self._context is not None:
            c.llama_free(self._context)
        settings = c.llama_context_default_params()
        settings.n_ctx = settings.n_batch = -(-tokens // CONTEXT_STEP) * CONTEXT_STEP
        settings.n_threads = settings.n_threads_batch = self.threads
        settings.no_perf = True
        self._context = c.llama_init_from_model(self._model, settings)
        if not self._context:
            self._context, self.context_tokens = None, 0
            raise _failure(self.path, f"does not run with {tokens} tokens")
        self.context_tokens = c.llama_n_ctx(self._context)

    def answer(self, prompt_ids: list[int], max_new_tokens: int) -> Answer:
        """The greedy completion of exactly `prompt_ids`, up to an end token or `max_new_tokens`.

        Raises UserError if the model computes NaN or infinity.
        """
        if not prompt_ids or max_new_tokens < 1:
            raise ValueError(f"{len(prompt_ids)} prompt tokens, {max_new_tokens} new ones: at least 1 each")
        with self._busy:
            self.reserve(len(prompt_ids) + max_new_tokens)
            self._clear()
            started = time.perf_counter()
            logits = self._forward(prompt_ids)
            prefilled = time.perf_counter()
            ids: list[int] = []
            reason: FinishReason = "length"
            while len(ids) < max_new_tokens:
                token = self._likeliest(logits)
                if token in self.end_ids:
                    reason = "stop"
                    break
                ids.append(token)
                if self.stopped:
                    raise Stopped
                if len(ids) < max_new_tokens:
                    logits = self._forward([token])
            ended = time.perf_counter()
        return Answer(
            self.decode(ids), tuple(ids), reason, len(prompt_ids), len(ids), 0,
            prefilled - started, ended - prefilled,
        )  # fmt: skip

    def _likeliest(self, logits: Any) -> int:
        """The token of the highest of [vocabulary] logits. Raises UserError for NaN and infinity."""
        token = int(np.argmax(logits))
        if not np.isfinite(logits[token]):
            hint = "delete it, then dvc repro; if it stays so, its activations may exceed float16, as F16 weights need them"
            raise UserError(f"{self.path} computes {logits[token]}", hint)
        return token

    def benchmark_pp_tg(self, prompt_tokens: int, new_tokens: int) -> tuple[float, float]:
        """Seconds to prefill `prompt_tokens` arbitrary tokens, and to decode `new_tokens` from an empty cache.

        What llama-bench times as pp and tg (tools/llama-bench), through this engine's own calls.
        """
        self.reserve(max(prompt_tokens, new_tokens + 1))
        ids = [(7919 * index) % self.vocabulary for index in range(max(prompt_tokens, new_tokens))]
        self._clear()
        started = time.perf_counter()
        int(np.argmax(self._forward(ids[:prompt_tokens])))
        prefilled = time.perf_counter()
        self._clear()
        emptied = time.perf_counter()
        for token in ids[:new_tokens]:
            int(np.argmax(self._forward([token])))
        return prefilled - started, time.perf_counter() - emptied

    def _clear(self) -> None:
        c.llama_memory_clear(c.llama_get_memory(self._context), True)

    def _forward(self, ids: list[int]) -> Any:
        """Logits after the last of `ids`, float32 [vocabulary]; valid until the next call."""
        tokens = (c.llama_token * len(ids))(*ids)  # must outlive the batch, which only points to it
        status = c.llama_decode(self._context, c.llama_batch_get_one(tokens, len(ids)))
        if status != 0:
            raise RuntimeError(f"llama_decode of {len(ids)} tokens returned {status}: {_errors[:1]}")
        return np.ctypeslib.as_array(c.llama_get_logits_ith(self._context, -1), (self.vocabulary,))

    def tokenize(self, content: str, special: bool = False) -> list[int]:
        """Ids by the GGUF's own tokenizer; special tokens are added and read out of the text only if `special`."""
        data = content.encode("utf-8")
        size = len(data) + 8  # of at most a token a byte, BOS, EOS and a dummy prefix
        ids = (c.llama_token * size)()
        return ids[: c.llama_tokenize(self._vocab, data, len(data), ids, size, special, special)]

    def is_control(self, token: int) -> bool:
        """Whether llama.cpp never reads the token out of text: of some names it decides so against the file."""
        return bool(c.llama_vocab_is_control(self._vocab, token))

    def _names(self, kind: str) -> bool:
        """Whether the file has such a token; without one llama.cpp falls back to an id of its own."""
        key, buffer = f"tokenizer.ggml.{kind}_token_id".encode(), ctypes.create_string_buffer(16)
        return int(c.llama_model_meta_val_str(self._model, key, buffer, len(buffer))) >= 0

    def _find(self, name: str) -> int | None:
        """The id of a token by its name, None for what the vocabulary splits."""
        data, ids = name.encode(), (c.llama_token * len(name))()
        found = ids[: max(0, c.llama_tokenize(self._vocab, data, len(data), ids, len(ids), False, True))]
        return found[0] if len(found) == 1 and self.token_name(found[0]) == name else None

    def decode(self, ids: list[int]) -> str:
        """The text of `ids`, byte for byte, without the space that some tokenizers put in front; special tokens have none."""
        text = self._join(ids)
        return text.removeprefix(" ") if self._adds_space else text

    def _join(self, ids: list[int]) -> str:
        return join_pieces([self._piece(token) for token in ids])

    def _piece(self, token: int) -> bytes:
        size = -c.llama_token_to_piece(self._vocab, token, b"", 0, 0, False)  # what is missing
        buffer = ctypes.create_string_buffer(size)
        c.llama_token_to_piece(self._vocab, token, buffer, size, 0, False)
        return buffer.raw

    def token_name(self, token: int) -> str:
        """The vocabulary's entry for a token, such as <s>."""
        return bytes(c.llama_vocab_get_text(self._vocab, token)).decode("utf-8")

    def prompt_builder(self, separator: str) -> PromptBuilder:
        """The builder over the GGUF's own tokenizer, whose BOS and EOS are compared with the model's (`shared_ids`)."""
        return PromptBuilder(self.tokenize, self.bos_id, self.eos_id, separator, self.end_ids)

    def describe(self) -> dict[str, str | int]:
        """Name, version of the binding and its llama.cpp, CPU variant, threads.

        `instructions`: the sets that the loaded CPU code was built with, such as `AVX2 FMA AVX512_VNNI`.
        """
        info = c.llama_print_system_info().decode("utf-8", "replace")
        return {
            "name": "llama.cpp",
            "version": f"llama-cpp-python {c.__version__}",
            "kernel": llama_cpp_probe.cpu_variant() or "unknown",
            "instructions": " ".join(
                part.split("=")[0].split(":")[-1].strip() for part in info.split("|") if "= 1" in part
            ),
            **describe_threads(self, self.threads),
        }

    def __exit__(self, *_: object) -> None:
        """Free contexts and model as soon as no answer is being computed; a second call does nothing."""
        for replica in self.replicas:
            with replica._busy:
                if replica._context is not None:
                    c.llama_free(replica._context)
                replica._context = None
        if self._model is not None:
            c.llama_model_free(self._model)
        self._model = None


def offloads() -> bool:
    """Whether llama.cpp was built for a card and finds one."""
    return bool(c.llama_supports_gpu_offload())


def load(
    path: Path, context_tokens: int = 1024, threads: int | None = None, replicas: int = 1, card: bool = False
) -> LlamaCpp:
    """The model of the GGUF file at `path`, on the CPU, or with all of its layers on the `card`.

    `context_tokens` holds the longest prompt plus answer; the context grows when one needs more. `threads`, of each of
    the `replicas` over the same weights, defaults to as many as quota and affinity allow. Raises UserError for a file
    that is missing, truncated, corrupt or no GGUF.
    """
    threads = threads or cpu_limits.threads()
    model = _load_model(path, n_gpu_layers=999 if card else 0)  # more than there are
    engine = LlamaCpp(path, model, threads)
    engine.replicas += [LlamaCpp(path, model, threads) for _ in range(replicas - 1)]
    for replica in engine.replicas:
        replica.reserve(context_tokens)
    return engine


def load_vocabulary(path: Path) -> LlamaCpp:
    """The tokenizer of the GGUF file at `path`, without its weights. Raises UserError as `load`."""
    return LlamaCpp(path, _load_model(path, vocab_only=True), threads=1)


def _load_model(path: Path, **settings: Any) -> Any:
    if not path.exists():
        raise UserError(f"{path} is missing", "dvc repro")
    _errors.clear()
    params = c.llama_model_default_params()
    for name, value in settings.items():
        setattr(params, name, value)
    model = c.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        raise _failure(path, "does not load")
    return model


def _failure(path: Path, what: str) -> UserError:
    reason = _errors[0][:200] if _errors else "no reason given"
    return UserError(f"{path} {what}: {reason}", f"make it again: rm {path}, then dvc repro")
