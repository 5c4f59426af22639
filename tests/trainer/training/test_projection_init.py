"""The warm start finds shared directions: against a slow CCA, on planted data, and in a whole model."""

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from transformers import CLIPTextConfig

from modeling_tgdt import TGDTModel
from tests.trainer import tiny
from trainer.evaluation import retrieval_metrics
from trainer.scoring.embeddings import RetrievalEmbeddings
from trainer.scoring.encoding import EncodeOptions, encode_dataset
from trainer.training.projection_init import Ridges, canonical_directions, choose_ridges, regression, warm_start

QUIET = EncodeOptions(progress=False)
RIDGES = Ridges(image=1.0, text=0.3)


def planted(photos: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Photos (N, 12) and captions (N, 9) that share three weak directions under strong noise of their own."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    mix = torch.Generator().manual_seed(99)
    to_image = torch.randn(3, 12, generator=mix, dtype=torch.float64)
    to_text = torch.randn(3, 9, generator=mix, dtype=torch.float64)
    shared, noise = draw(photos, 3), torch.ones(12, dtype=torch.float64)
    noise[:4] = 20.0
    return shared @ to_image + draw(photos, 12) * noise, shared @ to_text + 0.5 * draw(photos, 9)


def slots(photos: int, seed: int = 0) -> RetrievalEmbeddings:
    images, captions = planted(photos, seed)
    return RetrievalEmbeddings(images, captions, torch.arange(photos))


@pytest.mark.parametrize("photos", [200, 8])  # more and fewer than directions
def test_directions_are_those_of_the_eigenvalue_problem(photos: int) -> None:
    images, captions = planted(photos)
    to_image, to_text, correlations = canonical_directions(slots(photos), 4, RIDGES)
    x, y = (images - images.mean(0)).numpy(), (captions - captions.mean(0)).numpy()
    ridged = lambda rows, ridge: (  # noqa: E731
        rows.T @ rows / len(rows) + ridge * np.trace(rows.T @ rows / len(rows)) / rows.shape[1] * np.eye(rows.shape[1])
    )
    shared = x.T @ y / len(x)
    problem = np.linalg.inv(ridged(x, RIDGES.image)) @ shared @ np.linalg.inv(ridged(y, RIDGES.text)) @ shared.T
    values = np.sort(np.linalg.eigvals(problem).real)[::-1][:4]
    np.testing.assert_allclose(correlations.numpy() ** 2, values, atol=1e-9)
    for column in range(4):
        left, right = to_image[:, column].numpy(), to_text[:, column].numpy()
        np.testing.assert_allclose(problem @ left, values[column] * left, atol=1e-9)
        assert left @ shared @ right > 0


def ranks_of_new_photos(photos: int, ridges: Ridges) -> float:
    """Mean rank of the own caption of 200 new photos, by directions fitted on few or many."""
    to_image, to_text, _ = canonical_directions(slots(photos), 3, ridges)
    new_images, new_captions = planted(200, seed=1)
    scores = (
        torch.nn.functional.normalize(new_images @ to_image) @ torch.nn.functional.normalize(new_captions @ to_text).T
    )
    return float((scores > scores.diagonal()[:, None]).sum(1).double().mean())


def test_planted_directions_find_the_captions_of_new_photos() -> None:
    assert ranks_of_new_photos(2000, RIDGES) < 40  # chance is 99.5


@pytest.mark.parametrize("photos", [40, 400])
def test_the_chosen_ridges_are_among_the_best_for_new_photos(photos: int) -> None:
    chosen = ranks_of_new_photos(photos, choose_ridges(slots(photos), 3))
    others = [ranks_of_new_photos(photos, Ridges(image, text)) for image in (0.3, 3.0, 30.0) for text in (0.1, 1.0)]
    assert chosen < 1.1 * min(others) < 0.7 * max(others)


@pytest.mark.parametrize("slot", ["first", "mean"])
def test_a_warm_model_retrieves_better_than_a_new_one(tmp_path: Path, slot: str) -> None:
    photos = datasets.Dataset.from_dict(tiny.photo_rows(tmp_path, 36)).cast_column("image", datasets.Image())
    model, processor = tiny.tiny_model(), tiny.tiny_processor()
    model.config.text_global_token = slot
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def rsum() -> float:
        return retrieval_metrics(encode_dataset(model, processor, photos, QUIET), modes=("global",))["global"]["rsum"]

    cold = rsum()
    correlations = warm_start(model, processor, photos, QUIET)
    assert rsum() > cold
    assert len(correlations) <= 16 and bool((correlations.diff() <= 0).all()) and 0 < correlations[0] <= 1
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {f"{side}_projection.{part}" for side in ("visual", "text") for part in ("weight", "bias")}


def test_a_slot_of_mean_and_maximum_has_its_warm_start(tmp_path: Path) -> None:
    photos = datasets.Dataset.from_dict(tiny.photo_rows(tmp_path, 36)).cast_column("image", datasets.Image())
    config = tiny.tiny_model().config
    config.image_global_token, config.box_encoding = "mean_max", "sum"
    config.num_region_layers = config.num_local_layers = config.num_global_layers = 0
    model, processor = TGDTModel(config).eval(), tiny.tiny_processor()

    def rsums() -> list[float]:
        found = retrieval_metrics(encode_dataset(model, processor, photos, QUIET), modes=("global", "local"))
        return [found[mode]["rsum"] for mode in ("global", "local")]

    cold = rsums()
    warm_start(model, processor, photos, QUIET)
    assert all(warm > before for warm, before in zip(rsums(), cold, strict=True))


def test_regions_behind_layers_and_boxes_are_centred_by_the_warm_start(tmp_path: Path) -> None:
    photos = datasets.Dataset.from_dict(tiny.photo_rows(tmp_path, 36)).cast_column("image", datasets.Image())
    config = tiny.tiny_model().config
    config.image_global_token, config.box_encoding = "mean_max", "concat"
    model = TGDTModel(config).eval()
    warm_start(model, tiny.tiny_processor(), photos, QUIET)
    seen: list[torch.Tensor] = []
    model.visual_projection.register_forward_hook(lambda *given: seen.append(given[2][:, 0].detach()))
    encode_dataset(model, tiny.tiny_processor(), photos, QUIET)
    whole = torch.cat(seen)  # the regions' projection of the whole photo, (N, D)
    torch.testing.assert_close(whole.mean(0), torch.zeros(whole.shape[1]), atol=1e-4, rtol=0)
    assert whole.square().sum(1).mean() > 1


def test_regression_comes_as_close_to_the_captions_as_least_squares() -> None:
    few = slots(60)
    to_text = torch.randn(few.text_embeds.shape[1], 2, dtype=torch.float64)
    captions = torch.stack([few.text_embeds[few.text_to_image == row].mean(0) for row in range(60)])
    centred = few.image_embeds - few.image_embeds.mean(0)
    expected = torch.linalg.lstsq(centred, (captions - few.text_embeds.mean(0)) @ to_text).solution
    torch.testing.assert_close(regression(few, to_text, few.image_embeds, 0.0), expected)


def test_directions_beyond_the_smaller_width_stay_zero(tmp_path: Path) -> None:
    photos = datasets.Dataset.from_dict(tiny.photo_rows(tmp_path, 12)).cast_column("image", datasets.Image())
    model = tiny.tiny_model(width=8)
    warm_start(model, tiny.tiny_processor(), photos, QUIET)
    assert not model.visual_projection.weight[8:].any() and model.visual_projection.weight[:8].any()


@pytest.mark.parametrize("slot", ["last", "mean"])
def test_a_causal_tower_has_its_warm_start(tmp_path: Path, slot: str) -> None:
    photos = datasets.Dataset.from_dict(tiny.photo_rows(tmp_path, 12)).cast_column("image", datasets.Image())
    config = tiny.tiny_model().config
    config.text_config = CLIPTextConfig(vocab_size=80, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                                        intermediate_size=16, eos_token_id=3)  # fmt: skip
    config.text_global_token = slot
    assert warm_start(TGDTModel(config), tiny.tiny_processor(), photos, QUIET)[0] > 0


def test_captions_that_all_look_the_same_are_refused(tmp_path: Path) -> None:
    """The covariance of one and the same caption is zero: there is no direction to find."""
    rows = tiny.photo_rows(tmp_path, 4)
    photos = datasets.Dataset.from_dict({**rows, "captions": [["a red square"]] * 4})
    with pytest.raises(ValueError, match="text_global_token='mean'"):
        warm_start(tiny.tiny_model(), tiny.tiny_processor(), photos.cast_column("image", datasets.Image()), QUIET)


def test_what_cannot_be_warmed_is_refused(tmp_path: Path) -> None:
    photos = datasets.Dataset.from_dict(tiny.photo_rows(tmp_path, 1)).cast_column("image", datasets.Image())
    model, processor = tiny.tiny_model(), tiny.tiny_processor()
    with pytest.raises(ValueError, match="at least 2, found 1"):
        warm_start(model, processor, photos, QUIET)
    model.config.image_global_token = "zeros"
    with pytest.raises(ValueError, match="image_global_token='mean'"):
        warm_start(model, processor, photos, QUIET)
