# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""The page is for this machine: other names of it, as DNS rebinding gives it, are refused."""

from typing import Any

import pytest
from PIL import Image

from tests.tiny_retrieval import encoded, random_picture
from trainer.serving import page as pages
from trainer.serving.page import launch, open_page

pytest.importorskip("gradio", reason="the page needs gradio (extra `demo`)")
pytest.importorskip("httpx")


class Page:
    """Notes what a page of Gradio is launched with; Gradio hands `app_kwargs` to its FastAPI application."""

    def launch(self, **options: Any) -> None:
        self.options = options


def test_the_page_answers_to_this_machines_names_only() -> None:
    from fastapi import FastAPI
    from starlette.testclient import TestClient

    page = Page()
    launch(page, server_port=7860)
    assert page.options["server_name"] == "127.0.0.1" and page.options["max_file_size"] > 0
    client = TestClient(FastAPI(**page.options["app_kwargs"]))
    for host, status in (("evil.example.com", 400), ("localhost", 404), ("127.0.0.1:7860", 404)):
        assert client.get("/", headers={"host": host}).status_code == status


def test_uploads_are_decoded_in_another_process_which_ends_with_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, Any] = {}

    def build(retriever: Any, pictures: Any, **options: Any) -> Page:
        made.update(options)
        return Page()

    def use(page: Any, **options: Any) -> None:
        picture = made["decode"](encoded(random_picture(1)))
        assert isinstance(picture, Image.Image) and picture.size == random_picture(1).size
        made["processes"] = [own._process for own in made["decode"]._decoders if own._process is not None]

    monkeypatch.setattr("hub_cards.space.app.build", build)
    monkeypatch.setattr(pages, "launch", use)
    open_page(None, None, ["words"], server_port=1)
    assert made["examples"] == ["words"]
    (process,) = made["processes"]
    assert process.poll() is not None
