# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Load of the HTTP service on loopback: throughput, p50/p95/p99 and status codes of concurrent clients.

python -m benchmarks.serve_load G --clients 64 --seconds 60
python -m benchmarks.serve_load --address http://127.0.0.1:8000      # a service that runs already
"""

import argparse
import asyncio
import json
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from urllib.parse import quote

import httpx
import numpy as np

TEXTS = [
    "a red ball on a blue box",
    "two dogs run over green grass near the sea",
    "a man reads",
    "sea",
    "a cat sleeps",
]


def main() -> int:
    """Run the load and print one table; exit code 1 when a status other than 200 and 429 was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gallery", nargs="?", help="gallery to serve; or use --address")
    parser.add_argument("--address", help="of a running service")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--max-in-flight", type=int, default=128)
    parser.add_argument("--threads", type=int, help="CPU threads of the model")
    parser.add_argument("--image", type=Path, help="upload this picture in a tenth of the requests")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if (args.gallery is None) == (args.address is None):
        parser.error("expected a gallery or --address, one of the two")
    address, process = (
        (args.address, None) if args.address else start_service(args.gallery, args.max_in_flight, args.threads)
    )
    try:
        wait_until_healthy(address, process)
        statuses, times, elapsed = asyncio.run(load(address, args.clients, args.seconds, args.image))
    finally:
        if process is not None:
            process.terminate()
            process.wait(60)
    result = summary(statuses, times, elapsed, args.clients)
    print(json.dumps(result) if args.json else "\n".join(f"{key:<16}{value}" for key, value in result.items()))
    return 0 if set(statuses) <= {200, 429} else 1


def start_service(gallery: str, max_in_flight: int, threads: int | None = None) -> tuple[str, subprocess.Popen[bytes]]:
    """Start `tgdt serve` on a free port of loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "trainer.cli", "--quiet", "serve", gallery, "--port", str(port)]
    command += ["--max-in-flight", str(max_in_flight)] + ([] if threads is None else ["--threads", str(threads)])
    process = subprocess.Popen(command)
    return f"http://127.0.0.1:{port}", process


def wait_until_healthy(address: str, process: subprocess.Popen[bytes] | None, seconds: float = 120.0) -> None:
    """Wait for the service to answer."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"the service ended with exit code {process.returncode}")
        try:
            httpx.get(f"{address}/healthz").raise_for_status()
            return
        except httpx.HTTPError:
            time.sleep(0.2)
    raise RuntimeError(f"no service answers at {address}")


class Connection:
    """One kept-alive HTTP connection, as light as possible: the load must not take the service's processor."""

    def __init__(self, address: str) -> None:
        self.host, port = address.removeprefix("http://").split(":")
        self.port = int(port)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> int:
        """Send a request, read the answer, return its status; 0 when the connection broke."""
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection(self.host, self.port)
            reader, writer = self._streams
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            if b"connection: close" in head:
                self.close()
            return int(head.split(b" ", 2)[1])
        except (OSError, ValueError, EOFError, asyncio.LimitOverrunError):
            self.close()
            return 0

    def close(self) -> None:
        """Hang up; the next request connects anew."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def load(
    address: str, clients: int, seconds: float, image: Path | None
) -> tuple[Counter[int], list[float], float]:
    """Let clients ask without pause; return status counts, seconds of every 200, and the time it all took."""
    statuses: Counter[int] = Counter()
    times: list[float] = []
    words = [f"GET /search?text={quote(text)} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode() for text in TEXTS]
    picture = None if image is None else upload(image.read_bytes())
    start = time.monotonic()

    async def client(number: int) -> None:
        chance, connection = random.Random(number), Connection(address)
        while time.monotonic() < start + seconds:
            began = time.monotonic()
            with_picture = picture is not None and chance.random() < 0.1
            status = await connection.ask(picture if with_picture and picture else chance.choice(words))
            statuses[status] += 1
            if status == 200:
                times.append(time.monotonic() - began)
            else:
                await asyncio.sleep(0.05)
        connection.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    return statuses, times, time.monotonic() - start


def upload(data: bytes) -> bytes:
    """Return a whole request that uploads a picture."""
    body = b'--b\r\ncontent-disposition: form-data; name="image"; filename="x"\r\n\r\n' + data + b"\r\n--b--\r\n"
    head = "POST /search HTTP/1.1\r\nhost: localhost\r\ncontent-type: multipart/form-data; boundary=b\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def summary(statuses: Counter[int], times: list[float], elapsed: float, clients: int) -> dict[str, object]:
    """Return what is printed; status 0 is a broken connection."""
    p50, p95, p99 = np.percentile(np.array(times or [np.nan]) * 1000, [50, 95, 99])
    return {
        "clients": clients,
        "seconds": round(elapsed, 1),
        "answers_per_s": round(statuses[200] / elapsed, 1),
        "p50_ms": round(float(p50), 1),
        "p95_ms": round(float(p95), 1),
        "p99_ms": round(float(p99), 1),
        "statuses": dict(sorted(statuses.items())),
    }


if __name__ == "__main__":
    sys.exit(main())
