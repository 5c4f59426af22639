"""The bank of reference queries: corrections against plain loops, and its file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from modeling_tgdt.retrieval_tgdt import TGDTRetriever
from modeling_tgdt.retriever.hubness import FILE, HubnessOptions
from tests.tiny_retrieval import CAPTIONS, random_picture, tiny_model, tiny_processor


def bank(photos: int = 6, captions: int = 17, **options: float) -> HubnessOptions:
    generator = torch.Generator().manual_seed(0)
    images, texts = (F.normalize(torch.randn(n, 8, generator=generator), dim=1) for n in (photos, captions))
    return HubnessOptions(images, texts, **{"neighbors": 3, **options})  # type: ignore[arg-type]


def slow_hubness(items: np.ndarray, queries: np.ndarray, neighbors: int) -> list[float]:
    return [float(np.mean(sorted((float(q @ item) for q in queries), reverse=True)[:neighbors])) for item in items]


@pytest.mark.parametrize(("kind", "neighbors"), [("image", 3), ("text", 3), ("text", 100)])
def test_corrections_are_those_of_plain_loops(kind: str, neighbors: int) -> None:
    found = bank(neighbors=neighbors, strength=0.4)
    items = F.normalize(torch.randn(5, 8, generator=torch.Generator().manual_seed(1)), dim=1)
    own, other = (found.image_embeds, found.text_embeds)[:: 1 if kind == "image" else -1]
    typical = np.mean(slow_hubness(own.numpy(), other.numpy(), neighbors))
    expected = [0.4 * (value - typical) for value in slow_hubness(items.numpy(), other.numpy(), neighbors)]
    np.testing.assert_allclose(found.corrections(items, kind).numpy(), expected, atol=1e-6)  # type: ignore[arg-type]
    assert found.corrections(items[:0], kind).shape == (0,)  # type: ignore[arg-type]


def test_a_gallery_of_cut_embeddings_is_corrected_by_cut_queries() -> None:
    generator = torch.Generator().manual_seed(0)
    images, texts = (F.normalize(torch.randn(n, 32, generator=generator), dim=1) for n in (5, 7))
    made = TGDTRetriever(tiny_model(), tiny_processor(), hubness=HubnessOptions(images, texts, neighbors=2))
    index = made.create_index(global_dim=6)
    made.add_images([random_picture(n) for n in range(4)], progress=False)
    whole = made.encode_images([random_picture(n) for n in range(4)]).global_embeds
    cut = [
        rows[:, :6] / np.linalg.norm(rows[:, :6], axis=1)[:, None] for rows in (whole, images.numpy(), texts.numpy())
    ]
    typical = np.mean(slow_hubness(cut[1], cut[2], 2))
    expected = [0.75 * (value - typical) for value in slow_hubness(cut[0], cut[2], 2)]
    np.testing.assert_allclose(index.hubness(list("0123")), expected, atol=1e-5)


def test_a_bank_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    assert HubnessOptions.from_pretrained(tmp_path) is None
    written = bank(neighbors=2, strength=0.5)
    written.save_pretrained(tmp_path)
    found = HubnessOptions.from_pretrained(tmp_path)
    assert found is not None and (found.neighbors, found.strength) == (2, 0.5)
    torch.testing.assert_close(found.text_embeds, written.text_embeds, atol=1e-3, rtol=0)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    (tmp_path / FILE).write_bytes(b"\0" * 40)
    with pytest.raises(ValueError, match="not a bank that tgdt wrote"):
        HubnessOptions.from_pretrained(tmp_path)


@pytest.mark.parametrize("wrong", [{"neighbors": 0}, {"strength": -1.0}, {"strength": float("nan")}, {"photos": 0}])
def test_numbers_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="Expected"):
        bank(**wrong)
    with pytest.raises(ValueError, match="one width"):
        HubnessOptions(torch.eye(2), torch.eye(3))


def test_a_retriever_corrects_what_it_adds_and_takes_its_bank_along(tmp_path: Path) -> None:
    model, processor, pictures = tiny_model(), tiny_processor(), [random_picture(n) for n in range(8)]
    plain = TGDTRetriever(model, processor)
    embeds = plain.encode_images([random_picture(n) for n in range(20, 26)]), plain.encode_texts(CAPTIONS)
    images, texts = (torch.from_numpy(found.global_embeds) for found in embeds)
    made = TGDTRetriever(model, processor, hubness=HubnessOptions(images, texts, neighbors=2))
    made.add_images(pictures, progress=False)
    assert made.index is not None and made.index.has_hubness and made.hubness is not None
    stored = torch.from_numpy(made.index.get([str(n) for n in range(8)])[0])
    expected = made.hubness.corrections(stored, "image").numpy()
    np.testing.assert_allclose(made.index.hubness([str(n) for n in range(8)]), expected, atol=1e-6)
    made.save_pretrained(tmp_path / "saved")
    opened = TGDTRetriever.from_pretrained(tmp_path / "saved")
    for text in CAPTIONS:
        on, off = (opened.search(text, top_k=8, hubness=flag) for flag in (True, False))
        before = {hit.id: hit.global_score for hit in off}
        found = [before[hit.id] - expected[int(hit.id)] for hit in on]
        np.testing.assert_allclose([hit.global_score for hit in on], found, atol=1e-5)
    names = [opened.search(text, top_k=1, hubness=False)[0].id for text in CAPTIONS]
    gain = opened.hubness_gain(CAPTIONS, names, top_k=1)
    assert gain.plain == 1.0 and 0 <= gain.corrected <= 1
    opened.add_images(pictures[:1], ids=["again"], progress=False)
    assert opened.index is not None and opened.index.hubness(["again"])[0] == pytest.approx(expected[0], abs=1e-3)


def test_what_does_not_fit_together_is_refused() -> None:
    retriever = TGDTRetriever(tiny_model(), tiny_processor())
    retriever.create_index(hubness=True)
    with pytest.raises(ValueError, match="without reference queries"):
        retriever.add_images([random_picture(0)], progress=False)
    retriever.create_index()
    retriever.add_images([random_picture(0)], progress=False)
    with pytest.raises(ValueError, match="items carry a hubness, found one without"):
        retriever.hubness_gain(["sea"], ["0"])
