# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""What stands before the service: a bound on searches in flight, on body size and on the time a body may take."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """Counts for `/metrics`, in the text format of Prometheus."""

    def __init__(self) -> None:
        self.responses: Counter[tuple[str, int]] = Counter()
        self.in_flight = 0
        self.batches = 0
        self.batched = 0
        self._buckets: Counter[float] = Counter()
        self._seconds = 0.0

    def observe(self, path: str, status: int, seconds: float) -> None:
        """Count one response."""
        self.responses[path, status] += 1
        if path == "/search":
            self._seconds += seconds
            self._buckets.update(bound for bound in (*_BUCKETS, float("inf")) if seconds <= bound)

    def observe_batch(self, size: int) -> None:
        """Count one batch of queries."""
        self.batches, self.batched = self.batches + 1, self.batched + size

    def render(self, items: int | None) -> str:
        """Return all metrics.

        Args:
            items: Items in the gallery; None, when its store does not answer, leaves the gauge out.
        """
        lines = ["# TYPE tgdt_responses_total counter"]
        lines += [
            f'tgdt_responses_total{{path="{path}",status="{status}"}} {count}'
            for (path, status), count in sorted(self.responses.items())
        ]
        lines.append("# TYPE tgdt_search_seconds histogram")
        for bound in (*_BUCKETS, float("inf")):
            name = "+Inf" if bound == float("inf") else f"{bound:g}"
            lines.append(f'tgdt_search_seconds_bucket{{le="{name}"}} {self._buckets[bound]}')
        total = self._buckets[float("inf")]
        lines += [f"tgdt_search_seconds_sum {self._seconds:.6f}", f"tgdt_search_seconds_count {total}"]
        plain = {"batches_total": self.batches, "batched_queries_total": self.batched}
        gauges = {"in_flight": self.in_flight} | ({} if items is None else {"gallery_items": items})
        for kind, values in (("counter", plain), ("gauge", gauges)):
            for name, value in values.items():
                lines += [f"# TYPE tgdt_{name} {kind}", f"tgdt_{name} {value}"]
        return "\n".join(lines) + "\n"


class Guard:
    """ASGI middleware. Refuses with 429 (too many in flight, or of one client), 413 or 408 (body too large, slow).

    A refusal comes before the body is read where that is possible, so it costs no memory. A search is in flight from
    the moment when its body is there: uploads that do not arrive take nobody's place.

    Args:
        app: The service.
        metrics: Where responses are counted.
        max_in_flight: Requests to `/search` that may wait or run.
        max_per_client: As many of one client, told by its address.
        max_body: Bytes of a request's body.
        body_timeout: Seconds until a body must be complete.
    """

    def __init__(
        self, app: Any, metrics: Metrics, max_in_flight: int, max_per_client: int, max_body: int, body_timeout: float
    ) -> None:
        self.app, self.metrics = app, metrics
        self.max_in_flight, self.max_per_client = max_in_flight, max_per_client
        self.max_body, self.body_timeout = max_body, body_timeout
        self._own: Counter[str] = Counter()  # searches in flight by client

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in ("/search", "/healthz", "/metrics") else "other"
        start, entered, client = time.monotonic(), False, client_of(scope)

        def enter() -> tuple[int, str] | None:
            nonlocal entered
            if path != "/search" or entered:
                return None
            refusal = self._full(client)
            if refusal is None:
                entered = True
                self._count(client, 1)
            return refusal

        exchange = _Exchange(receive, send, self.max_body, start + self.body_timeout, enter)
        if _declared_length(scope) > self.max_body:
            exchange.refusal = exchange.too_large()
        elif not _has_body(scope) or self._full(client):
            exchange.refusal = enter()
        try:
            if exchange.refusal is None:
                await self.app(scope, exchange.receive, exchange.send)
            else:
                await exchange.refuse()
        finally:
            if entered:
                self._count(client, -1)
            self.metrics.observe(path, exchange.status, time.monotonic() - start)

    def _full(self, client: str) -> tuple[int, str] | None:
        """Return why a client's next search is refused, or None."""
        if self.metrics.in_flight >= self.max_in_flight:
            return 429, f"more than {self.max_in_flight} requests are waiting; try again in a second"
        if self._own[client] >= self.max_per_client:
            return 429, f"more than {self.max_per_client} of your requests are waiting; try again in a second"
        return None

    def _count(self, client: str, change: int) -> None:
        self.metrics.in_flight += change
        self._own[client] += change
        if not self._own[client]:
            del self._own[client]


class _Exchange:
    """One request and response. Once refused, the refusal takes the place of whatever the service answers."""

    def __init__(
        self, receive: Receive, send: Send, max_body: int, deadline: float, enter: Callable[[], tuple[int, str] | None]
    ) -> None:
        self._receive, self._send, self._enter = receive, send, enter
        self.max_body, self.deadline = max_body, deadline
        self.refusal: tuple[int, str] | None = None
        self.status = 500
        self._size = 0
        self._complete = self._refused = False

    def too_large(self) -> tuple[int, str]:
        return 413, f"the request has more than the {self.max_body} bytes that are allowed"

    async def receive(self) -> Message:
        if self._complete:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, self.deadline - time.monotonic()))
        except TimeoutError:
            self.refusal = (408, "the request took too long to arrive")
            return {"type": "http.disconnect"}
        self._size += len(message.get("body", b""))
        self._complete = not message.get("more_body", False)
        if self._size > self.max_body:
            self.refusal = self.too_large()
        elif self._complete:
            self.refusal = self._enter()
        return message if self.refusal is None else {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self.refusal is not None and not self._refused and message["type"] == "http.response.start":
            await self.refuse()
        if self._refused:
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)

    async def refuse(self) -> None:
        self._refused = True
        self.status, why = self.refusal or (500, "")
        body = json.dumps({"detail": why}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        headers.append((b"retry-after", b"1") if self.status == 429 else (b"connection", b"close"))
        await self._send({"type": "http.response.start", "status": self.status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})


def client_of(scope: Message) -> str:
    """Return the address of who asks; a proxy on this machine names it in X-Forwarded-For."""
    return str((scope.get("client") or ("",))[0])


def _has_body(scope: Message) -> bool:
    return _declared_length(scope) > 0 or any(name == b"transfer-encoding" for name, _ in scope["headers"])


def _declared_length(scope: Message) -> int:
    values = [value for name, value in scope["headers"] if name == b"content-length"]
    return int(values[0]) if values and values[0].isdigit() else 0
