# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Pictures of strangers are decoded in processes that end: in time, and with the service."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from PIL import Image

from modeling_tgdt.image_loading_tgdt import read_picture, rgb_picture
from tests.tiny_retrieval import encoded, random_picture, tiny_retriever
from trainer.serving.decoding import Decoders


def slow_picture() -> bytes:
    """Return a GIF of 8 x 8 pixels with a comment of 12 MB, which Pillow joins block by block: minutes."""
    data = encoded(Image.new("P", (8, 8)), "GIF")
    start = data.index(b"\x2c", 13 + 3 * (2 << (data[10] & 7) if data[10] & 0x80 else 0))
    return data[:start] + b"\x21\xfe" + (b"\xff" + bytes(255)) * 48_000 + b"\x00" + data[start:]


def sideways(size: tuple[int, int] = (9, 5)) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(random_picture(1, size), "JPEG", exif=exif)


@pytest.fixture(scope="module")
def decoders() -> Iterator[Decoders]:
    with closing(Decoders(1, 30, max_pixels=100_000)) as made:
        yield made


@pytest.mark.parametrize(
    "data",
    [
        sideways(),
        encoded(Image.new("LA", (3, 4), (0, 128))),
        encoded(Image.new("I;16", (3, 4), 30_000)),
        encoded(random_picture(2, (300, 300))),
    ],
    ids=["sideways", "transparent", "16 bits", "larger than a pipe"],
)
def test_a_process_decodes_as_this_one(decoders: Decoders, data: bytes) -> None:
    expected = rgb_picture(read_picture(data))
    found = decoders(data)
    assert (found.mode, found.size, found.tobytes()) == ("RGB", expected.size, expected.tobytes())


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "0 bytes"),
        (b"x" * 100_000, "expected one of the formats"),
        (encoded(Image.new("1", (400, 300))), "400 x 300 pixels"),
    ],
)
def test_a_refusal_gives_the_reason_and_the_process_goes_on(decoders: Decoders, data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        decoders(data)
    assert decoders(sideways()).size == (5, 9)


def test_a_picture_that_takes_too_long_is_ended_and_the_next_one_decoded() -> None:
    with closing(Decoders(1, 2.0)) as decoders:
        with pytest.raises(ValueError, match="not decoded within 2 seconds"):
            decoders(slow_picture())
        assert decoders(sideways()).size == (5, 9)


def test_a_process_that_dies_is_replaced() -> None:
    with closing(Decoders(1, 30)) as decoders:
        assert decoders(sideways()).size == (5, 9)
        (decoder,) = decoders._decoders
        assert decoder._process is not None
        decoder._process.kill()
        decoder._process.wait()
        with pytest.raises(ValueError, match="ended the process"):
            decoders(sideways())
        assert decoders(sideways()).size == (5, 9)


def test_closing_ends_what_is_decoded() -> None:
    decoders, ended = Decoders(1, 600), list[str]()

    def decode() -> None:
        try:
            decoders(slow_picture())
        except ValueError as error:
            ended.append(str(error))

    thread = threading.Thread(target=decode)
    thread.start()
    (decoder,) = decoders._decoders
    while decoder._process is None:
        time.sleep(0.01)
    process = decoder._process
    decoders.close()
    thread.join(30)
    assert ended and process.returncode is not None
    with pytest.raises(ValueError, match="ended the process"):
        decoders(sideways())


def test_the_service_answers_others_while_a_picture_takes_too_long() -> None:
    pytest.importorskip("fastapi")
    from tests.trainer.serving.running import serving, upload

    retriever = tiny_retriever()
    retriever.add_images([random_picture(seed) for seed in range(3)], progress=False)
    with serving(retriever, decoders=1, decode_timeout=2.0) as address:
        answer = upload(address, slow_picture())
        assert answer.status_code == 400 and "not decoded within 2 seconds" in answer.json()["detail"]
        hits = upload(address, sideways((32, 24)), top_k=3).json()["hits"]
    (expected,) = retriever.search([sideways((32, 24))], top_k=3)
    assert [hit["id"] for hit in hits] == [hit.id for hit in expected]


def test_the_service_ends_while_a_picture_is_decoded() -> None:
    """Its search was given up after a second; leaving `serving` is what SIGTERM does."""
    pytest.importorskip("fastapi")
    from tests.trainer.serving.running import serving, upload

    retriever = tiny_retriever()
    retriever.add_images([random_picture(0)], progress=False)
    with serving(retriever, decoders=1, decode_timeout=600.0, timeout=1.0) as address:
        assert upload(address, slow_picture()).status_code == 504
        (thread,) = (thread for thread in threading.enumerate() if thread.name.startswith("tgdt-decode"))
        assert thread.is_alive()
    thread.join(30)
    assert not thread.is_alive()
