# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Concurrent queries answered together: while one batch runs, the next one gathers."""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

logger = logging.getLogger(__name__)

_REFRESH_SECONDS = 1.0


@dataclass(frozen=True)
class SearchRequest:
    """One query and its options; requests of equal options are searched in one call."""

    query: Any
    options: tuple[tuple[str, Any], ...]
    where: Any = None


class Searcher:
    """Runs batches of requests on a retriever. Used by one thread at a time.

    Args:
        retriever: TGDTRetriever with a gallery; what a writer commits meanwhile is picked up within a second.
    """

    def __init__(self, retriever: Any) -> None:
        self.retriever = retriever
        self._looked_at = 0.0
        self._lost = False  # whether the last look failed

    def __call__(self, requests: Sequence[SearchRequest]) -> list[Any]:
        """Return for each request its hits, or the exception that it alone caused."""
        self._refresh()
        groups: dict[Any, list[int]] = defaultdict(list)
        for number, request in enumerate(requests):
            groups[request.options, repr(request.where)].append(number)
        answers: list[Any] = [None] * len(requests)
        for numbers in groups.values():
            for number, answer in zip(numbers, self._search([requests[n] for n in numbers]), strict=True):
                answers[number] = answer
        return answers

    def _refresh(self) -> None:
        if time.monotonic() - self._looked_at < _REFRESH_SECONDS:
            return
        self._looked_at = time.monotonic()
        try:
            self.retriever.index.refresh()
            self._lost = False
        except (OSError, ValueError) as error:  # removed, replaced or damaged: what is mapped stays whole
            if not self._lost:
                logger.warning("The gallery is searched as it was: %s", error)
            self._lost = True

    def _search(self, requests: list[SearchRequest]) -> list[Any]:
        first = requests[0]
        try:
            return self.retriever.search([r.query for r in requests], where=first.where, **dict(first.options))
        except Exception as error:  # whatever it is, it is the answer to that request and must not stop the service
            if len(requests) == 1:
                return [error]
        return [answer for request in requests for answer in self._search([request])]


class Batcher:
    """Gathers requests from many tasks and hands them in batches to one worker thread.

    Args:
        run: Takes a list of requests, returns as many answers; an exception among them is raised to its requester.
        max_batch: Largest batch.
        observe: Called with the size of every batch.
    """

    def __init__(
        self,
        run: Callable[[list[Any]], list[Any]],
        max_batch: int = 32,
        observe: Callable[[int], None] = lambda size: None,
    ) -> None:
        if max_batch < 1:
            raise ValueError(f"max_batch must be at least 1, found {max_batch}.")
        self.run, self.max_batch, self.observe = run, max_batch, observe
        self._queue: asyncio.Queue[tuple[Any, asyncio.Future[Any]] | None] = asyncio.Queue()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="tgdt-search")
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to answer."""
        self._task = asyncio.create_task(self._loop())

    async def stop(self) -> None:
        """Answer what is waiting, then end."""
        if self._task is not None:
            self._queue.put_nowait(None)
            await self._task
        self._worker.shutdown()

    async def submit(self, request: Any) -> Any:
        """Wait for the answer to one request; a cancelled wait takes the request back."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((request, future))
        return await future

    async def _loop(self) -> None:
        stopping = False
        while not stopping:
            waiting = [await self._queue.get()]
            while not self._queue.empty() and len(waiting) < self.max_batch:
                waiting.append(self._queue.get_nowait())
            stopping = None in waiting
            batch = [entry for entry in waiting if entry is not None and not entry[1].done()]
            if batch:
                await self._answer(batch)

    async def _answer(self, batch: list[tuple[Any, asyncio.Future[Any]]]) -> None:
        self.observe(len(batch))
        requests = [request for request, _ in batch]
        try:
            answers = await asyncio.get_running_loop().run_in_executor(self._worker, self.run, requests)
        except Exception as error:
            answers = [error] * len(batch)
        for (_, future), answer in zip(batch, answers, strict=True):
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
