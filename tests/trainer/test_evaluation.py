"""evaluate_retrieval end to end: real model, real processor, generated photos."""

import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch

from hub_cards.tables import sweep_table
from modeling_tgdt.similarity_tgdt import ScoreConfig
from tests.trainer.tiny import photo_rows, tiny_model, tiny_processor
from trainer.data.caption_dataset import CaptionDataset
from trainer.data.skip_report import SkipReport
from trainer.evaluation import evaluate_retrieval, retrieval_metrics
from trainer.scoring import positions as scoring
from trainer.scoring.embeddings import RetrievalEmbeddings
from trainer.scoring.encoding import EncodeOptions, encode_dataset
from trainer.scoring.shortlist_sweep import plot_sweep, shortlist_sweep

QUIET = EncodeOptions(progress=False)


@pytest.fixture
def photos(tmp_path: Path) -> datasets.Dataset:
    rows = photo_rows(tmp_path / "photos", 11)
    rows["captions"][3] = rows["captions"][3][:1]  # any number of captions
    return datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())


def test_each_photo_and_caption_is_encoded_once_and_batching_changes_nothing(photos: datasets.Dataset) -> None:
    model, processor = tiny_model(), tiny_processor()
    model.train()
    small = encode_dataset(model, processor, photos, EncodeOptions(batch_size=2, progress=False))
    large = encode_dataset(model, processor, CaptionDataset(photos), EncodeOptions(batch_size=64, progress=False))
    assert model.training and len(small.image_embeds) == 11 and len(small.text_embeds) == 21
    torch.testing.assert_close(small.image_embeds, large.image_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(small.text_embeds, large.text_embeds, atol=1e-5, rtol=0)
    assert small.text_tokens is not None and large.text_tokens is not None
    torch.testing.assert_close(small.text_tokens.flat, large.text_tokens.flat, atol=1e-5, rtol=0)
    assert small.text_to_image.bincount().tolist() == [2, 2, 2, 1, *[2] * 7]


def test_metrics_are_those_of_the_models_own_similarity(photos: datasets.Dataset) -> None:
    model, processor = tiny_model(), tiny_processor()
    found = evaluate_retrieval(model, processor, photos, modes=["exhaustive"], timed_queries=0, options=QUIET)
    with torch.no_grad():
        inputs = processor(
            images=[row["image"] for row in photos], text=[c for row in photos for c in row["captions"]],
            return_tensors="pt",
        )  # fmt: skip
        images = model.get_image_features(inputs["pixel_values"])
        texts = model.get_text_features(inputs["input_ids"], attention_mask=inputs["attention_mask"])
        scores = model.similarity(images, texts)
    owners = [row for row, captions in enumerate(photos["captions"]) for _ in captions]
    ranks = [int((scores[:, t] > scores[owner, t] + 1e-6).sum()) for t, owner in enumerate(owners)]
    assert found["exhaustive"]["t2i_meanr"] == pytest.approx(sum(ranks) / len(ranks) + 1, abs=0.05)


def test_all_modes_report_all_metrics(photos: datasets.Dataset) -> None:
    found = evaluate_retrieval(tiny_model(), tiny_processor(), photos, candidates=4, timed_queries=2, options=QUIET)
    assert list(found) == ["global", "local", "two_stage"]
    for metrics in found.values():
        assert {"i2t_r1", "t2i_r10", "rsum", "i2t_medr", "t2i_meanr", "mrr", "map@R", "ndcg", "query_ms"} <= set(
            metrics
        )
        assert 0 <= metrics["rsum"] <= 600 and metrics["query_ms"] > 0
    assert found["two_stage"]["t2i_r5"] <= found["two_stage"]["t2i_stage1_recall"]


def test_broken_photo_leaves_with_its_captions(photos: datasets.Dataset, tmp_path: Path) -> None:
    (tmp_path / "photos" / "photo0004.jpg").write_bytes(b"")
    report = SkipReport()
    options = EncodeOptions(progress=False, on_error="skip", report=report)
    embeddings = encode_dataset(tiny_model(), tiny_processor(), photos, options)
    assert len(embeddings.image_embeds) == 10 and len(embeddings.text_embeds) == 19
    assert embeddings.text_to_image.max() == 9 and [image_id for image_id, _ in report] == ["photo0004"]


def test_plain_captions_under_canonical_names_are_one_caption_each(photos: datasets.Dataset) -> None:
    texts = [captions[0] for captions in photos["captions"]]
    raw = photos.remove_columns("captions").add_column("captions", texts)
    found, expected = (
        encode_dataset(tiny_model(), tiny_processor(), rows, QUIET)
        for rows in (raw, photos.remove_columns("captions").add_column("captions", [[text] for text in texts]))
    )
    assert found.text_to_image.tolist() == list(range(11))
    torch.testing.assert_close(found.text_embeds, expected.text_embeds)


@pytest.mark.parametrize(("given", "expected"), [({}, 3), ({"batch_size": 5}, 5)])
def test_batches_are_of_the_options_unless_given(
    photos: datasets.Dataset, given: dict[str, int], expected: int
) -> None:
    model, sizes = tiny_model(), []
    model.vision_model.register_forward_pre_hook(
        lambda _, args, kwargs: sizes.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    options = EncodeOptions(batch_size=3, progress=False)
    evaluate_retrieval(model, tiny_processor(), photos, modes=["global"], timed_queries=0, options=options, **given)
    assert max(sizes) == expected and sum(sizes) == 11


def test_a_process_without_a_photo_ranks_along(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five photos on four processes: the last has none. Its counts are empty, those of the others add up."""
    generator = torch.Generator().manual_seed(0)
    images, texts = (torch.randn(5, 4, generator=generator) for _ in range(2))
    gallery = RetrievalEmbeddings(images, texts, torch.arange(5))
    whole = scoring.exhaustive_positions(gallery, ScoreConfig().only("global"))
    shares = {}
    for rank in range(4):
        part = torch.arange(5).split(2)[rank] if rank < 3 else torch.arange(0)
        monkeypatch.setattr(scoring, "shard", lambda count, part=part: part)
        shares[rank] = scoring.exhaustive_positions(gallery, ScoreConfig().only("global"))["i2t"]
    assert len(shares[3]) == 0
    assert np.array_equal(np.concatenate(list(shares.values())), whole["i2t"])


def test_repeated_rows_of_a_photo_are_one_photo(photos: datasets.Dataset) -> None:
    twice = datasets.concatenate_datasets([photos, photos.select([0])])
    embeddings = encode_dataset(tiny_model(), tiny_processor(), twice, QUIET)
    assert len(embeddings.image_embeds) == 11 and embeddings.text_to_image.bincount()[0] == 4


def test_streams_are_refused(photos: datasets.Dataset) -> None:
    with pytest.raises(TypeError, match="streaming=False"):
        evaluate_retrieval(tiny_model(), tiny_processor(), photos.to_iterable_dataset())


def test_half_precision_tokens_rank_the_same(photos: datasets.Dataset) -> None:
    half = encode_dataset(
        tiny_model(), tiny_processor(), photos, EncodeOptions(progress=False, token_dtype=torch.float16)
    )
    assert half.image_tokens is not None and half.image_tokens.flat.dtype == torch.float16
    assert retrieval_metrics(half, modes=["local"])["local"]["rsum"] >= 0


def test_sweep_is_a_table_and_a_plot(photos: datasets.Dataset, tmp_path: Path) -> None:
    embeddings = encode_dataset(tiny_model(), tiny_processor(), photos, QUIET)
    rows = shortlist_sweep(embeddings, [2, 5, 1000], score=ScoreConfig(), timed_queries=1)
    assert [row["candidates"] for row in rows] == [2, 5, 21]
    assert rows[0]["stage1_recall"] <= rows[1]["stage1_recall"] <= rows[2]["stage1_recall"] == 100.0
    assert sweep_table(rows).count("\n") == 4
    assert plot_sweep(rows, tmp_path / "sweep.png").stat().st_size > 1000
    with pytest.raises(ValueError, match="numbers from 1"):
        shortlist_sweep(embeddings, [0])


SHARDED = """
import datasets, json, sys, torch
from accelerate import PartialState
from tests.trainer.tiny import tiny_model, tiny_processor
from trainer.scoring.encoding import EncodeOptions
from trainer.evaluation import evaluate_retrieval
from trainer.scoring.sharding import leave_process_group
state = PartialState(cpu=True)
torch.set_num_threads(1)
photos = datasets.load_from_disk(sys.argv[1])
modes = ("global", "local", "exhaustive", "two_stage")
found = evaluate_retrieval(tiny_model(), tiny_processor(), photos, modes=modes, candidates=4, batch_size=3,
                           timed_queries=0, options=EncodeOptions(progress=False))
if state.is_main_process:
    print(json.dumps(found), flush=True)
leave_process_group()
"""


@pytest.mark.slow
def test_two_processes_give_the_metrics_of_one(photos: datasets.Dataset, tmp_path: Path) -> None:
    photos.save_to_disk(tmp_path / "data")
    (tmp_path / "script.py").write_text(SHARDED)
    command = [str(tmp_path / "script.py"), str(tmp_path / "data")]
    root = Path(__file__).parents[2]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0", "--standalone"]
    environment = {"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)}
    results = [
        subprocess.run(start + command, capture_output=True, text=True, cwd=root, env=environment, check=False)
        for start in ([sys.executable], launch)
    ]
    assert all(result.returncode == 0 for result in results), results[-1].stderr[-2000:]
    assert results[0].stdout.splitlines()[-1] == results[1].stdout.splitlines()[-1]
