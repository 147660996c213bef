"""Tolerances of `cartlm compare`."""

from __future__ import annotations

from cartlm.config import Section, Share


class Compare(Section):
    """The largest difference that `cartlm compare` ignores, by kind of metric."""

    accuracy: Share  # of all rows; beyond it, a paired test decides
    speed: Share  # this and the following: relative to the old value; beyond it, a test over rounds or the intervals decide
    latency: Share
    load: Share
    memory: Share
    energy: Share
    size: Share
    ratio: Share  # of a way of decoding to llama-server
    loss: Share  # of the fine-tuning's evaluation, and of GPTQ's layers
