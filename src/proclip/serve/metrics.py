"""What a monitor reads: requests, times, what waits, and how large batches are, as Prometheus text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
ITEMS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters of one server, in a registry of its own."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        own: Any = {"registry": self.registry}
        self.requests = Counter("proclip_requests", "Requests answered.", ["route", "method", "status"], **own)
        self.seconds = Histogram(
            "proclip_request_seconds", "From the first byte of a request to its answer.", ["route"], buckets=SECONDS,
            **own,
        )  # fmt: skip
        self.in_flight = Gauge("proclip_requests_in_flight", "Requests that are being answered.", **own)
        self.held = Gauge("proclip_body_bytes_held", "Bytes of bodies in memory.", **own)
        self.queue = Gauge("proclip_queue_inputs", "Inputs that wait or are computed.", ["kind"], **own)
        self.batch_items = Histogram("proclip_batch_inputs", "Inputs of a batch.", ["kind"], buckets=ITEMS, **own)
        self.batch_seconds = Histogram("proclip_batch_seconds", "Seconds of a batch.", ["kind"], buckets=SECONDS, **own)

    def watch_queue(self, kind: str, inside: Callable[[], int]) -> None:
        """Show how many inputs of a kind are inside, read when the monitor asks."""
        self.queue.labels(kind).set_function(inside)

    def batch(self, kind: str, count: int, seconds: float) -> None:
        """Note a batch."""
        self.batch_items.labels(kind).observe(count)
        self.batch_seconds.labels(kind).observe(seconds)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Note an answered request."""
        self.requests.labels(route, method, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """All of it, as a monitor reads it."""
        return generate_latest(self.registry)
