# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Uploads are decoded in processes of their own: one that takes too long, or crashes, is ended and replaced.

This file is the program of such a process, too. It loads the code that reads pictures without the rest of the package,
so that it starts in a fraction of a second.
"""

import contextlib
import importlib.util
import json
import math
import runpy
import subprocess
import sys
import threading
import time
from queue import SimpleQueue
from typing import IO, Any, cast

from PIL import Image

_READING = "modeling_tgdt.image_loading_tgdt"
_LENGTH = 8  # bytes, before each message
DECODE_SECONDS = 10.0  # for one picture, where nothing else is said


class Decoders:
    """Decodes pictures in processes, each in bounded time; safe to call from any thread.

    Args:
        count: Processes; they start when they are needed.
        seconds: For one picture; the process is ended then.
        max_pixels: See `read_picture`.
    """

    def __init__(self, count: int, seconds: float, max_pixels: int | None = None) -> None:
        self._decoders = [_Decoder(seconds, max_pixels) for _ in range(count)]
        self._idle = SimpleQueue[_Decoder]()
        for decoder in self._decoders:
            self._idle.put(decoder)

    def __call__(self, data: bytes) -> Image.Image:
        """Return an encoded picture as RGB, upright.

        Raises:
            ValueError: When it cannot be read, took too long, or ended its process.
        """
        decoder = self._idle.get()
        try:
            return decoder.decode(data)
        finally:
            self._idle.put(decoder)

    def close(self) -> None:
        """End all processes, also those that decode; no picture is decoded afterwards."""
        for decoder in self._decoders:
            decoder.kill()
        idle = [self._idle.get() for _ in self._decoders]
        for decoder in idle:
            decoder.end()
            self._idle.put(decoder)


class _Decoder:
    """One process; used by one thread at a time, killed from any."""

    def __init__(self, seconds: float, max_pixels: int | None) -> None:
        self.seconds, self.max_pixels = seconds, max_pixels
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    def decode(self, data: bytes) -> Image.Image:
        start = math.inf
        try:
            process = self._running() or self._start()
            start = time.monotonic()
            answer, pixels = self._ask(process, data)
        except (OSError, EOFError):
            late = time.monotonic() - start >= self.seconds
            self.end()
            why = f"was not decoded within {self.seconds:g} seconds" if late else "ended the process that decoded it"
            raise ValueError(f"the picture {why}") from None
        if "error" in answer:
            raise ValueError(answer["error"])
        return Image.frombytes("RGB", tuple(answer["size"]), pixels)

    def _ask(self, process: subprocess.Popen[bytes], data: bytes) -> tuple[dict[str, Any], bytes]:
        timer = threading.Timer(self.seconds, _kill, [process])
        timer.start()
        try:
            _write(cast(IO[bytes], process.stdin), data)
            answered = cast(IO[bytes], process.stdout)
            return json.loads(_read(answered)), _read(answered)
        finally:
            timer.cancel()
            timer.join()  # from here on it kills nothing, and whether it did is known to `_running`

    def _running(self) -> subprocess.Popen[bytes] | None:
        """Return the process; None when there is none, or it ended while it was idle, or in time to answer."""
        if self._process is not None and self._process.poll() is not None:
            self.end()
        return self._process

    def kill(self) -> None:
        self._closed = True
        if self._process is not None:
            self._process.kill()

    def end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            with contextlib.suppress(BrokenPipeError):  # what it did not take any more
                process.communicate()

    def _start(self) -> subprocess.Popen[bytes]:
        reading = importlib.util.find_spec(_READING)
        settings = {
            "reading": reading and reading.origin,
            "limit": Image.MAX_IMAGE_PIXELS,
            "max_pixels": self.max_pixels,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # an interrupt from the terminal is for the service alone
        )
        if self._closed:
            self._process.kill()
        _read(cast(IO[bytes], self._process.stdout))  # it is ready; only pictures take of their time
        return self._process


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _write(pipe: IO[bytes], message: bytes) -> None:
    pipe.write(len(message).to_bytes(_LENGTH, "big"))
    pipe.write(message)
    pipe.flush()


def _read(pipe: IO[bytes]) -> bytes:
    return _exactly(pipe, int.from_bytes(_exactly(pipe, _LENGTH), "big"))


def _exactly(pipe: IO[bytes], count: int) -> bytes:
    data = pipe.read(count)
    if len(data) < count:
        raise EOFError
    return data


def _serve(settings: dict[str, Any]) -> None:
    """Decode what comes on standard input, until it ends."""
    Image.MAX_IMAGE_PIXELS = settings["limit"]
    reading = runpy.run_path(settings["reading"])
    with contextlib.suppress(EOFError, BrokenPipeError):
        _write(sys.stdout.buffer, b"")
        while True:
            data, pixels = _read(sys.stdin.buffer), b""
            try:
                picture = reading["rgb_picture"](reading["read_picture"](data, max_pixels=settings["max_pixels"]))
                answer, pixels = {"size": picture.size}, picture.tobytes()
            except Exception as error:  # whatever it is, it is the answer
                answer = {"error": str(error)}
            _write(sys.stdout.buffer, json.dumps(answer).encode())
            _write(sys.stdout.buffer, pixels)


if __name__ == "__main__":
    _serve(json.loads(sys.argv[1]))
