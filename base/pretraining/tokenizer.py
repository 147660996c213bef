"""The base model's tokenizer: SentencePiece BPE with byte fallback, as the GGUF converter takes it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def train(texts: Iterable[str], folder: Path, vocabulary: int, longest_piece: int) -> None:
    """Write `tokenizer.model` and its transformers files into `folder`.

    No normalization, no blank in front, digits apart, the newline a symbol of its own; pad, bos, eos and
    unk are four different ids. Short pieces keep a misspelled or inflected word close to its catalog line.
    """
    import sentencepiece
    from transformers import LlamaTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(texts), model_prefix=str(folder / "tokenizer"), model_type="bpe", vocab_size=vocabulary,
        max_sentencepiece_length=longest_piece, character_coverage=0.9999, byte_fallback=True, split_digits=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=False,
        user_defined_symbols=["\n"], unk_id=0, bos_id=1, eos_id=2, pad_id=3, num_threads=1, minloglevel=2,
    )  # fmt: skip
    (folder / "tokenizer.vocab").unlink()
    tokenizer = LlamaTokenizer.from_pretrained(
        folder, legacy=False, add_bos_token=False, add_prefix_space=False
    )
    tokenizer.pad_token = "<pad>"
    tokenizer.save_pretrained(folder)
