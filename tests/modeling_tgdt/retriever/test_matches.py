# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""The matched words of a hit, against explanations of the pictures themselves and a slow twin."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from modeling_tgdt.processing_tgdt import TGDTProcessor
from modeling_tgdt.retrieval_tgdt import Hit, TGDTRetriever
from modeling_tgdt.retriever.matches import Match, match_words
from tests.modeling_tgdt.test_processing_tgdt import word_pieces
from tests.tiny_retrieval import random_picture, tiny_model, tiny_processor, tiny_retriever

PICTURES = {str(number): random_picture(number) for number in range(5)}
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "low", "##er", "ball"]


def retriever(token_dtype: str = "float32", engine: str = "exact") -> TGDTRetriever:
    made = TGDTRetriever(tiny_model(), TGDTProcessor(tiny_processor().image_processor, word_pieces(PIECES)))
    made.create_index(token_dtype=token_dtype, engine=engine)
    for name, picture in PICTURES.items():  # one commit each
        made.add_images([picture], ids=[name], progress=False)
    return made


@pytest.mark.parametrize(("token_dtype", "tolerance"), [("float32", 1e-5), ("float16", 2e-3), ("int8", 0.02)])
def test_matches_are_those_of_explain(token_dtype: str, tolerance: float) -> None:
    made = retriever(token_dtype)
    hits = made.search("lower ball lower", top_k=3, global_weight=0.3, explain=True)
    assert len(hits) == 3
    for hit in hits:
        alignment = made.explain(PICTURES[hit.id], "lower ball lower")
        assert [match.word for match in hit.matches] == alignment.words == ["lower", "ball", "lower"]
        assert [match.similarity for match in hit.matches] == pytest.approx(alignment.best_score, abs=tolerance)
        places = [alignment.matrix[row, match.region] for row, match in enumerate(hit.matches)]
        assert places == pytest.approx(alignment.best_score, abs=2 * tolerance)


def test_slow_twin() -> None:
    rng = np.random.default_rng(0)
    tokens, regions = rng.normal(size=(6, 4)), rng.normal(size=(5, 4))
    words = [("one", [1]), ("two", [2, 4])]
    expected = []
    for word, pieces in words:
        means = [sum(float(tokens[p] @ region) for p in pieces) / len(pieces) for region in regions]
        expected.append((word, means.index(max(means)), max(means)))
    found = match_words(tokens, words, regions)
    assert [(m.word, m.region) for m in found] == [own[:2] for own in expected]
    assert [m.similarity for m in found] == pytest.approx([own[2] for own in expected])
    assert match_words(tokens, words, regions[:0]) == match_words(tokens, [], regions) == ()


def test_only_words_have_matches() -> None:
    made = tiny_retriever()
    made.add_images(PICTURES.values(), ids=PICTURES, progress=False)
    assert [field.name for field in fields(Hit)][:5] == ["id", "score", "global_score", "local_score", "metadata"]
    assert made.search("sea")[0].matches == ()
    by_words, by_picture = made.search(["red ball", PICTURES["2"]], explain=True)
    assert [match.word for match in by_words[0].matches] == ["red", "ball"]
    assert isinstance(by_words[0].matches[0], Match) and all(hit.matches == () for hit in by_picture)
    plain = made.search("red ball")
    assert [(h.id, h.score) for h in by_words] == [(h.id, h.score) for h in plain]


def test_a_training_model_stays_in_its_mode() -> None:
    made = tiny_retriever()
    made.add_images(PICTURES.values(), ids=PICTURES, progress=False)
    expected = made.search("red ball", explain=True)
    made.model.train()
    assert made.search("red ball", explain=True) == expected
    assert made.model.training


def test_tokens_of_the_index() -> None:
    made = retriever()
    assert made.index is not None
    expected = made.encode_images([PICTURES["3"], PICTURES["1"]]).token_embeds
    for found, own in zip(made.index.tokens(["3", "1"]), expected, strict=True):
        np.testing.assert_allclose(found, own, atol=1e-6)
    with pytest.raises(KeyError, match="not in the gallery"):
        made.index.tokens(["9"])


def test_tokens_of_qdrant(tmp_path: Path) -> None:
    pytest.importorskip("qdrant_client")
    made = retriever(engine="qdrant")
    (hit,) = made.search("lower", top_k=1, explain=True)
    assert hit.matches[0].similarity == pytest.approx(made.explain(PICTURES[hit.id], "lower").best_score[0], abs=1e-5)
    assert made.index is not None
    made.index.close()


def test_a_gallery_of_texts_refuses() -> None:
    made = tiny_retriever()
    made.add_texts(["sea"], progress=False)
    with pytest.raises(ValueError, match="this gallery holds texts"):
        made.search("sea", explain=True)
