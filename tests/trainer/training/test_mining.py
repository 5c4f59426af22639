"""Hard negatives: mined against a slow twin, dealt into batches, and the same after a resume."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.scenes_model import processor, scenes, tiny_model
from tests.trainer.test_cmc_trainer import make_trainer
from trainer import CaptionDataset, load_captions
from trainer.data_collator import image_id_tensor
from trainer.samplers import DistinctPhotoSampler
from trainer.scoring.embeddings import RetrievalEmbeddings
from trainer.scoring.encoding import EncodeOptions
from trainer.training.mining import equal_caption_pairs, mine_dataset, mine_neighbours


def gallery(counts, seed=0):
    generator = torch.Generator().manual_seed(seed)
    owners = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    images, texts = (torch.randn(n, 6, generator=generator) for n in (len(counts), len(owners)))
    return RetrievalEmbeddings(*(torch.nn.functional.normalize(side, dim=1) for side in (images, texts)), owners)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=9), st.integers(1, 5), st.integers(0, 99), st.booleans())
def test_mining_equals_a_slow_twin(counts, count, seed, share):
    found_in = gallery(counts, seed)
    positives = [(0, len(counts) - 1)] if share and len(counts) > 1 else []
    found = mine_neighbours(found_in, count, positives)
    for photo in range(len(counts)):
        hardness = {}
        for text, owner in enumerate(found_in.text_to_image.tolist()):
            pair = {(photo, owner), (owner, photo)}
            if owner != photo and not pair & set(positives):
                score = float(found_in.image_embeds[photo] @ found_in.text_embeds[text])
                hardness[owner] = max(score, hardness.get(owner, -2.0))
        expected = sorted(hardness, key=lambda owner: -hardness[owner])[:count]
        assert found[photo].tolist() == expected + [-1] * (count - len(expected))


def test_photos_that_share_a_caption_are_found():
    captions = [["A dog runs."], ["a cat"], ["two birds", " a dog  runs"], []]
    assert equal_caption_pairs(captions) == [(0, 2)]


def test_mined_photos_share_a_batch_and_captions_of_a_photo_do_not():
    photos, captions, size = 60, 5, 8
    ids = [f"photo-{number:02d}" for number in range(photos) for _ in range(captions)]
    rng = np.random.default_rng(0)
    partner = rng.permutation(photos).reshape(-1, 2)
    neighbours = np.full((photos, 2), -1)
    neighbours[partner[:, 0], 0], neighbours[partner[:, 1], 0] = partner[:, 1], partner[:, 0]
    sampler = DistinctPhotoSampler(ids, size, seed=3)
    together = []
    for mined in (None, neighbours):
        sampler.neighbours = mined
        order = list(sampler)
        assert sorted(order) == list(range(len(ids))) and order == list(sampler)
        batches = [sampler.photos[order[start : start + size]] for start in range(0, len(order), size)]
        assert all(len(set(batch)) == len(batch) for batch in batches)
        together.append(np.mean([neighbours[photo, 0] in batch for batch in batches for photo in batch]))
    assert together[0] < 0.25 and together[1] > 0.9


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=20), st.integers(1, 12), st.integers(1, 3))
def test_any_neighbours_give_a_permutation(counts, size, count):
    ids = np.repeat(np.arange(len(counts)), counts).tolist()
    sampler = DistinctPhotoSampler(ids, size)
    sampler.neighbours = np.random.default_rng(0).integers(-1, len(counts), (len(counts), count))
    assert sorted(sampler) == list(range(len(ids)))


def mining_trainer(folder, model=None, **options):
    fields = {"hard_negatives": 2, "captions_per_image": "one", "max_steps": 8, "save_strategy": "steps"}
    return make_trainer(folder, model, **(fields | options))


def batches_of(trainer):
    """Photo ids of every batch that the trainer trains on."""
    seen, original = [], trainer._embed
    trainer._embed = lambda model, inputs: seen.append(inputs["image_ids"].tolist()) or original(model, inputs)
    trainer.train()
    return seen


def test_training_deals_the_photos_that_its_model_mined(tmp_path):
    trainer = mining_trainer(tmp_path, save_steps=3)
    mined = []
    callback = next(item for item in trainer.callback_handler.callbacks if type(item).__name__ == "HardNegativeMining")
    original = callback.on_epoch_begin

    def recording(args, state, control, **kwargs):
        original(args, state, control, **kwargs)
        dataset = kwargs["train_dataloader"].dataset
        fresh = mine_dataset(kwargs["model"], processor(), dataset, 2, EncodeOptions(tokens=False, progress=False))
        mined.append((callback.neighbours, fresh))

    callback.on_epoch_begin = recording
    seen = batches_of(trainer)
    assert len(seen) == 8 and [pair[0] is None for pair in mined] == [True, False, False]
    for in_force, fresh in mined[1:]:
        assert np.array_equal(in_force, fresh)
    neighbours = mined[1][0]
    assert (neighbours != np.arange(len(neighbours))[:, None]).all() and neighbours.min() >= 0
    known = np.unique(trainer.train_dataset.image_ids)
    ids = image_id_tensor([{"image_id": image_id} for image_id in known]).tolist()
    first = [ids.index(image_id) for image_id in seen[3]]  # of the second epoch
    assert set(neighbours[first[0]]) <= set(first)


@pytest.mark.parametrize("step", [3, 4, 6])
def test_resume_within_and_between_mined_epochs_is_exact(tmp_path, step):
    """Three batches an epoch: step 3 and 6 end one, after step 4 a resumed run must not mine anew."""
    whole = mining_trainer(tmp_path, save_steps=1)
    trained_on = batches_of(whole)
    resumed = mining_trainer(tmp_path, tiny_model(seed=99), save_strategy="no")
    original = resumed.train
    resumed.train = lambda: original(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
    assert batches_of(resumed) == trained_on[step:]
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_mining_leaves_the_random_state_alone():
    dataset = CaptionDataset(load_captions(scenes()))
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    found = mine_dataset(
        tiny_model_without_seed(), processor(), dataset, 3, EncodeOptions(tokens=False, progress=False)
    )
    assert found.shape == (24, 3)
    assert torch.equal(torch.rand(3), expected)


def tiny_model_without_seed():
    with torch.random.fork_rng():
        return tiny_model()


def test_streams_and_wrong_numbers_are_refused(tmp_path):
    with pytest.raises(TypeError, match="map-style data set"):
        make_trainer(tmp_path, dataset=scenes().to_iterable_dataset(), hard_negatives=2).train()
    with pytest.raises(ValueError, match="at least 0"):
        make_trainer(tmp_path, hard_negatives=-1)
    with pytest.raises(ValueError, match="unique_photos_per_batch"):
        make_trainer(tmp_path, hard_negatives=1, unique_photos_per_batch=False)
