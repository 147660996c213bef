"""Tolerances of `cartlm compare`."""

from __future__ import annotations

from cartlm.config import Section, Share


class Compare(Section):
    """What `cartlm compare` takes for a change, by kind of metric: anything smaller is none."""

    accuracy: Share  # of all rows; a paired test comes on top
    speed: Share  # these and the following: of the old value; what the rounds explain is no change either
    latency: Share
    load: Share
    memory: Share
    energy: Share
    size: Share
    loss: Share  # of the fine-tuning's evaluation, and of GPTQ's layers
