"""The bank of reference queries: corrections against plain loops, and its file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from modeling_tgdt.retriever.hubness import FILE, HubnessOptions


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


def test_a_bank_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    assert HubnessOptions.from_pretrained(tmp_path) is None
    written = bank(neighbors=2, strength=0.5)
    written.save_pretrained(tmp_path)
    found = HubnessOptions.from_pretrained(tmp_path)
    assert found is not None and (found.neighbors, found.strength) == (2, 0.5)
    torch.testing.assert_close(found.text_embeds, written.text_embeds, atol=1e-3, rtol=0)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    (tmp_path / FILE).write_bytes(b"\0" * 40)
    with pytest.raises(ValueError, match="no bank that tgdt wrote"):
        HubnessOptions.from_pretrained(tmp_path)


@pytest.mark.parametrize("wrong", [{"neighbors": 0}, {"strength": -1.0}, {"strength": float("nan")}, {"photos": 0}])
def test_numbers_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="Expected"):
        bank(**wrong)
    with pytest.raises(ValueError, match="one width"):
        HubnessOptions(torch.eye(2), torch.eye(3))
