# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Normal searches of `tgdt serve` while another client attacks it, and without: p50, p99 and what is refused.

python -m benchmarks.serve_attacked G --seconds 30        # G of `benchmarks.serve_gallery`

The attack, from another loopback address, all at once: headers and bodies of a byte a second, JPEGs of 40,000 scans,
GIFs that take Pillow minutes, and uploads of 15 MB, each sent again as soon as it is answered or cut off.
"""

import argparse
import asyncio
import contextlib
import io
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image

from benchmarks.serve_load import TEXTS, Connection, start_service, upload, wait_until_healthy

_ATTACKER = ("127.0.0.2", 0)
_SLOW = 40  # connections of each slow kind
_LOOPS = 2  # clients of each costly kind


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    """Return the file of a picture."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def costly_pictures() -> list[bytes]:
    """Return a picture of each costly kind."""
    scans = encoded(Image.effect_noise((64, 64), 90), "JPEG", progressive=True)
    last = scans[scans.rindex(b"\xff\xda") : -2]
    gif = encoded(Image.new("L", (8, 8)), "GIF")
    start = gif.index(b"\x2c", 13 + 3 * (2 << (gif[10] & 7)))
    comment = b"\x21\xfe" + (b"\xff" + bytes(255)) * 48_000 + b"\x00"
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (2200, 2200, 3), dtype=np.uint8))
    return [scans[:-2] + last * 40_000 + b"\xff\xd9", gif[:start] + comment + gif[start:], encoded(noise, "PNG")]


async def trickle(host: str, port: int, start: bytes) -> None:
    """Send the start of a request and then a byte a second, until cut off."""
    _, writer = await asyncio.open_connection(host, port, local_addr=_ATTACKER)
    try:
        writer.write(start)
        while True:
            await asyncio.sleep(1)
            writer.write(b"a")
            await writer.drain()
    finally:
        writer.close()


async def send(host: str, port: int, request: bytes) -> None:
    """Send a whole request and read the answer."""
    reader, writer = await asyncio.open_connection(host, port, local_addr=_ATTACKER)
    try:
        writer.write(request)
        await writer.drain()
        await asyncio.wait_for(reader.read(1 << 16), 60)
    finally:
        writer.close()


async def again(attack: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Repeat an attack for ever."""
    while True:
        with contextlib.suppress(OSError, TimeoutError):
            await attack()
        await asyncio.sleep(0.05)


def attackers(address: str) -> list[asyncio.Task[None]]:
    """Start the attack."""
    host, port = address.removeprefix("http://").split(":")
    head = b"POST /search HTTP/1.1\r\nhost: localhost\r\n"
    body = head + b"content-type: multipart/form-data; boundary=b\r\ncontent-length: 9000\r\n\r\n--b\r\n"
    attacks = [lambda s=start: trickle(host, int(port), s) for start in [head, body] * _SLOW]
    attacks += [lambda p=picture: send(host, int(port), upload(p)) for picture in costly_pictures() * _LOOPS]
    return [asyncio.create_task(again(attack)) for attack in attacks]


async def normal(address: str, rate: float, seconds: float) -> dict[str, list[tuple[int, float]]]:
    """Search `rate` times a second, each tenth time with a picture; return status and seconds of each by kind."""
    found: dict[str, list[tuple[int, float]]] = defaultdict(list)
    picture = upload(encoded(Image.effect_noise((640, 480), 90).convert("RGB"), "JPEG"))

    async def search(kind: str, request: bytes, due: float) -> None:
        await asyncio.sleep(due - time.monotonic())
        connection = Connection(address)
        status = await connection.ask(request)
        found[kind].append((status, time.monotonic() - due))
        connection.close()

    start, searches = time.monotonic() + 0.1, []
    for number in range(round(rate * seconds)):
        words = f"GET /search?text={quote(TEXTS[number % len(TEXTS)])} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()
        kind, request = ("picture", picture) if number % 10 == 0 else ("words", words)
        searches.append(search(kind, request, start + number / rate))
    await asyncio.gather(*searches)
    return found


async def compare(address: str, rate: float, seconds: float) -> int:
    """Print the table; return how many normal searches were refused."""
    print("| attack | query | searches | p50 | p99 | refused |\n|---|---|---:|---:|---:|---:|", flush=True)
    refused = 0
    await normal(address, rate, 3)  # warm
    for attack in ("no", "yes"):
        tasks = attackers(address) if attack == "yes" else []
        await asyncio.sleep(5 if tasks else 0)  # until it is under way
        for kind, answers in (await normal(address, rate, seconds)).items():
            failed = sum(status != 200 for status, _ in answers)
            p50, p99 = np.percentile([took * 1000 for _, took in answers], [50, 99])
            print(f"| {attack} | {kind} | {len(answers)} | {p50:.0f} ms | {p99:.0f} ms | {failed} |", flush=True)
            refused += failed
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return refused


def main() -> int:
    """Run it; exit code 1 when a normal search was refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gallery")
    parser.add_argument("--rate", type=float, default=5.0, help="normal searches a second")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each half")
    args = parser.parse_args()
    address, process = start_service(args.gallery, 128, 1)
    try:
        wait_until_healthy(address, process)
        refused = asyncio.run(compare(address, args.rate, args.seconds))
    finally:
        start = time.monotonic()
        process.terminate()
        process.wait(60)
    print(f"SIGTERM ended it after {time.monotonic() - start:.1f} s.")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
