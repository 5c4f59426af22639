# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""ColumnEncoder: the retriever's embeddings as columns, found again in the cache of `datasets`."""

import datasets
import numpy as np
import pytest

from tests.tiny_retrieval import CAPTIONS, random_picture, tiny_retriever
from trainer import ColumnEncoder


@pytest.fixture
def photos() -> datasets.Dataset:
    rows = {"image": [random_picture(seed) for seed in range(4)], "caption": CAPTIONS, "captions": [CAPTIONS] * 4}
    return datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())


def test_columns_equal_the_retrievers_embeddings(photos: datasets.Dataset) -> None:
    retriever = tiny_retriever()
    own = retriever.model, retriever.processor
    found = photos.map(ColumnEncoder(*own, tokens=True), batched=True, batch_size=3)
    found = found.map(ColumnEncoder(*own, column="caption", output="text", tokens=True), batched=True)
    images, texts = retriever.encode_images(photos["image"]), retriever.encode_texts(CAPTIONS)
    for name, expected in (("image", images), ("text", texts)):
        np.testing.assert_allclose(np.array(found[f"{name}_embeds"]), expected.global_embeds, atol=1e-5)
        for row, tokens in zip(found[f"{name}_token_embeds"], expected.token_embeds, strict=True):
            np.testing.assert_allclose(np.array(row).reshape(tokens.shape), tokens, atol=1e-5)


def test_a_second_run_comes_from_the_cache(photos: datasets.Dataset, tmp_path) -> None:
    retriever = tiny_retriever()
    retriever.add_images([random_picture(9)], progress=False)  # an open gallery is not a part of the function
    stored = datasets.Dataset.from_dict(photos[:], features=photos.features)
    stored.save_to_disk(str(tmp_path / "photos"))
    runs = []
    for training in (False, True):
        retriever.model.train(training)
        source = datasets.load_from_disk(str(tmp_path / "photos"))
        runs.append(source.map(ColumnEncoder(retriever.model, retriever.processor), batched=True))
    assert runs[0].cache_files == runs[1].cache_files
    assert retriever.model.training, "looking for a cached result leaves the model as it was"


@pytest.mark.parametrize(
    ("options", "batched", "message"),
    [
        ({"column": "photo"}, True, r"Expected a column 'photo' to encode, found \['caption', 'captions', 'image'\]"),
        ({"column": "captions"}, True, "'captions' holds lists. Make one row per item first"),
        ({}, False, "Call map with batched=True"),
    ],
)
def test_wrong_columns_are_refused(photos: datasets.Dataset, options: dict, batched: bool, message: str) -> None:
    retriever = tiny_retriever()
    with pytest.raises(ValueError, match=message):
        photos.map(ColumnEncoder(retriever.model, retriever.processor, **options), batched=batched)
