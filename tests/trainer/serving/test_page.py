# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""The page is for this machine: other names of it, as DNS rebinding gives it, are refused."""

from typing import Any

import pytest

from trainer.serving.page import launch

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
