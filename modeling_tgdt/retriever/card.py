# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""The card that a pushed retriever gets when its repository has none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

TAGS = ("tgdt", "image-text-retrieval")
_TEXT = """
# {title}

A Token-Guided Dual Transformer ([arXiv 2306.08789](https://arxiv.org/abs/2306.08789)){gallery}.

```python
from modeling_tgdt import TGDTRetriever

retriever = TGDTRetriever.from_pretrained("{name}")
{filling}for hit in retriever.search("a dog runs on the beach", top_k=3):
    print(hit.id, hit.score)
```
"""
_FILLING = 'retriever.add_images("photos")  # a folder of pictures\n'


def new_card(repo_id: str, items: str | None = None, *, adapter: bool = False) -> ModelCard:
    """Write the card of a retriever.

    Args:
        repo_id: Where it goes.
        items: What its gallery holds, such as `"1,000 images"`; None without one.
        adapter: Whether the model carries an adapter of PEFT.
    """
    data = ModelCardData(
        library_name="peft" if adapter else "transformers",
        pipeline_tag="zero-shot-image-classification",
        tags=list(TAGS),
    )
    text = _TEXT.format(
        title=repo_id.rpartition("/")[2],
        name=repo_id,
        gallery=f" with a gallery of {items}" if items else "",
        filling="" if items else _FILLING,
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n{text}")


def add_tags(card: ModelCard, tags: Sequence[str]) -> ModelCard:
    """Return a card with more tags in its front matter, each once.

    Args:
        card: Changed in place.
        tags: To add.
    """
    data: Any = card.data
    data.tags = list(dict.fromkeys([*(data.tags or []), *tags]))
    return card


__all__ = ["TAGS", "add_tags", "new_card"]
