# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""The loopback Hub with tokens, data sets, old revisions, card validation, and a log of what every commit sent."""

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import yaml

from tests.loopback_hub import Handler, Hub

TOKEN = "hf_dummy"


class RecordingHub(Hub):
    """The server; `log` holds (repository, paths added, paths deleted) of every commit."""

    def __init__(self) -> None:
        super().__init__()
        self.RequestHandlerClass = RecordingHandler
        self.log: list[tuple[str, list[str], list[str]]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "HF_ENDPOINT": self.address,
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": TOKEN,
            "HF_HUB_OFFLINE": "0",
            "OMP_NUM_THREADS": "1",
        }

    def text(self, repository: str, path: str) -> str:
        found = self.repositories[repository]
        return self.blobs[found.commits[found.head][path]].decode()


class RecordingHandler(Handler):
    """Data sets live under `dataset.<user>/<name>`."""

    server: RecordingHub

    def parse_request(self) -> bool:
        parsed = super().parse_request()
        if parsed:
            self.path = re.sub(r"^/api/datasets/(?=[^/]+/[^/]+)", "/api/models/dataset.", self.path)
            self.path = re.sub(r"^/datasets/", "/dataset.", self.path)
        return parsed

    def allowed(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def do_GET(self) -> None:
        if urlsplit(self.path).path == "/api/whoami-v2" and not self.allowed():
            return self.reply(401, {"error": "Invalid user token."}, X_Error_Message="Invalid user token.")
        return super().do_GET()

    def do_POST(self) -> None:
        path = urlsplit(self.path).path
        if path == "/api/validate-yaml":
            return self.validate(json.loads(self.body()))
        if "/commit/" in path and not self.allowed():
            self.body()
            return self.reply(401, {"error": "Invalid user token."})
        return super().do_POST()

    def body(self) -> bytes:
        data = super().body()
        if urlsplit(self.path).path == "/api/repos/create":
            asked = json.loads(data)
            if asked.get("type") == "dataset":
                asked["organization"] = f"dataset.{asked.get('organization') or 'tester'}"
            data = json.dumps(asked).encode()
        return data

    def validate(self, asked: dict[str, Any]) -> None:
        block = re.match(r"---\n(.*?)\n---\n", asked["content"], flags=re.S)
        front = yaml.safe_load(block[1]) if block else None
        if not isinstance(front, dict) or front.get("license") == "other" and not front.get("license_name"):
            return self.reply(400, b"the front matter is wrong")
        return self.reply(200, {"warnings": [], "errors": []})

    def describe(self, name: str, rest: str) -> None:
        kind, _, revision = rest.partition("/")
        if kind not in ("revision", "tree") or name not in self.server.repositories:
            return super().describe(name, rest)
        repository = self.server.repositories[name]
        commit = repository.head if revision == "main" else revision
        files = repository.commits.get(commit)
        if files is None:
            return self.missing("RevisionNotFound")
        if kind == "revision":
            siblings = [{"rfilename": path} for path in files]
            return self.reply(200, {"_id": "1", "id": name, "sha": commit, "tags": [], "siblings": siblings})
        sizes = {path: len(self.server.blobs[blob]) for path, blob in files.items()}
        return self.reply(200, [{"type": "file", "path": p, "oid": files[p], "size": sizes[p]} for p in files])

    def reply(self, status: int, body: Any = b"", **headers: Any) -> None:
        if "/preupload/" in self.path and isinstance(body, dict):
            name = "/".join(urlsplit(self.path).path.split("/")[3:5])
            for file in body["files"]:
                file["oid"] = self.oid(name, file["path"], file["uploadMode"])
        if isinstance(body, dict) and "/dataset." in str(body.get("url")):
            body["url"] = body["url"].replace("/dataset.", "/datasets/")
        super().reply(status, body, **headers)

    def oid(self, name: str, path: str, mode: str) -> str | None:
        repository = self.server.repositories[name]
        blob = repository.commits[repository.head].get(path)
        if blob is None or mode == "lfs":
            return blob
        data = self.server.blobs[blob]
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    def apply(self, name: str, lines: list[str]) -> str:
        operations = [json.loads(line) for line in lines]
        header = next(operation["value"] for operation in operations if operation["key"] == "header")
        if header["summary"] == "break off":
            self.connection.close()
            raise ConnectionAbortedError
        added = [item["value"]["path"] for item in operations if item["key"] in ("file", "lfsFile")]
        deleted = [item["value"]["path"] for item in operations if item["key"] == "deletedFile"]
        self.server.log.append((name, added, deleted))
        return super().apply(name, lines)


class QuietHub(RecordingHub):
    """Says nothing about the connections that tests break off."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep the tests' output clean."""


@contextlib.contextmanager
def recording_hub() -> Iterator[RecordingHub]:
    """Run the server in a thread of this process."""
    with QuietHub() as hub:
        thread = threading.Thread(target=hub.serve_forever, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
