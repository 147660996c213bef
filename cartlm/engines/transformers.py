"""The transformers engine: a model folder (safetensors only), one query at a time or in left-padded batches."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
import transformers as hf
from transformers.convert_slow_tokenizer import bytes_to_unicode

from cartlm.engines import gptq, stepping
from cartlm.engines.answer import Answer, Stopped, describe_threads, join_pieces, length_sorted_batches
from cartlm.engines.model_dir import AGAIN
from cartlm.errors import UserError
from cartlm.task.prompt import PromptBuilder, end_ids, from_transformers

Dtype = Literal["float32", "float16", "bfloat16"]
BYTE_FALLBACK = re.compile(r"<0x([0-9A-F]{2})>")


class Transformers(AbstractContextManager["Transformers"]):
    """A loaded causal language model and its tokenizer; make it with `load`.

    Decoding is our own greedy loop over logits: the folder's generation config (sampling, penalties) plays no part. An
    answer ends at the tokenizer's EOS or another end token of its vocabulary (cartlm.task.prompt.END_TOKENS).
    """

    def __init__(
        self, folder: Path, model: Any, tokenizer: Any, replicas: int = 1, weights: str = "",
        fixed: int | None = None,
    ) -> None:  # fmt: skip
        self.folder, self.model, self.tokenizer = folder, model, tokenizer
        self.weights, self.fixed = weights, fixed
        self._fixed: stepping.FixedCache | None = None
        self._replica_count, self.stopped = replicas, False
        self.eos_id: int = tokenizer.eos_token_id
        self.end_ids = end_ids(self.eos_id, tokenizer.backend_tokenizer.token_to_id)
        self._piece = _pieces(tokenizer)
        ids = tokenizer("a", add_special_tokens=False)["input_ids"]
        self._adds_space = join_pieces([self._piece(token) for token in ids]) == " a"

    @property
    def max_positions(self) -> int:
        """How many tokens, prompt and answer together, the model was made to read."""
        return int(self.model.config.max_position_embeddings)

    @property
    def replicas(self) -> list[Transformers]:
        """This engine as often as it may answer at the same time: every query has its own state."""
        return [self] * self._replica_count

    def answer(self, prompt_ids: list[int], max_new_tokens: int) -> Answer:
        """The greedy completion of exactly `prompt_ids`, up to EOS or `max_new_tokens`, at batch 1."""
        return self._batch([prompt_ids], max_new_tokens)[0]

    @torch.inference_mode()
    def verify_draft(self, prompt_ids: list[int], max_new_tokens: int, draft: Sequence[int]) -> Answer:
        """The greedy completion at batch 1, faster where `draft` guesses it.

        As in speculative decoding (arXiv 2211.17192), one forward pass over prompt and draft shows how much of the
        draft greedy decoding would choose; only what comes after that is decoded token by token.
        """
        draft = list(draft[:max_new_tokens])
        started = time.perf_counter()
        inputs = torch.tensor([prompt_ids + draft], device=self.model.device)
        logits = self.model(input_ids=inputs, use_cache=False, logits_to_keep=len(draft) + 1).logits[0]
        chosen = self._tokens(stepping.likeliest(logits))
        seconds = time.perf_counter() - started
        accepted = 0
        while accepted < len(draft) and draft[accepted] == chosen[accepted] not in self.end_ids:
            accepted += 1
        kept = draft[:accepted]
        if accepted == max_new_tokens or chosen[accepted] in self.end_ids:
            return Answer(
                self.decode(kept), tuple(kept), "length" if accepted == max_new_tokens else "stop", len(prompt_ids),
                accepted, 0, seconds, 0.0,
            )  # fmt: skip
        rest = self.answer(prompt_ids + kept, max_new_tokens - accepted)
        ids = (*kept, *rest.token_ids)
        return replace(
            rest, text=self.decode(ids), token_ids=ids, prompt_tokens=len(prompt_ids), decoded_tokens=len(ids),
            prefill_s=seconds + rest.prefill_s,
        )  # fmt: skip

    def answers(self, prompts: Sequence[list[int]], max_new_tokens: int, batch_size: int) -> list[Answer]:
        """The answers to `prompts` in their order, computed in batches of similar length."""
        done: dict[int, Answer] = {}
        for indices in length_sorted_batches(prompts, batch_size):
            batch = self._batch([prompts[index] for index in indices], max_new_tokens)
            done.update(zip(indices, batch, strict=True))
        return [done[index] for index in range(len(prompts))]

    @torch.inference_mode()
    def _batch(self, prompts: list[list[int]], max_new_tokens: int) -> list[Answer]:
        """One batch: prompts padded on the left to [rows, longest], positions counted from each prompt's start."""
        if not all(prompts) or max_new_tokens < 1:
            raise ValueError(f"a prompt is empty or max_new_tokens is {max_new_tokens}")
        rows = len(prompts)
        padded = torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(prompt) for prompt in prompts], batch_first=True, padding_value=-1, padding_side="left"
        ).to(self.model.device)  # fmt: skip
        ids, mask = padded.clamp(min=0), (padded >= 0).long()
        stepper = self._stepper(rows)
        chosen: list[list[int]] = [[] for _ in prompts]
        running = set(range(rows))

        started = time.perf_counter()
        tokens = self._tokens(stepper.prefill(ids, mask))
        prefilled = time.perf_counter()
        for step in range(max_new_tokens):
            if self.stopped:
                raise Stopped
            for row in sorted(running):
                if tokens[row] in self.end_ids:
                    running.remove(row)
                else:
                    chosen[row].append(tokens[row])
            if not running or step == max_new_tokens - 1:
                break
            tokens = self._tokens(stepper.step(tokens))
        ended = time.perf_counter()
        return [
            Answer(
                self.decode(new), tuple(new), "length" if row in running else "stop", len(prompt), len(new), 0,
                (prefilled - started) / rows, (ended - prefilled) / rows,
            )
            for row, (prompt, new) in enumerate(zip(prompts, chosen, strict=True))
        ]  # fmt: skip

    def _stepper(self, rows: int) -> Any:
        """A fresh growing cache, or the one of fixed size for so many rows, with its graph."""
        if self.fixed is None:
            return stepping.GrowingCache(self.model)
        if self._fixed is None or self._fixed.rows != rows:
            self._fixed = None  # free it first
            self._fixed = stepping.FixedCache(self.model, rows, self.fixed)
        return self._fixed

    def _tokens(self, likeliest: Any) -> list[int]:
        """The likeliest token of each row, on the host. Raises UserError for NaN and infinity."""
        best, tokens = likeliest.tolist()
        if not all(map(math.isfinite, best)):
            kind = self.model.device.type
            trained = torch.is_autocast_enabled(kind)  # as in fine-tuning
            dtype = torch.get_autocast_dtype(kind) if trained else self.model.dtype
            hint = AGAIN
            if dtype == torch.float16:
                hint = "its activations may exceed float16, which bfloat16 holds"
                if trained:
                    hint += ": set finetune.compute_dtype: bfloat16 in params.yaml"
                elif (self.folder / "quantize_config.json").exists():
                    hint += ": set gpu.dtype: bfloat16 in params.yaml"
            what = f"{self.folder} computes NaN or infinity in {str(dtype).removeprefix('torch.')}"
            raise UserError(what, hint)
        return list(map(int, tokens))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, byte for byte; special tokens have none.

        Only the space that some tokenizers put in front of every text (Llama 2, Mistral) is cut, unlike in tokenizer.decode.
        """
        text = join_pieces([self._piece(token) for token in ids])
        return text.removeprefix(" ") if self._adds_space else text

    def prompt_builder(self, separator: str) -> PromptBuilder:
        """The builder over the folder's tokenizer. Raises UserError as `cartlm.task.prompt.from_transformers` does."""
        return from_transformers(self.tokenizer, separator)

    def describe(self) -> dict[str, str | int]:
        """Name, versions, dtype and device, of a GPTQ checkpoint its kernel; cache, card, threads."""
        kernel = f"{str(self.model.dtype).removeprefix('torch.')} on {self.model.device.type}"
        description: dict[str, str | int] = {
            "name": "transformers",
            "version": f"transformers {hf.__version__}, torch {torch.__version__}",
            "kernel": f"{self.weights}, {kernel}" if self.weights else kernel,
        }
        if self.fixed is not None:
            description["attention"] = str(self.model.config._attn_implementation)
            description["cache"] = f"fixed, {self.fixed} tokens"
            description["graphs"] = self._fixed.reason or "CUDA graph of a step" if self._fixed else "not yet"
        if self.model.device.type == "cuda":
            capability = torch.cuda.get_device_capability(self.model.device)
            description["compute_capability"] = ".".join(map(str, capability))
        return description | describe_threads(self, torch.get_num_threads())

    def __exit__(self, *_: object) -> None:
        """Nothing to free: Python drops the weights with the engine."""


def _pieces(tokenizer: Any) -> Callable[[int], bytes]:
    """The bytes of a token by its id: as in GPT-2's table for byte-level BPE, else with bytes as <0x0A> and ▁ as space."""
    is_byte_level = "ByteLevel" in str(tokenizer.backend_tokenizer.decoder)
    byte_of = {letter: byte for byte, letter in bytes_to_unicode().items()}

    @cache
    def piece(token: int) -> bytes:
        added = tokenizer.added_tokens_decoder.get(token)
        if added is not None:
            return b"" if added.special else str(added.content).encode()
        # the embedding may have more rows than the vocabulary
        text = tokenizer.convert_ids_to_tokens(token) or ""
        if is_byte_level:
            return bytes(byte_of[letter] for letter in text)
        byte = BYTE_FALLBACK.fullmatch(text)
        return bytes([int(byte[1], 16)]) if byte else text.replace("▁", " ").encode()

    return piece


def load(
    folder: Path, dtype: Dtype = "float32", device: str | None = None, threads: int | None = None,
    replicas: int = 1, kernel: str | None = None, nf4: bool = False, fixed: int | None = None,
) -> Transformers:  # fmt: skip
    """The model in `folder` with its tokenizer; nothing is downloaded and no code of the folder runs.

    `device` is "cpu" or "cuda", by default CUDA where there is a card; `threads` are torch's, of each of the `replicas`
    (one on a card). A GPTQ checkpoint is run by `kernel`, or dequantized (cartlm.engines.gptq); `nf4` quantizes a plain
    model at load with bitsandbytes. `fixed` gives each row a cache of so many tokens, on a card with CUDA graphs.
    Raises UserError for a folder without safetensors, or with broken or incomplete weights.
    """
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} holds no model (no config.json)", "dvc repro")
    if threads:
        torch.set_num_threads(threads)
    hf.logging.set_verbosity_error()
    hf.logging.disable_progress_bar()
    device, weights = device or ("cuda" if torch.cuda.is_available() else "cpu"), ""
    try:
        tokenizer = hf.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if (folder / "quantize_config.json").exists():  # a GPTQ checkpoint
            model, weights = gptq.load(folder, getattr(torch, dtype), device, kernel)
        else:
            model = _load_plain(folder, getattr(torch, dtype), device, nf4)
            weights = "bitsandbytes NF4" if nf4 else ""
    except UserError:
        raise
    except ModuleNotFoundError as error:
        raise UserError(f"the package {error.name} is not installed", f"pip install {error.name}") from None
    except Exception as error:  # each file of the folder fails in its own library's way
        raise UserError(f"{folder} does not load: {error!s:.200}", AGAIN) from None
    return Transformers(folder, model, tokenizer, replicas if device == "cpu" else 1, weights, fixed)


def _load_plain(folder: Path, dtype: Any, device: str, nf4: bool) -> Any:
    """The unquantized model, or as NF4. Raises UserError for missing weights."""
    options: dict[str, Any] = {}
    if nf4:
        how = hf.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )  # fmt: skip
        options = {"quantization_config": how, "device_map": {"": device}}
    model, report = hf.AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, use_safetensors=True, local_files_only=True, trust_remote_code=False,
        output_loading_info=True, **options,
    )  # fmt: skip
    if missing := sorted(report["missing_keys"]):
        raise UserError(f"{folder} lacks {len(missing)} weights such as {missing[0]}", AGAIN)
    return (model if nf4 else model.to(device)).eval()
