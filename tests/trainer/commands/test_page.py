# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""The page is for this machine: other names of it, as DNS rebinding gives it, are refused."""

import pytest

from trainer.commands.page import launch

gradio = pytest.importorskip("gradio", reason="the page needs gradio (extra `demo`)")
httpx = pytest.importorskip("httpx")


def test_the_page_answers_to_this_machines_names_only() -> None:
    with gradio.Blocks() as page:
        gradio.Markdown("pictures")
    launch(page, prevent_thread_lock=True, quiet=True)
    try:
        for host, status in (("evil.example.com", 400), ("localhost", 200), ("127.0.0.1:7860", 200)):
            assert httpx.get(page.local_url, headers={"host": host}).status_code == status
        assert page.local_url.startswith("http://127.0.0.1:")
        assert page.max_file_size is not None
    finally:
        page.close()
