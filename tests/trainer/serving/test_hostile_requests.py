# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""What strangers may send to the service: it costs them a refusal, and nobody else an answer."""

import asyncio
import errno
import io
import json
import math
import os
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from modeling_tgdt.index_tgdt import TGDTIndex
from modeling_tgdt.retrieval_tgdt import TGDTRetriever
from tests.tiny_retrieval import encoded, random_picture, tiny_retriever
from trainer.serving.batching import Searcher, SearchRequest
from trainer.serving.guard import Guard, Metrics

httpx = pytest.importorskip("httpx")
pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")
pytest.importorskip("python_multipart")
from fastapi import FastAPI, UploadFile  # noqa: E402

from tests.trainer.serving.running import connect, raw, serving, upload  # noqa: E402
from trainer.serving.service import ServeLimits, Service  # noqa: E402

HEAD = (
    b"POST /search HTTP/1.1\r\nhost: x\r\ncontent-type: multipart/form-data; boundary=b\r\ncontent-length: 900\r\n\r\n"
)
WORDS = {"text": "sea", "top_k": 1}


@pytest.fixture(scope="module")
def retriever() -> TGDTRetriever:
    made = tiny_retriever()
    values = [{"year": 2000.0 + number if number else math.nan} for number in range(6)]
    made.add_images([random_picture(seed) for seed in range(6)], metadata=values, progress=False)
    return made


@pytest.fixture(scope="module")
def address(retriever: TGDTRetriever) -> Iterator[str]:
    with serving(retriever, ("localhost", "127.0.0.1"), max_in_flight=4, header_timeout=1.0, timeout=3) as found:
        yield found


def test_connections_that_send_nothing_hold_up_nobody(address: str) -> None:
    """There is room for 32 connections; 70 wait, half of them after a first byte."""
    with ExitStack() as open_ones:
        idle = [open_ones.enter_context(connect(address)) for _ in range(70)]
        for connection in idle[::2]:
            try:
                connection.sendall(b"G")
            except ConnectionError:
                continue  # closed for the next one
        for _ in range(5):
            assert httpx.get(f"{address}/search", params=WORDS).status_code == 200


def test_a_header_has_a_time_limit(address: str) -> None:
    """A byte now and then does not stretch it."""
    with connect(address, wait=0.1) as connection:
        start, closed = time.monotonic(), False
        while not closed and time.monotonic() - start < 15:
            try:
                connection.sendall(b"G")
                closed = connection.recv(1) == b""
            except TimeoutError:
                continue
            except ConnectionError:
                closed = True
        assert closed
    with httpx.Client() as client:  # a connection that is used goes on
        for _ in range(3):
            assert client.get(f"{address}/search", params=WORDS).status_code == 200


def test_bodies_that_stop_half_way_take_nobodys_place(address: str) -> None:
    with ExitStack() as open_ones:
        for _ in range(20):
            open_ones.enter_context(connect(address)).sendall(HEAD + b"--b\r\n")
        for _ in range(5):
            assert httpx.get(f"{address}/search", params=WORDS).status_code == 200
        assert upload(address, encoded(random_picture(3)), top_k=1).status_code == 200
        assert "tgdt_in_flight 0" in httpx.get(f"{address}/metrics").text


@pytest.mark.parametrize("host", ["evil.example.com", "localhost.example.com", "127.0.0.1.example.com", ""])
def test_other_names_of_this_machine_are_refused(address: str, host: str) -> None:
    assert httpx.get(f"{address}/search", params=WORDS, headers={"host": host}).status_code == 400
    assert httpx.get(f"{address}/search", params=WORDS, headers={"host": "localhost:80"}).status_code == 200


@pytest.mark.parametrize(
    ("params", "why"),
    [
        ({"text": "sea", "topk": 5}, "unknown query parameter 'topk'"),
        ({"text": "sea", "Top_k": 5}, "'Top_k'"),
        ({"text": "   "}, "pattern"),
        ({"text": "\n\t\u2003"}, "pattern"),
    ],
)
def test_what_would_be_ignored_is_refused_by_name(address: str, params: dict[str, Any], why: str) -> None:
    answer = httpx.get(f"{address}/search", params=params)
    assert answer.status_code == 422 and why in answer.text
    assert upload(address, encoded(random_picture(3)), text="sea").status_code == 422


@pytest.mark.parametrize("value", ["99999999999999999999", "1e300", "NaN", "-1e999"])
def test_any_number_in_a_filter_has_an_answer(address: str, value: str) -> None:
    answer = httpx.get(f"{address}/search", params={**WORDS, "where": f'{{"year": {value}}}'})
    assert answer.status_code in (200, 400)


def test_metadata_of_any_number_is_answered(address: str) -> None:
    answer = httpx.get(f"{address}/search", params={"text": "sea", "top_k": 6})
    assert answer.status_code == 200
    assert {hit["metadata"]["year"] for hit in answer.json()["hits"]} >= {None, 2001.0}


def scan_bomb(scans: int) -> bytes:
    """Return a progressive JPEG with a scan repeated; each costs a pass over the picture."""
    data = encoded(random_picture(0, (64, 64)), "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    return data[:start] + data[start:-2] * scans + b"\xff\xd9"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (scan_bomb(40_000), "more than 100 scans"),
        (encoded(Image.new("1", (1, 100_000))), "more than 65535 on a side"),
        (encoded(Image.new("1", (10_000, 9_000))), "10000 x 9000 pixels"),
    ],
    ids=["scans", "side", "pixels"],
)
def test_costly_pictures_are_refused_at_once(address: str, data: bytes, why: str) -> None:
    answer = upload(address, data)
    assert answer.status_code == 400 and why in answer.json()["detail"]


def scope_of(client: str) -> dict[str, Any]:
    return {"type": "http", "path": "/search", "headers": [], "client": (client, 1)}


def test_a_client_has_half_of_the_places() -> None:
    """Its next search is refused, that of another client is not; a place that is given back is free again."""

    async def run() -> list[int]:
        gate, statuses = asyncio.Event(), list[int]()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await gate.wait()
            await send({"type": "http.response.start", "status": 200})

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        guard = Guard(app, Metrics(), max_in_flight=4, max_per_client=2, max_body=1, body_timeout=1)
        asked = [asyncio.create_task(guard(scope_of(name), None, send)) for name in "aaabbbc"]  # type: ignore[arg-type]
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(*asked)
        await guard(scope_of("a"), None, send)  # type: ignore[arg-type]
        assert guard.metrics.in_flight == 0 and not guard._own
        return statuses

    assert asyncio.run(run()) == [429, 429, 429, 200, 200, 200, 200, 200]


def test_uploads_of_one_client_leave_a_decoder_to_the_others(retriever: TGDTRetriever) -> None:
    """Three uploads of a client whose first one is decoded for long; somebody else's is decoded meanwhile."""
    gate, first, second = threading.Event(), encoded(random_picture(3, (8, 8))), encoded(random_picture(3, (9, 9)))

    class Slow:
        index = retriever.index

        def prepare_image(self, picture: Any) -> Any:
            if picture.size == (8, 8):
                gate.wait(20)
            return "prepared"

    async def run() -> Any:
        service = Service(Slow(), ServeLimits(timeout=20, decoders=2))
        async with service.lifespan(FastAPI()):
            slow = [asyncio.create_task(service.prepare(UploadFile(io.BytesIO(first)), "a")) for _ in range(3)]
            await asyncio.sleep(0)
            found = await service.prepare(UploadFile(io.BytesIO(second)), "b")
            assert not any(task.done() for task in slow)
            gate.set()
            return [found, *await asyncio.gather(*slow)]

    assert asyncio.run(run()) == ["prepared"] * 4


def test_no_scripts_of_a_third_party(address: str) -> None:
    assert [httpx.get(address + path).status_code for path in ("/docs", "/redoc")] == [404, 404]


def test_no_room_for_an_upload_is_507(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    def full(own: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", full)
    answer = upload(address, bytes(3 << 20))
    assert answer.status_code == 507 and "No space left on device" in answer.json()["detail"]


def test_a_gallery_that_goes_away_is_searched_as_it_was(tmp_path: Path) -> None:
    writer = tiny_retriever()
    writer.create_index(tmp_path / "g")
    writer.add_images([random_picture(0)], progress=False)
    searcher = Searcher(TGDTRetriever(writer.model, writer.processor, TGDTIndex.open(tmp_path / "g")))

    def found() -> int:
        searcher._looked_at = float("-inf")  # a second has passed
        (hits,) = searcher([SearchRequest("sea", (("top_k", 10),))])
        return len(hits)

    times = (tmp_path / "g" / "manifest.json").stat()
    writer.add_images([random_picture(1)], progress=False)
    os.utime(tmp_path / "g" / "manifest.json", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert found() == 2  # a commit of the same time
    shutil.rmtree(tmp_path / "g")
    assert found() == 2
    TGDTIndex.create(tmp_path / "g", dim=4)
    assert found() == 2  # another gallery in its place
    (tmp_path / "g" / "manifest.json").write_text(json.dumps({}))
    assert found() == 2


def test_strange_requests_at_once_change_no_answer(address: str) -> None:
    expected = httpx.get(f"{address}/search", params=WORDS).json()
    strange = [b"", b"\x00" * 100, HEAD, HEAD + b"--b--", b"GET /search?text=%ff HTTP/1.1\r\nhost: x\r\n\r\n"]
    with ThreadPoolExecutor(5) as clients:
        sent = [clients.submit(raw, address, request, 1.0) for request in strange]
        assert httpx.get(f"{address}/search", params=WORDS).json() == expected
        for answer in sent:
            assert answer.exception() is None or isinstance(answer.exception(), TimeoutError)
