"""The order of training rows: seeded by run and epoch alone, so that a resumed epoch sees the same batches."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

POOL = 16  # batches whose rows are sorted by length together


def epoch_order(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[int]:
    """All row numbers in an order whose runs of `batch_size` hold rows of similar length.

    Rows are shuffled, sorted by length within pools of 16 batches, and the batches shuffled; an incomplete batch
    is last. Random batches of catalogs of 5 to 20 lines would be one third padding.
    """
    generator = random.Random(f"{seed} {epoch}")
    rows = list(range(len(lengths)))
    generator.shuffle(rows)
    full = len(rows) - len(rows) % batch_size
    batches = []
    for start in range(0, full, POOL * batch_size):
        pool = sorted(rows[start : min(start + POOL * batch_size, full)], key=lambda row: lengths[row])
        batches += [pool[at : at + batch_size] for at in range(0, len(pool), batch_size)]
    generator.shuffle(batches)
    return [row for batch in batches for row in batch] + rows[full:]


class LengthGroupedSampler:
    """A sampler over `epoch_order`; transformers calls `set_epoch` before each epoch, a resumed one too."""

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        return iter(epoch_order(self.lengths, self.batch_size, self.seed, self.epoch))

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
