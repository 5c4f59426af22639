# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Malformed and oversized requests against `tgdt serve`: the status of each kind, and what the service's memory does.

python -m benchmarks.serve_hostile G --rounds 20
"""

import argparse
import asyncio
import sys
import zlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from benchmarks.serve_load import start_service, upload, wait_until_healthy

_MIB = 1 << 20
_HEAD = b"POST /search HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: multipart/form-data; boundary=b\r\n"


def png(side: int, text: bytes = b"") -> bytes:
    """Return a PNG whose header claims `side` x `side` RGB pixels, with a compressed text."""
    chunks = {
        b"IHDR": side.to_bytes(4, "big") * 2 + b"\x08\x02\x00\x00\x00",
        b"zTXt": b"x\x00\x00" + zlib.compress(text, 9),
        b"IDAT": zlib.compress(bytes(100)),
    }
    parts = [
        len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")
        for kind, body in chunks.items()
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def attacks() -> dict[str, Iterable[bytes]]:
    """Return one request of each kind, as blocks of bytes."""
    chunk = f"{_MIB:x}\r\n".encode() + bytes(_MIB) + b"\r\n"
    header = b"GET /search?text=sea HTTP/1.1\r\nhost: 127.0.0.1\r\nx: "
    return {
        "not a picture": [upload(b"this is not a picture" * 1000)],
        "0 bytes": [upload(b"")],
        "PNG of 60000 x 60000 pixels": [upload(png(60_000))],
        "PNG with a text of 500 MB": [upload(png(64, bytes(500_000_000)))],
        "declared body of 1 GB": [_HEAD + b"content-length: 1000000000\r\n\r\n"],
        "header of 1 GB": [header, *[b"a" * _MIB] * 1000],
        "chunked body of 1 GB": [_HEAD + b"transfer-encoding: chunked\r\n\r\n", *[chunk] * 1000],
        "no multipart": [_HEAD + b"content-length: 5\r\n\r\nhello"],
        "100,000 form fields": [_many_parts()],
        "filter nested 20,000 deep": [_filter("[" * 20_000)],
    }


def _many_parts() -> bytes:
    body = b"".join(b'--b\r\ncontent-disposition: form-data; name="x%d"\r\n\r\n1\r\n' % n for n in range(100_000))
    return _HEAD + b"content-length: %d\r\n\r\n" % (len(body) + 7) + body + b"--b--\r\n"


def _filter(text: str) -> bytes:
    return f"GET /search?text=sea&where={text} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode()


async def send(address: str, blocks: Iterable[bytes]) -> str:
    """Send a request and return the status, or "cut off" when the service hung up without one."""
    host, port = address.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    answer = asyncio.create_task(reader.readline())
    try:
        for data in blocks:
            writer.write(data)
            await writer.drain()
            if answer.done():
                break
        return (await asyncio.wait_for(answer, 60)).decode().split(" ")[1]
    except (ConnectionError, IndexError):
        (line,) = await asyncio.gather(answer, return_exceptions=True)
        return line.decode().split(" ")[1] if isinstance(line, bytes) and line else "cut off"
    finally:
        writer.close()


def memory_mib(pid: int, field: str) -> float:
    """A field of /proc/PID/status in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field + ":"))


async def attack(address: str, pid: int, rounds: int, together: int) -> bool:
    """Send every kind of request `rounds` times; print statuses and memory; return whether all were refused."""
    refused = True
    for name, blocks in attacks().items():
        before, peak, statuses = memory_mib(pid, "RssAnon"), memory_mib(pid, "VmHWM"), Counter[str]()
        for start in range(0, rounds, together):
            count = min(together, rounds - start)
            statuses.update(await asyncio.gather(*(send(address, blocks) for _ in range(count))))
        after, highest = memory_mib(pid, "RssAnon") - before, memory_mib(pid, "VmHWM") - peak
        refused &= all(status.startswith("4") or status == "cut off" for status in statuses)
        print(f"{name:<36}{dict(statuses)!s:<26} memory {after:>+7.1f} MiB, peak {highest:>+7.1f} MiB", flush=True)
    return refused


def main() -> int:
    """Start the service and attack it; exit code 1 when anything was accepted or failed inside."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gallery")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--together", type=int, default=4, help="requests at a time")
    args = parser.parse_args()
    address, process = start_service(args.gallery, 128, 1)
    try:
        wait_until_healthy(address, process)
        asyncio.run(send(address, [_filter("{}")]))  # warm
        refused = asyncio.run(attack(address, process.pid, args.rounds, args.together))
        wait_until_healthy(address, process)
    finally:
        process.terminate()
        process.wait(60)
    return 0 if refused else 1


if __name__ == "__main__":
    sys.exit(main())
