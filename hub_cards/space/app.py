# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""The demo page (Gradio). `build(retriever, pictures)` makes it; as a Space this file runs as it is.

A Space names what it serves in its variables: `TGDT_MODEL`, a model on the Hub with its gallery, and `TGDT_PICTURES`,
a folder of the pictures (optional).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from hub_cards.space.collection import MAX_BYTES, Collection, Pictures, add_uploads, decode_here
from hub_cards.space.searching import Results, explain, score_table, search, start
from modeling_tgdt.retrieval_tgdt import TGDTRetriever

# As many columns as fit, from a phone to a desk.
_STYLE = (
    "<style>#results .grid-container {grid-template-columns: repeat(auto-fill, minmax(120px, 1fr)) !important}</style>"
)
_SHOW_RESULTS = "() => document.getElementById('message').scrollIntoView({behavior: 'smooth'})"
GALLERY, MINE = "the gallery", "my pictures"


def build(
    retriever: TGDTRetriever,
    pictures: Pictures | str = None,
    *,
    examples: list[str] | None = None,
    decode: Callable[[bytes], Image.Image] = decode_here,
) -> gr.Blocks:
    """Make the page; `.launch()` serves it.

    Args:
        retriever: Model, processor, and a gallery when there is one.
        pictures: Folder that was indexed, or pictures by id, to show the results.
        examples: Queries to offer.
        decode: See `Collection`.
    """
    shared = Collection(retriever, Path(pictures) if isinstance(pictures, str) else pictures, decode)
    settings = {} if retriever.index is None else retriever.index.settings
    first, second = settings.get("global_weight", 1.0), settings.get("local_weight", 1.0)

    def shown(found: Results, place: str) -> Any:
        tiles = gr.update(value=found.tiles, selected_index=None)
        state = (place, found.query, found.ids)
        return tiles, score_table(found.rows), found.message, state, gr.update(value=None, visible=False), ""

    def on_start() -> Any:
        return shown(start(shared, examples or []), GALLERY)

    def on_search(
        words: str, picture: str | None, place: str, mine: Any, size: float, mix: float, count: float
    ) -> Any:
        chosen = shared if place == GALLERY else mine
        return shown(search(chosen, words, picture, candidates=int(size), mix=mix, top_k=int(count)), place)

    def on_click(state: Any, mine: Any, event: gr.SelectData) -> Any:
        place, query, ids = state
        drawing, message = explain(shared if place == GALLERY else mine, query, ids[event.index])
        return gr.update(value=drawing, visible=drawing is not None), message

    def on_upload(files: list[str] | None, mine: Any) -> Any:
        named = [(Path(file).name, _take(file)) for file in files or []]
        mine, refused = add_uploads(mine, shared.retriever, named, shared.decode)
        lines = [f"{len(mine)} pictures of yours.", *(f"- Refused {line}" for line in refused)]
        return mine, "\n".join(lines), gr.update(value=MINE), None

    with gr.Blocks(title="Search pictures with words", delete_cache=(600, 3600)) as page:
        mine, state = gr.State(None, time_to_live=3600), gr.State((GALLERY, None, []))
        gr.Markdown("# Search pictures with words\nDescribe a picture, or choose one to find its like, or both.")
        gr.HTML(_STYLE, padding=False)
        with gr.Row(equal_height=True):
            words = gr.Textbox(label="Words", placeholder="what the picture shows", max_length=2000, scale=4)
            button = gr.Button("Search", variant="primary", scale=1, min_width=120)
        if examples:
            gr.Examples([[example] for example in examples], [words], label="For example")
        message = gr.Markdown(elem_id="message")
        results = gr.Gallery(
            label="Results", show_label=False, columns=4, height="auto", allow_preview=False, object_fit="contain",
            elem_id="results",
        )  # fmt: skip
        drawing = gr.Image(label="Which word matched where", show_label=False, visible=False, elem_id="explanation")
        explained = gr.Markdown(elem_id="explained")
        with gr.Accordion("Scores", open=False):
            table = gr.Markdown()
        with gr.Accordion("Search by a picture", open=False):
            picture = _picture_input()
        with gr.Accordion("Your own pictures", open=not len(shared)):
            files = gr.File(file_count="multiple", label="Pictures (they stay in this session)", height=140)
            uploaded = gr.Markdown()
            place = gr.Radio([GALLERY, MINE], value=GALLERY if len(shared) else MINE, label="Search in")
        with gr.Accordion("Settings", open=False):
            count = gr.Slider(1, 50, 12, step=1, label="How many results")
            size = gr.Slider(1, 1000, 100, step=1, label="How many pictures are compared word by word")
            mix = gr.Slider(0, 1, second / ((first + second) or 1), label="Weight of single words in the score")
        inputs = [words, picture, place, mine, size, mix, count]
        outputs = [results, table, message, state, drawing, explained]
        gr.on([button.click, words.submit], on_search, inputs, outputs).then(None, js=_SHOW_RESULTS)
        page.load(on_start, None, outputs)
        results.select(on_click, [state, mine], [drawing, explained])
        files.upload(on_upload, [files, mine], [mine, uploaded, place, files])
    return page


def _picture_input() -> gr.Image:
    picture = gr.Image(label="A picture", type="filepath", sources=["upload", "clipboard"], height=160)
    picture.preprocess = _path_of  # type: ignore[method-assign]  # Gradio's own would decode it here
    return picture


def _path_of(payload: Any) -> str | None:
    return None if payload is None else payload.path


def _take(path: str) -> bytes:
    """Read an uploaded file and remove it from Gradio's temporary directory."""
    with open(path, "rb") as file:
        content = file.read(MAX_BYTES + 1)
    os.unlink(path)
    return content


def main() -> None:
    """Serve what the variables of a Space name.

    Raises:
        ValueError: When there is no `TGDT_MODEL`.
    """
    model = os.environ.get("TGDT_MODEL")
    if not model:
        raise ValueError("Set the variable TGDT_MODEL to a model on the Hub, such as user/name.")
    page = build(TGDTRetriever.from_pretrained(model), os.environ.get("TGDT_PICTURES"))
    page.launch(max_file_size=MAX_BYTES)


if __name__ == "__main__":
    main()
