# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Open a page of Gradio so that this machine alone reaches it."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from trainer.serving.decoding import DECODE_SECONDS, Decoders

_DECODERS = 2


def open_page(retriever: Any, pictures: Any, examples: list[str], **options: Any) -> None:
    """Open the page over a gallery until it is stopped; what its visitors upload is decoded in processes of its own.

    Args:
        retriever: See `hub_cards.space.app.build`.
        pictures: See there.
        examples: Queries to offer.
        **options: See `launch`.

    Raises:
        ImportError: Without gradio.
    """
    try:
        from hub_cards.space.app import build
    except ImportError as error:
        raise ImportError("The page needs gradio: pip install 'tgdt[demo]'.") from error
    with closing(Decoders(_DECODERS, DECODE_SECONDS)) as decoders:
        launch(build(retriever, pictures, examples=examples, decode=decoders), **options)


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


__all__ = ["launch", "open_page"]
