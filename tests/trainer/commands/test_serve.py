# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""`tgdt serve` answers under the names of this machine, and those that its user adds."""

from typing import Any

import pytest

from tests.tiny_retrieval import random_picture, tiny_retriever
from trainer.cli import main

pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")
pytest.importorskip("httpx")


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> str:
    path, retriever = tmp_path_factory.mktemp("serve") / "g", tiny_retriever()
    retriever.create_index(path / "index")
    retriever.add_images([random_picture(0)], progress=False)
    retriever.save_pretrained(path)
    return str(path)


@pytest.mark.parametrize(
    ("options", "answers"),
    [
        ([], {"localhost": 200, "127.0.0.1:8000": 200, "cats.example.com": 400, "evil.example.com": 400}),
        (["--allowed-host", "cats.example.com"], {"localhost": 200, "cats.example.com": 200, "evil.example.com": 400}),
        (["--host", "0.0.0.0"], {"cats.example.com": 200}),
        (
            ["--host", "0.0.0.0", "--allowed-host", "cats.example.com"],
            {"cats.example.com": 200, "evil.example.com": 400},
        ),
    ],
    ids=["loopback", "loopback and a name", "open", "open under a name"],
)
def test_names_that_are_answered(
    gallery: str, options: list[str], answers: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    import uvicorn
    from starlette.testclient import TestClient

    found: dict[str, int] = {}

    def run(server: uvicorn.Server) -> None:
        client: Any = TestClient(server.config.app)  # type: ignore[arg-type]
        found.update({host: client.get("/openapi.json", headers={"host": host}).status_code for host in answers})

    monkeypatch.setattr(uvicorn.Server, "run", run)
    assert main(["--quiet", "serve", gallery, *options]) == 0
    assert found == answers
