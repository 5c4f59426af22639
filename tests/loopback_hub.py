"""A Hub on 127.0.0.1, in memory: enough of its HTTP API to create a repository, push to it and load from it.

    with loopback_hub() as environment:
        subprocess.run([...], env=os.environ | environment)

Run as a script it serves until it is stopped and prints its address.
"""

import base64
import contextlib
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

API = re.compile(r"^/api/models/(?P<repo>[^/]+/[^/]+)(?:/(?P<rest>.*))?$")
RESOLVE = re.compile(r"^/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)$")
LFS_BATCH = re.compile(r"^/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch$")


@dataclass
class Repository:
    """Commits as snapshots: path -> blob id, and the newest one."""

    head: str
    commits: dict[str, dict[str, str]] = field(default_factory=dict)


class Hub(ThreadingHTTPServer):
    """The server with all that it holds."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}

    def commit(self, name: str, files: dict[str, str]) -> str:
        commit = hashlib.sha1(json.dumps([name, len(self.blobs), files]).encode()).hexdigest()
        repository = self.repositories.setdefault(name, Repository(commit))
        repository.head, repository.commits[commit] = commit, files
        return commit

    def store(self, data: bytes) -> str:
        blob = hashlib.sha256(data).hexdigest()
        self.blobs[blob] = data
        return blob


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the tests' output clean."""

    def reply(self, status: int, body: bytes | dict[str, Any] | list[Any] = b"", **headers: str | int) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        defaults = {"Content-Type": "application/json", "Content-Length": len(data)}
        for name, value in (defaults | {key.replace("_", "-"): value for key, value in headers.items()}).items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def missing(self, code: str) -> None:
        self.reply(404, {"error": code}, X_Error_Code=code, X_Error_Message=code)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == "/api/whoami-v2":
            token = {"accessToken": {"role": "write"}}
            self.reply(200, {"type": "user", "name": "tester", "fullname": "tester", "orgs": [], "auth": token})
        elif path.startswith("/lfs/"):
            self.reply(200, self.server.blobs[path.removeprefix("/lfs/")], Content_Type="application/octet-stream")
        elif match := RESOLVE.match(path):
            self.send_file(match["repo"], unquote(match["revision"]), unquote(match["path"]))
        elif match := API.match(path):
            self.describe(match["repo"], match["rest"] or "")
        else:
            self.missing("NotFound")

    def send_file(self, name: str, revision: str, path: str) -> None:
        repository = self.server.repositories.get(name)
        if repository is None:
            return self.missing("RepoNotFound")
        commit = repository.head if revision == "main" else revision
        files = repository.commits.get(commit)
        if files is None:
            return self.missing("RevisionNotFound")
        if path not in files:
            return self.reply(404, {"error": path}, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        data, etag = self.server.blobs[files[path]], f'"{files[path]}"'
        if not path.endswith(".safetensors"):
            return self.reply(200, data, X_Repo_Commit=commit, ETag=etag, Content_Type="text/plain")
        # Large files are redirected to another host, so that the token is not sent along.
        location = f"http://localhost:{self.server.server_port}/lfs/{files[path]}"
        headers = {"X_Linked_Size": len(data), "X_Linked_Etag": etag, "Location": location}
        return self.reply(302, X_Repo_Commit=commit, ETag=etag, **headers)

    def describe(self, name: str, rest: str) -> None:
        repository = self.server.repositories.get(name)
        if repository is None:
            return self.missing("RepoNotFound")
        files = repository.commits[repository.head]
        if rest.startswith("tree/"):
            sizes = {path: len(self.server.blobs[blob]) for path, blob in files.items()}
            return self.reply(200, [{"type": "file", "path": p, "oid": files[p], "size": sizes[p]} for p in files])
        siblings = [{"rfilename": path} for path in files]
        return self.reply(200, {"_id": "1", "id": name, "sha": repository.head, "tags": [], "siblings": siblings})

    def do_PUT(self) -> None:
        self.server.store(self.body())
        self.reply(200)

    def do_POST(self) -> None:
        data, path = self.body(), urlsplit(self.path).path
        if path == "/api/repos/create":
            asked = json.loads(data)
            name = f"{asked.get('organization') or 'tester'}/{asked['name']}"
            status = 409 if name in self.server.repositories else 200
            if status == 200:
                self.server.commit(name, {})
            return self.reply(status, {"url": f"http://127.0.0.1:{self.server.server_port}/{name}", "name": name})
        if path == "/api/validate-yaml":
            return self.reply(200, {"warnings": [], "errors": []})
        if LFS_BATCH.match(path):
            return self.reply(200, self.lfs_batch(json.loads(data)), Content_Type="application/vnd.git-lfs+json")
        match = API.match(path)
        if match and match["rest"].startswith("preupload/"):
            names = [file["path"] for file in json.loads(data)["files"]]
            modes = {name: "lfs" if name.endswith(".safetensors") else "regular" for name in names}
            files = [{"path": name, "uploadMode": mode, "shouldIgnore": False} for name, mode in modes.items()]
            return self.reply(200, {"files": files})
        if match and match["rest"].startswith("commit/"):
            commit = self.apply(match["repo"], data.decode().splitlines())
            url = f"http://127.0.0.1:{self.server.server_port}/{match['repo']}/commit/{commit}"
            return self.reply(200, {"commitUrl": url, "commitOid": commit, "success": True})
        return self.missing("NotFound")

    def lfs_batch(self, asked: dict[str, Any]) -> dict[str, Any]:
        objects = []
        for item in asked["objects"]:
            url = f"http://127.0.0.1:{self.server.server_port}/lfs/{item['oid']}"
            known = item["oid"] in self.server.blobs
            objects.append(item if known else item | {"actions": {"upload": {"href": url, "header": {}}}})
        return {"transfer": "basic", "objects": objects}

    def apply(self, name: str, lines: list[str]) -> str:
        repository = self.server.repositories[name]
        files = dict(repository.commits[repository.head])
        for line in lines:
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = self.server.store(base64.b64decode(value["content"]))
            elif operation["key"] == "lfsFile":
                files[value["path"]] = value["oid"]
            elif operation["key"] == "deletedFile":
                files.pop(value["path"], None)
        return self.server.commit(name, files)


@contextlib.contextmanager
def loopback_hub() -> Iterator[dict[str, str]]:
    """Run the server in a process of its own; give the environment that leads Hugging Face libraries to it."""
    command = [sys.executable, __file__]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            endpoint = process.stdout.readline().strip()
            yield {"HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_dummy", "HF_HUB_OFFLINE": "0"}
        finally:
            process.terminate()


def main() -> None:
    with Hub() as hub:
        sys.stdout.write(f"http://127.0.0.1:{hub.server_port}\n")
        sys.stdout.flush()
        hub.serve_forever()


if __name__ == "__main__":
    main()
