# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Connections whose request does not arrive: they wait a bounded time, in a bounded number, and hold up nobody.

A client that sends nothing, a byte now and then, or half a body costs a connection, never somebody else's answer: when
there is no room, the connection that has kept us waiting longest is closed.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol

from trainer.serving.service import ServeLimits

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_PER_SEARCH = 8  # connections for each search that may be in flight


def server_config(app: Any, limits: ServeLimits, **options: Any) -> Config:
    """Return the configuration of uvicorn for the service.

    Args:
        app: ASGI application.
        limits: Of the service; for each search in flight there are eight connections, as far as open files allow.
        **options: Of uvicorn, such as `host` and `port`.
    """
    connections = max(2, min(_PER_SEARCH * limits.max_in_flight, _open_files() // 3))
    return Config(
        app,
        http=arriving_protocol(connections, limits.header_timeout),
        limit_concurrency=connections + 1,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=max(1, round(limits.timeout)),
        access_log=False,
        **options,
    )


def arriving_protocol(most: int, header_timeout: float) -> type[H11Protocol]:
    """Make uvicorn's h11 protocol, which refuses headers above 64 KiB, one that does not wait for ever.

    Args:
        most: Connections; one more closes the one that has kept us waiting longest for its request.
        header_timeout: Seconds until a request's header must be complete.
    """
    arriving: dict[H11Protocol, None] = {}  # without a whole request, oldest first

    class ArrivingProtocol(H11Protocol):
        header_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.await_request()
            if len(self.connections) > most:
                longest = next(iter(arriving))
                del arriving[longest]
                longest.transport.close()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.look()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if not self.transport.is_closing():
                self.await_request()
                self.look()  # the next request may be here already

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            arriving.pop(self, None)
            self.stop_timer()

        def await_request(self) -> None:
            arriving.pop(self, None)
            arriving[self] = None
            self.stop_timer()
            self.header_timer = self.loop.call_later(header_timeout, self.transport.close)

        def look(self) -> None:
            if self.cycle is None or self.cycle.response_complete:
                return  # still the header
            self.stop_timer()
            if not self.cycle.more_body:
                arriving.pop(self, None)

        def stop_timer(self) -> None:
            if self.header_timer is not None:
                self.header_timer.cancel()
                self.header_timer = None

    return ArrivingProtocol


def _open_files() -> int:
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if resource else 512
    return 1 << 20 if soft < 0 else int(soft)
