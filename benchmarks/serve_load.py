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

import httpx
import numpy as np

_TEXTS = [
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
    parser.add_argument("--image", type=Path, help="upload this picture in a tenth of the requests")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if (args.gallery is None) == (args.address is None):
        parser.error("expected a gallery or --address, one of the two")
    address, process = (args.address, None) if args.address else start_service(args.gallery, args.max_in_flight)
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


def start_service(gallery: str, max_in_flight: int) -> tuple[str, subprocess.Popen[bytes]]:
    """Start `tgdt serve` on a free port of loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "trainer.cli", "--quiet", "serve", gallery, "--port", str(port)]
    process = subprocess.Popen([*command, "--max-in-flight", str(max_in_flight)])
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


async def load(
    address: str, clients: int, seconds: float, image: Path | None
) -> tuple[Counter[int], list[float], float]:
    """Let clients ask without pause; return status counts, seconds of every 200, and the time it all took."""
    statuses: Counter[int] = Counter()
    times: list[float] = []
    picture = None if image is None else image.read_bytes()
    start = time.monotonic()

    async def client(number: int) -> None:
        chance = random.Random(number)
        async with httpx.AsyncClient(timeout=60) as session:
            while time.monotonic() < start + seconds:
                began = time.monotonic()
                try:
                    if picture is not None and chance.random() < 0.1:
                        answer = await session.post(f"{address}/search", files={"image": ("x", picture)})
                    else:
                        answer = await session.get(f"{address}/search", params={"text": chance.choice(_TEXTS)})
                    status = answer.status_code
                except httpx.HTTPError:
                    status = 0
                statuses[status] += 1
                if status == 200:
                    times.append(time.monotonic() - began)
                elif status == 429:
                    await asyncio.sleep(0.05)

    await asyncio.gather(*(client(number) for number in range(clients)))
    return statuses, times, time.monotonic() - start


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
