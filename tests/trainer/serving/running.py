# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""The service on a free port, and requests to it, well-formed or not."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn


@contextmanager
def serving(retriever: Any, allowed_hosts: Any = None, **limits: Any) -> Iterator[str]:
    """Run the service on a free port and give its address."""
    from trainer.serving.connections import server_config
    from trainer.serving.service import ServeLimits, create_app

    made = ServeLimits(**limits)
    config = server_config(create_app(retriever, made, allowed_hosts), made, port=0, log_level="warning")
    config.timeout_graceful_shutdown = 5
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(30)
    assert not thread.is_alive()


def upload(address: str, data: bytes, name: str = "x.png", **params: Any) -> Any:
    """Search with a picture."""
    return httpx.post(f"{address}/search", files={"image": (name, data)}, params=params, timeout=30)


def connect(address: str, wait: float = 5.0) -> socket.socket:
    """Open a connection."""
    host, port = address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=wait)


def raw(address: str, request: bytes, wait: float = 5.0) -> bytes:
    """Send bytes and return what comes back."""
    with connect(address, wait) as connection:
        try:
            connection.sendall(request)
            return connection.recv(1 << 16)
        except ConnectionError:
            return b""
