# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""TGDTRetriever: results against the model's own forward pass, sources, bad pictures, resume, files."""

import contextlib
import gc
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from modeling_tgdt.image_loading_tgdt import download, read_picture
from modeling_tgdt.index_tgdt import TGDTIndex
from modeling_tgdt.retrieval_tgdt import Hit, TGDTRetriever
from modeling_tgdt.retriever.fingerprint import weights_fingerprint
from modeling_tgdt.retriever.shortlist import shortlist_ranks, shortlist_recall
from tests.tiny_retrieval import (
    CAPTIONS,
    picture_folder,
    png_bomb,
    random_picture,
    tiny_model,
    tiny_processor,
    tiny_retriever,
)

COUNT = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return picture_folder(tmp_path_factory.mktemp("pictures"), COUNT)


@pytest.fixture(scope="module")
def retriever(folder: Path) -> TGDTRetriever:
    made = tiny_retriever()
    made.create_index(token_dtype="float32")
    numbers = [int(path.stem) for path in sorted(folder.glob("*.png")) + sorted(folder.glob("sub/*.png"))]
    report = made.add_images(folder, metadata=[{"number": n} for n in numbers], batch_size=7, progress=False)
    assert (report.added, report.skipped) == (COUNT, [])
    return made


def twin_scores(retriever: TGDTRetriever, folder: Path, texts: list[str]) -> tuple[list[str], np.ndarray]:
    """Score all pairs by one forward pass of the model: ids and (texts, pictures)."""
    paths = sorted(folder.rglob("*.png"))
    batch = retriever.processor(text=texts, images=[Image.open(path) for path in paths], return_tensors="pt")
    with torch.no_grad():
        scores = retriever.model(**batch).logits_per_text.numpy()
    return [path.relative_to(folder).as_posix() for path in paths], scores


def ids(hits: list[Hit]) -> list[str]:
    return [hit.id for hit in hits]


def test_an_exhaustive_shortlist_ranks_like_the_forward_pass(retriever: TGDTRetriever, folder: Path) -> None:
    names, scores = twin_scores(retriever, folder, CAPTIONS)
    found = retriever.search(CAPTIONS, top_k=COUNT, candidates=COUNT)
    for row, hits in zip(scores, found, strict=True):
        assert ids(hits) == [names[place] for place in np.argsort(-row, kind="stable")]
        assert [hit.score for hit in hits] == pytest.approx(np.sort(row)[::-1], abs=1e-5)
        assert all(hit.score == pytest.approx(hit.global_score + hit.local_score, abs=1e-6) for hit in hits)
        assert all(hit.metadata == {"number": int(Path(hit.id).stem)} for hit in hits)
    assert retriever.search(CAPTIONS, top_k=5, candidates=1000) == [hits[:5] for hits in found]


def test_weights_of_one_call_equal_a_model_with_these_weights(retriever: TGDTRetriever, folder: Path) -> None:
    config = retriever.model.config
    config.global_score_weight, config.local_score_weight = 0.3, 2.5
    names, scores = twin_scores(retriever, folder, CAPTIONS[:2])
    config.global_score_weight, config.local_score_weight = 1.0, 1.0
    found = retriever.search(CAPTIONS[:2], top_k=4, candidates=COUNT, global_weight=0.3, local_weight=2.5)
    for row, hits in zip(scores, found, strict=True):
        assert ids(hits) == [names[place] for place in np.argsort(-row, kind="stable")[:4]]
        assert [hit.score for hit in hits] == pytest.approx(np.sort(row)[::-1][:4], abs=1e-5)


def test_the_shortlist_is_the_global_order(retriever: TGDTRetriever) -> None:
    short = retriever.search(CAPTIONS[0], top_k=6, candidates=6)
    assert sorted(ids(short)) == sorted(ids(retriever.search(CAPTIONS[0], top_k=6, mode="global")))
    by_tokens = retriever.search(CAPTIONS[0], top_k=3, mode="local")
    assert ids(by_tokens) == ids(retriever.search(CAPTIONS[0], top_k=3, candidates=COUNT, global_weight=0))


def test_an_embedded_qdrant_gallery_ranks_the_same(retriever: TGDTRetriever, folder: Path) -> None:
    pytest.importorskip("qdrant_client")
    made = tiny_retriever()
    made.create_index(token_dtype="float32", engine="qdrant")
    made.add_images(folder, progress=False)
    for query in (*CAPTIONS, folder / "000.png"):
        found, expected = (one.search(query, top_k=5, candidates=9) for one in (made, retriever))
        assert ids(found) == ids(expected)
        assert [hit.score for hit in found] == pytest.approx([hit.score for hit in expected], abs=1e-4)


def test_cut_global_embeddings_are_searched_and_saved(retriever: TGDTRetriever, folder: Path, tmp_path: Path) -> None:
    made = tiny_retriever()
    made.create_index(token_dtype="float32", global_dim=8)
    made.add_images(folder, progress=False)
    made.save_pretrained(tmp_path / "saved")
    opened = TGDTRetriever.from_pretrained(tmp_path / "saved")
    assert opened.index is not None and opened.index.global_dim == 8 and opened.index.dim == 32
    names = sorted(opened.index)
    images = made.encode_images([folder / name for name in names]).global_embeds[:, :8]
    texts = made.encode_texts(CAPTIONS).global_embeds[:, :8]
    scores = np.array([[a @ b / np.sqrt((a @ a) * (b @ b)) for b in images] for a in texts])
    whole = retriever.search(CAPTIONS, top_k=COUNT, candidates=COUNT)
    for text, row, others in zip(CAPTIONS, scores, whole, strict=True):
        hits = opened.search(text, top_k=5, candidates=9)
        assert {hit.id for hit in hits} <= {names[place] for place in np.argsort(-row)[:9]}
        local = {hit.id: hit.local_score for hit in others}  # the tokens are not cut
        for hit in hits:
            assert hit.global_score == pytest.approx(row[names.index(hit.id)], abs=1e-5)
            assert hit.score == pytest.approx(hit.global_score + local[hit.id], abs=1e-4)


def test_filters_are_passed_on(retriever: TGDTRetriever) -> None:
    hits = retriever.search("sea", where={"number": [3, 4]})
    assert sorted(hit.metadata["number"] for hit in hits) == [3, 4]


def test_queries_of_every_kind(retriever: TGDTRetriever, folder: Path) -> None:
    path = folder / "000.png"
    picture = Image.open(path)
    queries = [path, picture, np.asarray(picture), path.read_bytes(), retriever.prepare_image(path)]
    mixed = retriever.search([*queries[:2], "a red ball", *queries[2:]], top_k=2)
    assert [hits[0].id for hits in [*mixed[:2], *mixed[3:]]] == ["000.png"] * 5
    assert mixed[2] == retriever.search("a red ball", top_k=2)
    assert isinstance(retriever.search(picture, top_k=2)[0], Hit)
    assert retriever.search([]) == []


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_embeddings_do_not_depend_on_the_batch_or_its_order(retriever: TGDTRetriever, batch_size: int) -> None:
    pictures = [random_picture(seed) for seed in range(6)]
    alone = retriever.encode_images(pictures, batch_size=2)
    other = retriever.encode_images(pictures[::-1], batch_size=batch_size)
    np.testing.assert_allclose(other.global_embeds[::-1], alone.global_embeds, atol=1e-5)
    texts = retriever.encode_texts(CAPTIONS, batch_size=batch_size)
    assert len(texts) == len(CAPTIONS)
    for text, vector, tokens in zip(CAPTIONS, texts.global_embeds, texts.token_embeds, strict=True):
        single = retriever.encode_texts([text])
        np.testing.assert_allclose(single.global_embeds[0], vector, atol=1e-5)
        np.testing.assert_allclose(single.token_embeds[0], tokens, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(tokens, axis=1), 1, atol=1e-5)


def test_sources_and_default_ids(folder: Path) -> None:
    pictures = [random_picture(seed) for seed in range(3)]
    rows = {"picture": pictures, "image_id": [7, 8, 9]}
    features = datasets.Features({"picture": datasets.Image(), "image_id": datasets.Value("int64")})
    dataset = datasets.Dataset.from_dict(rows, features=features)
    paths = sorted(folder.glob("*.png"))[:2]
    sources: list[tuple[Any, list[str]]] = [
        (pictures, ["0", "1", "2"]),
        ((np.asarray(picture) for picture in pictures), ["0", "1", "2"]),
        (paths, [path.as_posix() for path in paths]),
        (dataset, ["7", "8", "9"]),
        (dataset.to_iterable_dataset(), ["7", "8", "9"]),
    ]
    for source, expected in sources:
        made = tiny_retriever()
        made.add_images(source, progress=False)
        assert made.index is not None
        assert list(made.index) == expected
    made.add_images(pictures[:1], progress=False)
    made.add_images(pictures[:1], progress=False, metadata={"year": [2020]})
    assert list(made.index)[3:] == ["0", "1"]


def test_a_stream_is_read_only_a_little_ahead() -> None:
    made, taken = tiny_retriever(), []

    def stream() -> Iterator[Image.Image]:
        for number in range(100):
            taken.append(number)
            yield random_picture(number) if number < 20 else Image.new("I", (4, 4), -1)

    with pytest.raises(ValueError, match="item '20'.*on_error='skip'"):
        made.add_images(stream(), batch_size=2, workers=2, progress=False)
    assert len(taken) < 40


def bad_pictures(folder: Path) -> dict[str, str]:
    """Write pictures that cannot be read; return a part of each reason."""
    whole = folder / "ok.jpg"
    random_picture(0, (64, 64)).save(whole)
    (folder / "cut.jpg").write_bytes(whole.read_bytes()[:300])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.gif").write_bytes(b"this is a text")
    (folder / "folder.png").mkdir()
    (folder / "bomb.png").write_bytes(png_bomb(20000))
    return {"cut.jpg": "runcated", "empty.png": "0 bytes", "text.gif": "formats", "bomb.png": "400000000 pixels"}


def test_bad_pictures_are_skipped_with_reasons_or_refused(tmp_path: Path) -> None:
    reasons = bad_pictures(tmp_path)
    made = tiny_retriever()
    report = made.add_images(tmp_path, on_error="skip", progress=False)
    assert report.added == 1
    assert dict(report.skipped).keys() == reasons.keys()
    for name, part in reasons.items():
        assert part in dict(report.skipped)[name], dict(report.skipped)[name]
    with pytest.raises(ValueError, match="on_error='skip'"):
        made.add_images(tmp_path, progress=False)
    assert list(made.index or ()) == ["ok.jpg"]


@contextmanager
def web(answer: Callable[[Any], None]) -> Iterator[str]:
    """Answer every GET on the loopback interface by a function of the stream; gives the URL of a picture."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):  # the reader may leave
                answer(self.wfile)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/a.png"
        server.shutdown()


def test_pictures_of_a_url_are_held_to_the_limits_of_a_file(folder: Path) -> None:
    with web(lambda stream: stream.write((folder / "000.png").read_bytes())) as url:
        assert read_picture(url).size == read_picture(folder / "000.png").size
        with pytest.raises(ValueError, match="24 x 20 pixels, more than the 100 allowed"):
            read_picture(url, max_pixels=100)
        with pytest.raises(ValueError, match="more than the 50 bytes"):
            download(url, max_bytes=50)
    bomb, too_large = web(lambda stream: stream.write(png_bomb(9500))), pytest.raises(ValueError, match="9500 x 9500")
    with bomb as url, too_large:
        read_picture(url)
    for bad in (url, "ftp://127.0.0.1/a.png", "http://[/a.png"):  # the server is gone
        with pytest.raises(ValueError, match="cannot be downloaded"):
            read_picture(bad)


def test_a_download_that_trickles_ends_at_the_deadline() -> None:
    def trickle(stream: Any) -> None:
        for _ in range(100):
            stream.write(b"x")
            stream.flush()
            time.sleep(0.05)

    with web(trickle) as url:
        start = time.monotonic()
        with pytest.raises(ValueError, match=r"did not arrive within 0\.3 seconds"):
            download(url, timeout=0.3)
        assert time.monotonic() - start < 2


def test_embeddings_that_cannot_be_ranked_are_refused_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    made = tiny_retriever()
    embeds = made.encode_images([random_picture(seed) for seed in range(4)])
    embeds.global_embeds[1], embeds.token_embeds[2][0, 0] = 0, np.nan
    monkeypatch.setattr(made, "encode_images", lambda ready, batch_size: embeds)
    report = made.add_images([random_picture(seed) for seed in range(4)], on_error="skip", progress=False)
    assert [(name, "zero vector" in why, "NaN" in why) for name, why in report.skipped] == [
        ("1", True, False),
        ("2", False, True),
    ]
    assert list(made.index or ()) == ["0", "3"]


def test_the_same_id_twice_in_a_call_is_refused() -> None:
    made, pictures = tiny_retriever(), [random_picture(0), random_picture(1)]
    with pytest.raises(ValueError, match="twice"):
        made.add_images(pictures, ids=["a", "a"], progress=False)
    assert made.add_images(pictures, ids=["a", "a"], on_error="skip", progress=False).skipped[0][0] == "a"
    with pytest.raises(ValueError, match="more items than ids"):
        made.add_images(pictures, ids=["a"], progress=False)
    with pytest.raises(ValueError, match="more ids than items"):
        made.add_images(pictures, ids=["a", "b", "c"], progress=False)
    with pytest.raises(ValueError, match="its id must be a string, found NoneType"):
        made.add_images(pictures, ids=[None, "b"], progress=False)  # type: ignore[list-item]
    with pytest.raises(TypeError, match="in the order of the items, found a set"):
        made.add_images(pictures, ids={"a", "b"}, progress=False)  # type: ignore[arg-type]


def test_resume_goes_on_after_an_interruption(folder: Path, tmp_path: Path) -> None:
    made = tiny_retriever()
    made.create_index(tmp_path / "gallery")

    class Stop(RuntimeError):
        pass

    def interrupted() -> Iterator[Path]:
        yield from sorted(folder.rglob("*.png"))[:9]
        raise Stop

    with pytest.raises(Stop):
        made.add_images(interrupted(), batch_size=2, progress=False)
    made.add_images(sorted(folder.rglob("*.png"))[:9], batch_size=2, progress=False)
    reopened = TGDTRetriever(made.model, made.processor, TGDTIndex.open(tmp_path / "gallery"))
    report = reopened.add_images(sorted(folder.rglob("*.png")), resume=True, progress=False)
    assert (report.unchanged, report.added, len(reopened.index or ())) == (9, COUNT - 9, COUNT)


def test_a_gallery_of_texts() -> None:
    made = tiny_retriever()
    made.add_texts(CAPTIONS, ids=list("abcd"), progress=False)
    assert made.search(CAPTIONS[1])[0].id == "b"
    picture = random_picture(5)
    batch = made.processor(text=CAPTIONS, images=[picture], return_tensors="pt")
    scores = made.model(**batch).logits_per_image[0].detach().numpy()
    assert {hit.id: hit.score for hit in made.search(picture)} == pytest.approx(
        dict(zip("abcd", scores, strict=True)), abs=2e-3
    )
    with pytest.raises(ValueError, match="holds texts"):
        made.add_images([picture], progress=False)
    with pytest.raises(TypeError, match="single string"):
        made.add_texts("sea")


def test_regions_are_pictures_too() -> None:
    rng, made = np.random.default_rng(0), tiny_retriever(vision=None)
    regions = [{"features": rng.normal(size=(n, 16)), "boxes": None} for n in (3, 5, 3, 1)]
    together = made.encode_images(regions, batch_size=3)
    for sample, vector, tokens in zip(regions, together.global_embeds, together.token_embeds, strict=True):
        alone = made.encode_images([sample])
        np.testing.assert_allclose(alone.global_embeds[0], vector, atol=1e-5)
        np.testing.assert_allclose(alone.token_embeds[0], tokens, atol=1e-5)
    made.add_images(regions, progress=False, batch_size=3)
    found = made.search(regions, top_k=1)
    assert [hits[0].id for hits in found] == ["0", "1", "2", "3"]


def test_suggested_shortlist_reaches_the_recall(retriever: TGDTRetriever) -> None:
    assert retriever.index is not None
    ranks = shortlist_ranks(retriever.index, retriever.encode_texts(CAPTIONS), "text", 5)
    for recall in (0.5, 0.9, 1.0):
        size = retriever.suggest_candidates(CAPTIONS, recall, top_k=5)
        assert shortlist_recall(ranks, size) >= recall
        assert size == 5 or shortlist_recall(ranks, size - 1) < recall
    size = retriever.suggest_candidates(CAPTIONS, 1.0, top_k=5)
    assert retriever.search(CAPTIONS, 5, size) == retriever.search(CAPTIONS, 5, COUNT)
    with pytest.raises(ValueError, match="recall"):
        retriever.suggest_candidates(CAPTIONS, 0)
    with pytest.raises(ValueError, match="sample query"):
        retriever.suggest_candidates([])


def test_pooling_costs_of_sample_queries(retriever: TGDTRetriever, folder: Path) -> None:
    full, half = retriever.pooling_costs(CAPTIONS, (1, 2), top_k=3)
    assert (full.recall, full.top_1) == (1, 1) and half.tokens == full.tokens / 2 == full.bytes / 4 / 32 / 2
    with pytest.raises(ValueError, match="one kind"):
        retriever.pooling_costs(["sea", folder / "000.png"])


def test_a_saved_retriever_answers_the_same_in_another_process(retriever: TGDTRetriever, tmp_path: Path) -> None:
    retriever.save_pretrained(tmp_path / "saved")
    retriever.save_pretrained(tmp_path / "saved")
    program = (
        "import json, sys\n"
        "from modeling_tgdt.retrieval_tgdt import TGDTRetriever\n"
        "made = TGDTRetriever.from_pretrained(sys.argv[1])\n"
        "print(json.dumps([[h.id, h.score] for h in made.search('a red ball', top_k=5)]))\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "saved")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    found = json.loads(done.stdout.splitlines()[-1])
    hits = retriever.search("a red ball", top_k=5)
    assert [name for name, _ in found] == ids(hits)
    assert [score for _, score in found] == pytest.approx([hit.score for hit in hits], abs=1e-5)


def test_a_gallery_of_another_model_is_refused(retriever: TGDTRetriever, tmp_path: Path) -> None:
    retriever.save_pretrained(tmp_path)
    assert weights_fingerprint(tiny_model()) == weights_fingerprint(tiny_model().to(torch.bfloat16))
    TGDTRetriever.from_pretrained(tmp_path, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="build the gallery again"):
        TGDTRetriever(tiny_model(seed=1), tiny_processor(), retriever.index)
    tiny_model(seed=1).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="different weights"):
        TGDTRetriever.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="length 32"):
        TGDTRetriever(tiny_model(projection_dim=16), tiny_processor(), retriever.index)


def test_a_moved_directory_is_still_the_same_model(retriever: TGDTRetriever, tmp_path: Path) -> None:
    retriever.save_pretrained(tmp_path / "a")
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert len(TGDTRetriever.from_pretrained(tmp_path / "b").index or ()) == COUNT


def test_errors_say_what_to_do(retriever: TGDTRetriever, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="add_images"):
        tiny_retriever().search("sea")
    with pytest.raises(ValueError, match="no folder"):
        retriever.add_images(tmp_path / "missing", progress=False)
    with pytest.raises(TypeError, match="Put a single picture into a list"):
        retriever.add_images(42, progress=False)
    with pytest.raises(ValueError, match="on_error must be"):
        retriever.add_images([], on_error="ignore", progress=False)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"config\.json"):
        TGDTRetriever.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="found none at"):
        TGDTRetriever.from_pretrained(tmp_path / "missing")
    with pytest.raises(ValueError, match="image column"):
        retriever.add_images(datasets.Dataset.from_dict({"a": [1]}), progress=False)


def test_a_temporary_gallery_goes_with_its_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    retriever = tiny_retriever()
    index = retriever.create_index()
    del retriever
    gc.collect()
    assert len(list(tmp_path.iterdir())) == 1 and len(index) == 0
    with pytest.raises(ValueError, match="token_dtype"):
        tiny_retriever().create_index(token_dtype="int4")
    assert len(list(tmp_path.iterdir())) == 1
    del index
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_a_gallery_that_is_there_is_opened_on_request(tmp_path: Path) -> None:
    first = tiny_retriever()
    first.create_index(tmp_path / "gallery", token_dtype="int8")
    first.add_images([random_picture(1)], ids=["one"], progress=False)
    again = tiny_retriever()
    with pytest.raises(FileExistsError, match="already holds a gallery"):
        again.create_index(tmp_path / "gallery")
    index = again.create_index(tmp_path / "gallery", exist_ok=True)
    assert list(index) == ["one"] and index.settings["token_dtype"] == "int8" and again.index is index
    with pytest.raises(ValueError, match="was built with model"):
        tiny_retriever(seed=1).create_index(tmp_path / "gallery", exist_ok=True)
    assert len(tiny_retriever().create_index(tmp_path / "new", exist_ok=True)) == 0


def test_draft_decoding_leaves_twice_the_models_pixels_and_nearly_the_embeddings(tmp_path, monkeypatch) -> None:
    blocks = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    large = Image.fromarray(blocks).resize((800, 600), Image.Resampling.BICUBIC)
    large.save(tmp_path / "large.jpg")
    large.resize((100, 75)).save(tmp_path / "small.jpg")
    large.save(tmp_path / "large.png")
    sizes, retriever = [], tiny_retriever()
    processor_call = type(retriever.processor).__call__

    def recording(self, *arguments, **options):
        sizes.append(options["images"].size)
        return processor_call(self, *arguments, **options)

    monkeypatch.setattr(type(retriever.processor), "__call__", recording)
    files = sorted(tmp_path.iterdir())
    retriever.add_images(files, progress=False, draft=True, workers=1)
    assert sizes == [(100, 75), (800, 600), (100, 75)]  # at least 64 x 64: an eighth; no draft of PNG and small files
    drafted, full = retriever.index.get([str(file) for file in files])[0], retriever.encode_images(files).global_embeds
    assert (drafted * full).sum(axis=1).min() > 0.95
