# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Open a page of Gradio so that this machine alone reaches it."""

from __future__ import annotations

from typing import Any


def launch(page: Any, **options: Any) -> None:
    """Open a page on this machine only, under its names only: a page of the web could read along otherwise.

    Args:
        page: `gradio.Blocks`.
        **options: Of its `launch`, such as `server_port`.
    """
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from hub_cards.space.app import MAX_BYTES

    trusted = Middleware(TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1"], www_redirect=False)
    page.launch(server_name="127.0.0.1", max_file_size=MAX_BYTES, app_kwargs={"middleware": [trusted]}, **options)


__all__ = ["launch"]
