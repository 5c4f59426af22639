"""look_alike_accuracy: against a nested-loop twin, and on embeddings whose answer is known."""

import datasets
import numpy as np
import pytest
import torch

from modeling_tgdt.similarity_tgdt import ScoreConfig
from tests.trainer.scenes_model import processor, scenes, tiny_model
from trainer.scoring.embeddings import RaggedTokens, RetrievalEmbeddings
from trainer.scoring.encoding import EncodeOptions, encode_dataset
from trainer.scoring.look_alikes import look_alike_accuracy, look_alike_pairs, score_pairs


def test_agrees_with_nested_loops() -> None:
    photos, model = scenes(24, 4), tiny_model(local_score_weight=0.5).eval()
    quiet = EncodeOptions(progress=False)
    found = look_alike_accuracy(model, processor(), photos, options=quiet)
    embeddings = encode_dataset(model, processor(), photos, quiet)
    rows, hits = list(photos.remove_columns("image")), {}
    captions = [(i, caption) for i, row in enumerate(rows) for caption in row["captions"]]
    for j, (i, _) in enumerate(captions):
        for k, other in enumerate(rows):
            if k == i or other["group_id"] != rows[i]["group_id"]:
                continue
            words = embeddings.text_tokens.select(torch.tensor([j])).flat.float().numpy()
            whole = [float(embeddings.image_embeds[q] @ embeddings.text_embeds[j]) for q in (i, k)]
            local = [
                (embeddings.image_tokens.select(torch.tensor([q])).flat.float().numpy() @ words.T).max(0).mean()
                for q in (i, k)
            ]
            mixed = [a + 0.5 * b for a, b in zip(whole, local, strict=True)]
            change = rows[i]["change"] or other["change"]
            hits.setdefault(change, []).append([own > rival for own, rival in (whole, local, mixed)])
    assert set(found) == {*hits, "all"} and found["all"]["pairs"] == len(captions)
    for change, values in hits.items():
        expected = 100 * np.mean(values, axis=0)
        assert [found[change][name] for name in ("global", "local", "mixed")] == pytest.approx(expected.tolist())


def one_token(vectors: list[list[float]]) -> RaggedTokens:
    flat = torch.tensor(vectors)
    return RaggedTokens.from_lengths(flat, torch.ones(len(flat), dtype=torch.int64))


def test_a_tie_is_a_failure_and_every_score_counts_for_itself() -> None:
    same, apart = [[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]
    embeddings = RetrievalEmbeddings(
        torch.tensor(same), torch.tensor(same), torch.arange(2), one_token(apart), one_token(apart)
    )
    found = score_pairs(embeddings, {(0, 1): "colours", (1, 0): "colours"}, ScoreConfig(1.0, 0.0))
    assert found["all"] == {"global": 0.0, "local": 100.0, "mixed": 0.0, "pairs": 2} == found["colours"]


def test_kinds_of_pairs() -> None:
    table = {
        "image_id": ["a", "b", "b", "c", "d", "e"],
        "group_id": ["a", "a", "a", "a", None, "e"],
        "change": ["", "sizes", "sizes", "shape", "", ""],
    }
    pairs = look_alike_pairs(datasets.Dataset.from_dict(table))
    assert pairs == {
        (0, 1): "sizes", (1, 0): "sizes", (0, 2): "shape", (2, 0): "shape",
        (1, 2): "shape and sizes", (2, 1): "shape and sizes",
    }  # fmt: skip
    del table["change"]
    assert set(look_alike_pairs(datasets.Dataset.from_dict(table)).values()) == {""}


def test_refusals() -> None:
    photos = scenes(4, 0)
    with pytest.raises(ValueError, match="column group_id"):
        look_alike_accuracy(tiny_model(), processor(), photos.remove_columns("group_id"))
    alone = photos.remove_columns("group_id").add_column("group_id", list("abcd"))
    with pytest.raises(ValueError, match="share a group_id, found none"):
        look_alike_accuracy(tiny_model(), processor(), alone)
