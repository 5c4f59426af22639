# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""A gallery knows its model in every precision that the model can be loaded in."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from modeling_tgdt import TGDTRetriever
from modeling_tgdt.retriever.fingerprint import check_gallery_model, model_identity, weights_fingerprint
from tests.tiny_retrieval import tiny_model, tiny_processor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def gallery(path: Path, dtype: torch.dtype, **options: Any) -> Any:
    return TGDTRetriever(tiny_model().to(dtype), tiny_processor()).create_index(path, **options)


@pytest.mark.parametrize(("built", "opened"), list(product(DTYPES, DTYPES)))
def test_precisions_of_one_model_share_a_gallery(tmp_path: Path, built: torch.dtype, opened: torch.dtype) -> None:
    index = gallery(tmp_path / "g", built)
    check_gallery_model(index, tiny_model().to(opened))
    if built == opened or torch.float32 in (built, opened):
        with pytest.raises(ValueError, match="different weights"):
            check_gallery_model(index, tiny_model(seed=1).to(opened))


def test_a_gallery_with_the_older_single_fingerprint_opens(tmp_path: Path) -> None:
    recorded = str(gallery(tmp_path / "new", torch.float32).settings["model_revision"])
    old = gallery(tmp_path / "old", torch.float32, model_revision=recorded.rpartition(".")[0], model_id="repo")
    for dtype in DTYPES:
        check_gallery_model(old, tiny_model().to(dtype))
    with pytest.raises(ValueError, match="different weights"):
        check_gallery_model(old, tiny_model(seed=1))
    model = tiny_model().half()
    model.name_or_path = "another"
    with pytest.raises(ValueError, match="different weights"):
        check_gallery_model(old, model)


def test_a_wrapped_model_is_the_same_model() -> None:
    model = tiny_model()
    wrapped = torch.compile(tiny_model(), backend="eager")
    assert weights_fingerprint(wrapped) == weights_fingerprint(model)
    parallel = torch.nn.Module()
    parallel.module = model
    assert weights_fingerprint(parallel) == weights_fingerprint(model)


def test_a_quantized_model_is_told_by_its_name() -> None:
    model = tiny_model()
    model.is_quantized = True
    assert model_identity(model)[1] == "weights."


def test_a_retriever_notices_that_its_model_was_trained(tmp_path: Path) -> None:
    retriever = TGDTRetriever(tiny_model(), tiny_processor())
    retriever.add_texts(["sea"], progress=False)
    retriever.search("sea")
    with torch.no_grad():
        next(retriever.model.text_projection.parameters()).add_(1)
    calls = (
        lambda: retriever.search("sea"),
        lambda: retriever.add_texts(["sky"], progress=False),
        lambda: retriever.save_pretrained(tmp_path / "r"),
    )
    for call in calls:
        with pytest.raises(ValueError, match="embeddings of different weights cannot be compared"):
            call()
