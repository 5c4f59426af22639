# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""The HTTP service: answers, refusals, limits, batches and the stop, over loopback."""

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from modeling_tgdt.index_tgdt import TGDTIndex
from modeling_tgdt.retrieval_tgdt import TGDTRetriever
from tests.tiny_retrieval import CAPTIONS, encoded, png_bomb, random_picture, tiny_retriever
from trainer.serving.batching import Batcher, Searcher, SearchRequest
from trainer.serving.guard import Metrics
from trainer.serving.schema import filter_schema

httpx = pytest.importorskip("httpx")
pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")
pytest.importorskip("python_multipart")
from tests.trainer.serving.running import raw, serving, upload  # noqa: E402


@pytest.fixture(scope="module")
def retriever() -> TGDTRetriever:
    made = tiny_retriever()
    years = [{"year": 2000 + number % 2} for number in range(12)]
    made.add_images([random_picture(seed) for seed in range(12)], metadata=years, progress=False)
    return made


@pytest.fixture(scope="module")
def address(retriever: TGDTRetriever) -> Iterator[str]:
    with serving(retriever, max_body=200_000, max_pixels=250_000, timeout=10) as found:
        yield found


def test_words_are_answered_like_the_retriever(address: str, retriever: TGDTRetriever) -> None:
    for mode in ("two_stage", "global", "local"):
        answer = httpx.get(f"{address}/search", params={"text": CAPTIONS[0], "top_k": 4, "mode": mode})
        assert answer.status_code == 200
        expected = retriever.search(CAPTIONS[0], top_k=4, mode=mode)  # type: ignore[arg-type]
        hits = answer.json()["hits"]
        assert [hit["id"] for hit in hits] == [hit.id for hit in expected]
        assert [hit["score"] for hit in hits] == pytest.approx([hit.score for hit in expected], abs=1e-5)
        assert hits[0]["metadata"] == expected[0].metadata
        assert (hits[0]["local_score"] is None) == (mode == "global")
    filtered = httpx.get(f"{address}/search", params={"text": "sea", "where": '{"year": [2001]}'}).json()
    assert {hit["metadata"]["year"] for hit in filtered["hits"]} == {2001}
    weighted = httpx.get(f"{address}/search", params={"text": "sea", "global_weight": 0, "local_weight": 3}).json()
    assert weighted["hits"][0]["score"] == pytest.approx(3 * weighted["hits"][0]["local_score"], abs=1e-5)


@pytest.mark.parametrize("name", ["x.png", "../../x", "/etc/passwd", "a" * 300])
def test_an_uploaded_picture_finds_itself(address: str, name: str) -> None:
    answer = upload(address, encoded(random_picture(3)), name, top_k=1)
    assert answer.status_code == 200
    assert answer.json()["hits"][0]["id"] == "3"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "0 bytes"),
        (b"this is not a picture", "formats"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "formats"),
        (png_bomb(60000), "3600000000 pixels"),
        (png_bomb(9000), "9000 x 9000 pixels"),
        (encoded(random_picture(0, (600, 600))), "600 x 600 pixels"),
        (encoded(random_picture(0, (90, 90)))[:150], "picture"),
    ],
)
def test_bad_uploads_are_refused_with_the_reason(address: str, data: bytes, why: str) -> None:
    answer = upload(address, data)
    assert answer.status_code == 400
    assert why in answer.json()["detail"]


@pytest.mark.parametrize(
    ("params", "status"),
    [
        ({}, 422),
        ({"text": ""}, 422),
        ({"text": "x" * 3000}, 422),
        ({"text": "sea", "top_k": 0}, 422),
        ({"text": "sea", "mode": "other"}, 422),
        ({"text": "sea", "global_weight": "nan"}, 422),
        ({"text": "sea", "where": "{"}, 400),
        ({"text": "sea", "where": "[1]"}, 400),
        ({"text": "sea", "where": '{"nothing": 1}'}, 400),
    ],
)
def test_bad_parameters_are_refused(address: str, params: dict[str, Any], status: int) -> None:
    assert httpx.get(f"{address}/search", params=params).status_code == status


def test_odd_texts_are_answered(address: str) -> None:
    for text in ("\x00", "🦊", "sea " * 400, "[CLS] [SEP]", "."):
        assert httpx.get(f"{address}/search", params={"text": text}).status_code == 200


def test_large_bodies_are_refused_unread(address: str) -> None:
    assert upload(address, bytes(300_000)).status_code == 413

    def stream() -> Iterator[bytes]:
        yield b'--b\r\ncontent-disposition: form-data; name="image"; filename="x"\r\n\r\n'
        for _ in range(30):
            yield bytes(10_000)

    headers = {"content-type": "multipart/form-data; boundary=b"}
    answer = httpx.post(f"{address}/search", content=stream(), headers=headers)
    assert answer.status_code == 413
    assert "200000 bytes" in answer.json()["detail"]


def test_an_endless_header_is_cut_off(address: str) -> None:
    answer = raw(address, b"GET /search?text=sea HTTP/1.1\r\nhost: x\r\nx: " + b"a" * (4 << 20))
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
    declared = b"POST /search HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000000\r\n\r\n"
    assert raw(address, declared).startswith(b"HTTP/1.1 413")


def test_a_slow_body_is_given_up(retriever: TGDTRetriever) -> None:
    with serving(retriever, timeout=0.3) as address:
        head = b"POST /search HTTP/1.1\r\nhost: x\r\ncontent-type: multipart/form-data; boundary=b\r\n"
        assert raw(address, head + b"content-length: 100\r\n\r\n--b\r\n").startswith(b"HTTP/1.1 408")


def test_other_paths_and_methods(address: str) -> None:
    for path in ("/../../etc/passwd", "/search/../secret", "/static/x", "/%2e%2e/x"):
        assert httpx.get(address + path).status_code == 404
    refused = httpx.delete(f"{address}/search")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, POST")


def test_health_metrics_and_description(address: str) -> None:
    health = httpx.get(f"{address}/healthz").json()
    assert health == {"status": "ok", "items": 12, "model": None}
    httpx.get(f"{address}/search", params={"text": "sea"})
    text = httpx.get(f"{address}/metrics").text
    assert "tgdt_gallery_items 12" in text
    assert 'tgdt_responses_total{path="/search",status="200"}' in text
    assert "tgdt_in_flight 0" in text
    description = httpx.get(f"{address}/openapi.json").json()
    assert set(description["paths"]) == {"/search", "/healthz", "/metrics"}
    assert {"200", "400", "413", "422", "429"} <= set(description["paths"]["/search"]["post"]["responses"])


def test_the_service_keeps_to_its_description(address: str, tmp_path: Path) -> None:
    pytest.importorskip("schemathesis")
    root, hooks = str(Path(__file__).parents[3]), "tests.trainer.serving.schemathesis_hooks"
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{address}/openapi.json"]
    command += ["--seed", "1", "--phases", "fuzzing", "--max-examples", "10", "--no-color"]
    environment = {**os.environ, "PYTHONPATH": root, "SCHEMATHESIS_HOOKS": hooks}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def test_the_description_names_the_filters_of_the_gallery(address: str) -> None:
    paths = httpx.get(f"{address}/openapi.json").json()["paths"]["/search"]
    (where,) = (parameter for parameter in paths["get"]["parameters"] if parameter["name"] == "where")
    schema = where["content"]["application/json"]["schema"]
    assert set(schema["properties"]) == {"year", "and", "or", "not", "ids"} and not schema["additionalProperties"]
    assert filter_schema(None)["additionalProperties"]["anyOf"][1]["type"] == "array"
    for bad in ('{"year": null}', '{"year": [2000, null]}', ""):
        assert httpx.get(f"{address}/search", params={"text": "sea", "where": bad}).status_code == 400


class SlowRetriever:
    """Answers like the one it wraps, but only when told to."""

    def __init__(self, retriever: TGDTRetriever) -> None:
        self.retriever, self.index, self.prepare_image = retriever, retriever.index, retriever.prepare_image
        self.gate, self.sizes = threading.Event(), list[int]()

    def search(self, queries: list[Any], **options: Any) -> Any:
        self.gate.wait(20)
        self.sizes.append(len(queries))
        return self.retriever.search(queries, **options)


def test_a_full_queue_answers_429_and_waiting_queries_form_one_batch(retriever: TGDTRetriever) -> None:
    slow = SlowRetriever(retriever)
    with serving(slow, max_in_flight=6, max_per_client=6) as address, ThreadPoolExecutor(16) as clients:
        params = {"text": CAPTIONS[0], "top_k": 3}
        answers = [clients.submit(httpx.get, f"{address}/search", params=params, timeout=30) for _ in range(16)]
        while sum(answer.done() for answer in answers) < 10:
            time.sleep(0.01)
        assert httpx.get(f"{address}/healthz").status_code == 200
        slow.gate.set()
        found = [answer.result() for answer in answers]
        assert sorted(answer.status_code for answer in found) == [200] * 6 + [429] * 10
        assert {answer.headers.get("retry-after") for answer in found if answer.status_code == 429} == {"1"}
        assert sum(slow.sizes) == 6
        assert len(slow.sizes) <= 3
        expected = [hit.id for hit in retriever.search(CAPTIONS[0], top_k=3)]
        for answer in found:
            if answer.status_code == 200:
                assert [hit["id"] for hit in answer.json()["hits"]] == expected


def test_a_late_answer_is_504(retriever: TGDTRetriever) -> None:
    slow = SlowRetriever(retriever)
    with serving(slow, timeout=0.2) as address:
        assert httpx.get(f"{address}/search", params={"text": "sea"}, timeout=30).status_code == 504
        slow.gate.set()
        assert httpx.get(f"{address}/search", params={"text": "sea"}, timeout=30).status_code == 200


def test_what_waits_is_answered_at_the_stop(retriever: TGDTRetriever) -> None:
    slow = SlowRetriever(retriever)
    with ThreadPoolExecutor(4) as clients:
        with serving(slow) as address:
            answers = [
                clients.submit(httpx.get, f"{address}/search", params={"text": "sea"}, timeout=30) for _ in "abc"
            ]
            while "tgdt_in_flight 3" not in httpx.get(f"{address}/metrics").text:
                time.sleep(0.01)
            threading.Timer(0.3, slow.gate.set).start()
        assert [answer.result().status_code for answer in answers] == [200] * 3


def test_one_bad_request_does_not_spoil_its_batch(retriever: TGDTRetriever) -> None:
    options = (("top_k", 2),)
    requests = [SearchRequest("sea", options), SearchRequest(object(), options), SearchRequest("dogs", options)]
    good, bad, other = Searcher(retriever)(requests)
    assert good == retriever.search("sea", top_k=2)
    assert other == retriever.search("dogs", top_k=2)
    assert isinstance(bad, Exception)


def test_commits_around_the_start_are_seen_and_a_failed_look_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found() -> int:
        searcher._looked_at = float("-inf")  # a second has passed
        (hits,) = searcher([SearchRequest("sea", (("top_k", 10),))])
        return len(hits)

    writer = tiny_retriever()
    writer.create_index(tmp_path / "g")
    writer.add_images([random_picture(0)], progress=False)
    reader = TGDTRetriever(writer.model, writer.processor, TGDTIndex.open(tmp_path / "g"))
    writer.add_images([random_picture(1)], progress=False)
    searcher = Searcher(reader)
    assert found() == 2
    writer.add_images([random_picture(2)], progress=False)

    def fail() -> bool:
        raise OSError("too many open files")

    with monkeypatch.context() as broken:
        broken.setattr(reader.index, "refresh", fail)
        assert found() == 2  # as it was
    assert found() == 3


class LostStore:
    """An index whose store does not answer, at once or at all."""

    def __init__(self, index: Any, wait: float) -> None:
        self.path, self.settings, self.metadata_types, self.wait = index.path, index.settings, None, wait

    def __len__(self) -> int:
        time.sleep(self.wait)
        raise ConnectionError("Qdrant at http://db did not answer")


@pytest.mark.parametrize(("wait", "why"), [(0, "Qdrant at http://db did not answer"), (3, "within 0.2 seconds")])
def test_health_is_503_while_the_store_is_away_and_the_service_goes_on(
    wait: float, why: str, retriever: TGDTRetriever
) -> None:
    slow = SlowRetriever(retriever)
    slow.index = LostStore(retriever.index, wait)  # type: ignore[assignment]
    with serving(slow, timeout=0.2) as address, ThreadPoolExecutor(1) as clients:
        asked = clients.submit(httpx.get, f"{address}/healthz", timeout=30)
        start = time.monotonic()
        assert httpx.get(f"{address}/openapi.json", timeout=30).status_code == 200
        text = httpx.get(f"{address}/metrics", timeout=30).text
        assert time.monotonic() - start < 2
        assert asked.result().status_code == 503 and why in asked.result().json()["detail"]
        assert "tgdt_in_flight 0" in text and "gallery_items" not in text


def test_the_batcher_takes_cancelled_requests_back() -> None:
    async def story() -> list[Any]:
        gate, seen = threading.Event(), list[Any]()

        def run(items: list[Any]) -> list[Any]:
            gate.wait(5)
            seen.extend(items)
            return items

        batcher = Batcher(run, max_batch=2)
        await batcher.start()
        tasks = [asyncio.create_task(batcher.submit(number)) for number in range(5)]
        await asyncio.sleep(0.05)
        tasks[3].cancel()
        gate.set()
        await batcher.stop()
        assert [await task for number, task in enumerate(tasks) if number != 3] == [0, 1, 2, 4]
        return seen

    assert asyncio.run(story()) == [0, 1, 2, 4]


def test_metrics_count_times_in_buckets() -> None:
    metrics = Metrics()
    for seconds in (0.001, 0.03, 20.0):
        metrics.observe("/search", 200, seconds)
    lines = metrics.render(5).splitlines()
    assert 'tgdt_search_seconds_bucket{le="0.005"} 1' in lines
    assert 'tgdt_search_seconds_bucket{le="10"} 2' in lines
    assert 'tgdt_search_seconds_bucket{le="+Inf"} 3' in lines
    assert json.dumps(lines).count("gallery_items") == 2
