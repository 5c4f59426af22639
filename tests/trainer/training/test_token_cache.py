"""The token cache gives what the backbone gives, once, and survives a killed run."""

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch

from tests.trainer.tiny import photo_rows, tiny_model, tiny_processor
from trainer.data.caption_dataset import CaptionDataset
from trainer.data.skip_report import SkipReport
from trainer.data_collator import TGDTDataCollator
from trainer.training.token_cache import TokenStore, cache_key, cache_tokens


@pytest.fixture
def photos(tmp_path: Path) -> datasets.Dataset:
    rows = photo_rows(tmp_path / "photos", 5)
    return datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())


def test_cached_tokens_train_like_pixels(photos: datasets.Dataset, tmp_path: Path) -> None:
    model, processor = tiny_model(), tiny_processor()
    cached = cache_tokens(model, processor, photos, tmp_path / "cache", batch_size=2, progress=False)
    assert cached.column_names == ["region_features", "region_boxes", "captions", "image_id"]
    assert cached[0]["region_features"].dtype == np.float16 and cached["image_id"][:] == photos["image_id"][:]
    store = TokenStore(next((tmp_path / "cache").iterdir()))
    assert [key in store for key in ("0", "4", "5", "-1", "²")] == [True, True, False, False, False]
    collator = TGDTDataCollator(processor)
    from_cache, from_pixels = (
        model(**collator([examples[n] for n in range(0, 10, 2)]))
        for examples in (CaptionDataset(cached), CaptionDataset(photos))
    )
    torch.testing.assert_close(from_cache.image_embeds, from_pixels.image_embeds, atol=5e-3, rtol=0)
    torch.testing.assert_close(from_cache.loss, from_pixels.loss, atol=2e-2, rtol=0)


def test_second_call_does_not_run_the_backbone(
    photos: datasets.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = tiny_model(), tiny_processor()
    first = cache_tokens(model, processor, photos, tmp_path, progress=False)

    def refuse(*_: Any) -> None:
        raise AssertionError("the backbone ran again")

    monkeypatch.setattr(model, "encode_regions", refuse)
    second = cache_tokens(model, processor, photos, tmp_path, progress=False)
    np.testing.assert_array_equal(first[3]["region_features"], second[3]["region_features"])


def test_fingerprint_follows_weights_preprocessing_and_pictures(photos: datasets.Dataset, tmp_path: Path) -> None:
    model, processor = tiny_model(), tiny_processor()
    key = cache_key(model, processor, photos)
    assert key == cache_key(tiny_model(), tiny_processor(), photos)
    moved = tiny_model()
    moved.config.vision_config._name_or_path = "/elsewhere"
    assert key == cache_key(moved, processor, photos)
    with torch.no_grad():
        next(iter(model.text_model.parameters())).add_(1)
        assert cache_key(model, processor, photos) == key  # the text tower does not matter
        next(iter(model.vision_model.parameters())).add_(1)
    other = tiny_processor()
    other.image_processor.image_mean = [0.1, 0.2, 0.3]
    keys = {key, cache_key(model, processor, photos), cache_key(tiny_model(), other, photos)}
    keys.add(cache_key(tiny_model(), processor, photos.select([0, 1])))
    (tmp_path / "photos" / "photo0002.jpg").write_bytes(b"other")
    keys.add(cache_key(tiny_model(), processor, photos))
    assert len(keys) == 5


def test_a_killed_run_leaves_no_cache(
    photos: datasets.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = tiny_model(), tiny_processor()
    whole, calls = model.encode_regions, []

    def fail_late(pixels: torch.Tensor) -> Any:
        calls.append(len(pixels))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(pixels)

    monkeypatch.setattr(model, "encode_regions", fail_late)
    with pytest.raises(KeyboardInterrupt):
        cache_tokens(model, processor, photos, tmp_path / "cache", batch_size=2, progress=False)
    assert not list((tmp_path / "cache").iterdir())
    assert len(cache_tokens(model, processor, photos, tmp_path / "cache", batch_size=2, progress=False)) == 5


def test_skipped_pictures_stay_out_and_are_listed_again(photos: datasets.Dataset, tmp_path: Path) -> None:
    (tmp_path / "photos" / "photo0001.jpg").write_bytes(b"")
    for _ in range(2):
        report = SkipReport()
        cached = cache_tokens(
            tiny_model(), tiny_processor(), photos, tmp_path / "c", on_error="skip", report=report, progress=False
        )
        assert len(cached) == 4 and [image_id for image_id, _ in report] == ["photo0001"]


def test_regions_cannot_be_cached(tmp_path: Path) -> None:
    table = datasets.Dataset.from_dict({"captions": [["a"]], "image_id": ["0"]})
    with pytest.raises(ValueError, match="needs an 'image' column"):
        cache_tokens(tiny_model(), tiny_processor(), table, tmp_path)
