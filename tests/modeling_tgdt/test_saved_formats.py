# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""A model and a gallery that an early commit wrote open and rank as they did then."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from modeling_tgdt import TGDTIndex, TGDTModel, TGDTOutput

OLD = Path(__file__).parents[1] / "fixtures" / "first_format"
EXPECTED = json.loads((OLD / "expected.json").read_text())


@pytest.fixture(scope="module")
def outputs() -> TGDTOutput:
    ids = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 0], [8, 9, 0, 0]])
    regions = np.random.default_rng(0).normal(size=(6, 3, 8)).astype(np.float32)
    model = TGDTModel.from_pretrained(OLD / "model")
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=(ids > 0).long(), region_features=torch.from_numpy(regions))


def test_the_model_scores_as_before(outputs: TGDTOutput) -> None:
    torch.testing.assert_close(outputs.logits_per_image, torch.tensor(EXPECTED["logits_per_image"]))


def test_the_gallery_ranks_as_before_and_can_be_written(outputs: TGDTOutput, tmp_path: Path) -> None:
    shutil.copytree(OLD / "gallery", tmp_path / "gallery")
    with TGDTIndex.open(tmp_path / "gallery") as index:
        assert index.verify() == []
        query = outputs.text_embeds, outputs.text_token_embeds, outputs.text_token_mask
        found = index.search(*query, top_k=5, candidates=5)
        assert found.ids == EXPECTED["ids"]
        np.testing.assert_allclose(found.scores, EXPECTED["scores"], rtol=1e-5)
        index.add(["photo 1"], outputs.image_embeds[1:2], outputs.image_token_embeds[1:2], metadata={"year": [2021]})
        index.compact()
        assert len(index) == 6 and index.verify() == []
