"""Test rows answered by a server with the OpenAI API: their requests, and latency and cost for the metrics."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from cartlm.engines.config import Remote
from cartlm.engines.openai import Reply
from cartlm.engines.replies import Request, usage_section
from cartlm.task.rows import Row


def row_request(row: Row, remote: Remote, separator: str) -> Request:
    """The request for a row: chat with the instruction as system prompt, or the bare completion.

    A completion's prompt ends with `separator`, as in fine-tuning; the server adds BOS. The server's URL is part of the
    key, so that answers of one server are never taken for another's.
    """
    body: dict[str, Any] = {"model": remote.model, **remote.sampling_fields(remote.max_new_tokens)}
    if body.get("temperature") == 0:
        body["temperature"] = 0  # not 0.0: answers of older runs keep their key
    if remote.api == "chat":
        system = [{"role": "system", "content": remote.instruction}] if remote.instruction else []
        body["messages"] = [*system, {"role": "user", "content": row.prompt}]
    else:
        body["prompt"] = row.prompt + separator
    key = hashlib.sha256(json.dumps([remote.base_url, body], sort_keys=True).encode()).hexdigest()[:16]
    return Request(row.id, body, key)


def remote_section(replies: Sequence[Reply], remote: Remote) -> dict[str, int | float | str]:
    """The `remote` section of a metrics file; what the server does not report is absent.

    `latency_ms_*`: of one request, waits before a retry excluded, with up to `concurrency` in flight. Tokens are sums
    over the requests.
    """
    latency = np.percentile([1000 * reply.latency_s for reply in replies], (50, 95, 99))
    section: dict[str, int | float | str] = {
        "requests": len(replies),
        "retries": sum(reply.retries for reply in replies),
        "concurrency": max(reply.concurrency for reply in replies),
        **{f"latency_ms_p{rank}": float(ms) for rank, ms in zip((50, 95, 99), latency, strict=True)},
        "asked_from": min(reply.asked for reply in replies),
        "asked_to": max(reply.asked for reply in replies),
    }
    usage = usage_section(replies, remote)
    if isinstance(cost := usage.get("cost_usd"), float):
        section["cost_usd_per_1000_queries"] = 1000 * cost / len(replies)
    return section | usage


def engine_section(replies: Sequence[Reply], remote: Remote) -> dict[str, str]:
    """The `engine` section: the model asked for, and the models, servers and clients that the replies name."""
    client, model, server = (
        ", ".join(sorted({getattr(reply, field) for reply in replies})) for field in ("client", "model", "server")
    )  # fmt: skip
    return {
        "name": "openai",
        "version": client,
        "api": remote.api,
        "model": remote.model,
        "served_model": model,
        "server": server,
    }
