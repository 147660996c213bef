"""What Prometheus reads from /metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cartlm.serving.http.lane import Lane, Timed

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999)


class Telemetry:
    """Counters of one service, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "cartlm_requests", "Requests answered", ["method", "route", "status"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "cartlm_request_seconds", "From the head of a request to the end of its response", ["route"],
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self.phase_seconds = Histogram(
            "cartlm_message_seconds", "Of a message: the wait in the queue, and reading it", ["variant", "phase"],
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self.messages = Counter(
            "cartlm_messages", "Messages by what came of them", ["variant", "outcome"], registry=self.registry
        )
        self.tokens = Counter(
            "cartlm_tokens", "Tokens of prompts (and those of them from the prefix cache) and of answers",
            ["variant", "kind"], registry=self.registry,
        )  # fmt: skip
        self.confidence = Histogram(
            "cartlm_confidence", "Confidence of answers", ["variant"], buckets=SHARES, registry=self.registry
        )

    def observe(self, variant: str, timed: Timed) -> None:
        """Count a message. Thread-safe, as all of this is."""
        self.messages.labels(variant, timed.outcome).inc()
        self.phase_seconds.labels(variant, "queue").observe(timed.queue_s)
        if timed.outcome != "late":
            self.phase_seconds.labels(variant, "read").observe(timed.read_s)
        if timed.found is None:
            return
        work = timed.found.work
        kinds = {
            "prompt": work.prompt_tokens, "prompt_cached": work.cached_tokens,
            "answer_decided": work.decided_tokens, "answer_forced": work.forced_tokens,
        }  # fmt: skip
        for kind, count in kinds.items():
            self.tokens.labels(variant, kind).inc(count)
        if timed.found.confidence is not None:
            self.confidence.labels(variant).observe(timed.found.confidence)

    def watch(self, lanes: Callable[[], Iterable[Lane]]) -> None:
        """Read queues and prefix caches of the variants of the moment whenever Prometheus asks."""
        self.registry.register(_Lanes(lanes))


class _Lanes(Collector):
    def __init__(self, lanes: Callable[[], Iterable[Lane]]) -> None:
        self._lanes = lanes

    def collect(self) -> Iterator[Metric]:
        length = GaugeMetricFamily(
            "cartlm_queue_length", "Messages that wait for a worker", labels=["variant"]
        )
        bound = GaugeMetricFamily("cartlm_queue_limit", "The most that may wait", labels=["variant"])
        prefixes = CounterMetricFamily(
            "cartlm_prefix_cache", "Catalogs looked up in the prefix cache", labels=["variant", "result"]
        )
        for lane in self._lanes():
            length.add_metric([lane.name], lane.waiting)
            bound.add_metric([lane.name], lane.limits.queue)
            if (cache := lane.reader.prefixes) is not None:
                prefixes.add_metric([lane.name, "hit"], cache.hits)
                prefixes.add_metric([lane.name, "miss"], cache.misses)
        yield from (length, bound, prefixes)
