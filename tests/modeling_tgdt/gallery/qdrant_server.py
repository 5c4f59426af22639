# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""A Qdrant server on loopback for tests of the server path: the REST routes that a gallery uses.

Requests are parsed by the client's own models of the REST interface, which refuse unknown fields, answered by the
client's in-memory emulation, and can be made to fail as a busy or restarting server does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import SHUT_RDWR
from threading import Lock, Thread
from typing import Any

from pydantic import TypeAdapter, ValidationError
from qdrant_client import QdrantClient, models

KEY = "secret"
DONE = {"operation_id": 0, "status": "completed"}


class Server:
    """State of the server; `failures` are taken one per write: a status, or "lost" for an answer that never comes."""

    def __init__(self) -> None:
        self.client = QdrantClient(":memory:")
        self.failures: list[int | str] = []
        self.requests: list[tuple[str, str]] = []
        self.collection: models.CreateCollection | None = None
        self.fields: dict[str, str] = {}
        self.lock = Lock()

    def create(self, name: str, body: Any) -> bool:
        self.collection = models.CreateCollection(**body)
        return self.client.create_collection(name, vectors_config=self.collection.vectors)

    def index(self, name: str, body: Any) -> Any:
        request = models.CreateFieldIndex(**body)
        self.fields[request.field_name] = request.field_schema.value
        return DONE

    def upsert(self, name: str, body: Any) -> Any:
        self.client.upsert(name, models.PointsList(**body).points)
        return DONE

    def delete(self, name: str, body: Any) -> Any:
        self.client.delete(name, models.PointIdsList(**body))
        return DONE

    def retrieve(self, name: str, body: Any) -> Any:
        asked = models.PointRequest(**body)
        return self.client.retrieve(name, asked.ids, asked.with_payload, asked.with_vector)

    def scroll(self, name: str, body: Any) -> Any:
        asked = models.ScrollRequest(**body)
        points, following = self.client.scroll(
            name, asked.filter, asked.limit, None, asked.offset, asked.with_payload, asked.with_vector
        )
        return {"points": points, "next_page_offset": following}

    def count(self, name: str, body: Any) -> Any:
        return {"count": self.client.count(name, exact=models.CountRequest(**body).exact).count}

    def query(self, name: str, body: Any) -> Any:
        return self.client.query_batch_points(name, models.QueryRequestBatch(**body).searches)

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        """Return status and result of one request."""
        parts = path.partition("?")[0].strip("/").split("/")
        if parts == [""]:
            return 200, None
        name, action = parts[1], "/".join([method, *parts[2:]])
        if action == "GET/exists":
            return 200, {"exists": self.client.collection_exists(name)}
        if action == "GET":
            return 200, self.client.get_collection(name)
        routes: dict[str, Callable[[str, Any], Any]] = {
            "PUT": self.create,
            "PUT/index": self.index,
            "PUT/points": self.upsert,
            "POST/points/delete": self.delete,
            "POST/points": self.retrieve,
            "POST/points/scroll": self.scroll,
            "POST/points/count": self.count,
            "POST/points/query/batch": self.query,
        }
        try:
            return 200, routes[action](name, body)
        except (ValidationError, KeyError) as error:
            return 400, repr(error)


@contextmanager
def qdrant_server() -> Iterator[tuple[str, Server]]:
    """Run a server on a free port and give its address and state."""
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_request(self) -> None:
            raw = self.rfile.read(int(self.headers.get("content-length", 0)))
            if self.headers.get("api-key") != KEY:
                return self.reply(401, "no valid api key")
            with state.lock:
                state.requests.append((self.command, self.path))
                writes = self.command == "PUT" and "/points" in self.path
                failure = state.failures.pop(0) if writes and state.failures else None
                if isinstance(failure, int):
                    return self.reply(failure, "busy")
                status, result = state.answer(self.command, self.path, json.loads(raw or b"null"))
            if failure is not None:
                self.connection.shutdown(SHUT_RDWR)  # the work is done, the answer gets lost
                self.close_connection = True
                return None
            return self.reply(status, result)

        do_GET = do_PUT = do_POST = do_DELETE = handle_request

        def reply(self, status: int, result: Any) -> None:
            body: dict[str, Any] = {"title": "qdrant", "version": "1.20.0"} if result is None else {"time": 0.0}
            body |= {"result": result, "status": "ok"} if status == 200 else {"status": {"error": result}}
            data = TypeAdapter(Any).dump_json(body)
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", state
    finally:
        server.shutdown()
        server.server_close()
