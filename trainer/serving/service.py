# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""The HTTP service over a gallery: `/search`, `/healthz`, `/metrics`."""

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast
from weakref import WeakValueDictionary

from fastapi import Depends, FastAPI, File, HTTPException, Query, Request, Response, UploadFile
from fastapi.exception_handlers import http_exception_handler
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from modeling_tgdt.gallery.filters import parse_filter
from modeling_tgdt.gallery.metadata import json_value
from trainer.serving.batching import Batcher, Searcher, SearchRequest
from trainer.serving.decoding import DECODE_SECONDS, Decoders
from trainer.serving.guard import Guard, Metrics, client_of
from trainer.serving.schema import describe


@dataclass(frozen=True)
class ServeLimits:
    """What the service accepts.

    Attributes:
        max_batch: Queries answered together.
        max_in_flight: Searches that wait or run; more get status 429.
        max_per_client: As many of one client, told by its address; by default half of them, so that no single client
            takes everybody's place. Behind a proxy of another machine all clients are one.
        max_body: Bytes of an upload; more get 413.
        max_pixels: Width x height of an uploaded picture; more get 400, before it is decoded. By default what an
            indexed one may have, `PIL.Image.MAX_IMAGE_PIXELS`.
        timeout: Seconds until an answer (504) and until an upload must be complete (408).
        header_timeout: Seconds until a request's header must be complete; the connection is closed then.
        decoders: Processes that decode uploads; one client's uploads leave one of them to the others.
        decode_timeout: Seconds for one picture; more get 400, and the process is ended and replaced.
    """

    max_batch: int = 32
    max_in_flight: int = 128
    max_per_client: int | None = None
    max_body: int = 16 << 20
    max_pixels: int | None = None
    timeout: float = 30.0
    header_timeout: float = 10.0
    decoders: int = 2
    decode_timeout: float = DECODE_SECONDS


class HitModel(BaseModel):
    """One result."""

    id: str
    score: float = Field(description="what the ranking is by")
    global_score: float | None = Field(description="dot product of the global embeddings")
    local_score: float | None = Field(description="token similarity; null in mode global")
    metadata: dict[str, Any]


class Results(BaseModel):
    """Ranked results, best first."""

    hits: list[HitModel]


class Problem(BaseModel):
    """Why there is no answer."""

    detail: str


class Health(BaseModel):
    """State of the service."""

    status: Literal["ok"]
    items: int
    model: str | None


class Options(BaseModel):
    """How to search."""

    top_k: int = Field(10, ge=1, le=1000, description="results")
    candidates: int = Field(100, ge=1, le=10_000, description="size of the shortlist of stage one")
    mode: Literal["two_stage", "global", "local"] = "two_stage"
    hubness: bool = Field(True, description="whether to lower hubs, in a gallery that knows which they are")
    global_weight: float | None = Field(None, allow_inf_nan=False, ge=-1e6, le=1e6)
    local_weight: float | None = Field(None, allow_inf_nan=False, ge=-1e6, le=1e6)
    where: str | None = Field(None, description='metadata filter as a JSON object, such as {"year": [2024, 2025]}')


_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "the picture or the filter cannot be used"},
    408: {"model": Problem, "description": "the upload took too long"},
    413: {"model": Problem, "description": "the upload is too large"},
    429: {"model": Problem, "description": "too many searches are waiting"},
    503: {"model": Problem, "description": "the gallery does not answer"},
    504: {"model": Problem, "description": "no answer in time"},
    507: {"model": Problem, "description": "there is no room for the upload"},
}


_COUNT_SECONDS = 5.0  # probes and scrapes do not wait longer
_OTHER_METHODS = ["HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]


class Service:
    """Answers searches on a retriever.

    Args:
        retriever: TGDTRetriever with a gallery.
        limits: What is accepted.
    """

    def __init__(self, retriever: Any, limits: ServeLimits) -> None:
        self.retriever, self.limits, self.metrics = retriever, limits, Metrics()
        self.batcher: Batcher | None = None
        self._preparing: ThreadPoolExecutor | None = None
        self._decoders: Decoders | None = None
        self._turns = WeakValueDictionary[str, asyncio.Semaphore]()  # of the clients whose uploads are decoded
        self._counter: ThreadPoolExecutor | None = None

    @contextlib.asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Answer between start and stop; what waits at the stop is still answered."""
        limits = self.limits
        self._preparing = ThreadPoolExecutor(limits.decoders, thread_name_prefix="tgdt-decode")
        self._decoders = Decoders(limits.decoders, limits.decode_timeout, limits.max_pixels)
        self._counter = ThreadPoolExecutor(1, thread_name_prefix="tgdt-count")
        self.batcher = Batcher(Searcher(self.retriever), limits.max_batch, self.metrics.observe_batch)
        await self.batcher.start()
        yield
        await self.batcher.stop()
        self._preparing.shutdown(wait=False, cancel_futures=True)
        self._decoders.close()
        self._counter.shutdown(wait=False, cancel_futures=True)

    async def search(self, query: Any, options: Options) -> Results:
        """Answer one query; raise HTTPException with the reason where that is not possible."""
        if self.batcher is None:
            raise HTTPException(503, "the service is not running")
        chosen = options.model_dump(exclude={"where"})
        request = SearchRequest(query, tuple(chosen.items()), _condition(options.where))
        try:
            hits = await asyncio.wait_for(self.batcher.submit(request), self.limits.timeout)
        except TimeoutError:
            raise HTTPException(504, f"no answer within {self.limits.timeout:g} seconds") from None
        except (ValueError, TypeError) as error:
            raise HTTPException(400, str(error)) from error
        except OSError as error:
            raise HTTPException(503, "the gallery does not answer") from error
        return Results(hits=[_hit(hit) for hit in hits])

    async def items(self) -> int:
        """Count the gallery, in a thread as a remote store may be slow; HTTPException 503 when it does not answer."""
        patience = min(self.limits.timeout, _COUNT_SECONDS)
        counting = asyncio.get_running_loop().run_in_executor(self._counter, len, self.retriever.index)
        try:
            return await asyncio.wait_for(counting, patience)
        except TimeoutError:
            raise HTTPException(503, f"the gallery did not answer within {patience:g} seconds") from None
        except Exception as error:  # every store raises its own types
            raise HTTPException(503, f"the gallery does not answer: {error}") from error

    async def prepare(self, upload: UploadFile, client: str) -> Any:
        """Decode an uploaded picture, when it is the client's turn; a refusal names no path."""
        turn = self._turns.setdefault(client, asyncio.Semaphore(max(1, self.limits.decoders - 1)))
        try:
            async with asyncio.timeout(self.limits.timeout):
                await turn.acquire()
                return await asyncio.wrap_future(self._decode(upload, turn))
        except TimeoutError:
            raise HTTPException(504, f"not decoded within {self.limits.timeout:g} seconds") from None
        except (ValueError, TypeError) as error:
            raise HTTPException(400, str(error)) from error

    def _decode(self, upload: UploadFile, turn: asyncio.Semaphore) -> Future[Any]:
        """Start decoding; the turn ends with the thread's work, not with the patience of who waits for it."""
        loop = asyncio.get_running_loop()
        preparing, decoders = self._preparing, self._decoders
        if preparing is None or decoders is None:
            raise HTTPException(503, "the service is not running")

        def decode() -> Any:  # large uploads wait on disk: only what is being decoded is in memory
            return self.retriever.prepare_image(decoders(upload.file.read()))

        def end_turn(done: Future[Any]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(turn.release)

        work = preparing.submit(decode)
        work.add_done_callback(end_turn)
        return work


def create_app(retriever: Any, limits: ServeLimits | None = None, allowed_hosts: Sequence[str] | None = None) -> Any:
    """Make the ASGI application of a gallery.

    Args:
        retriever: TGDTRetriever with a gallery.
        limits: What is accepted.
        allowed_hosts: Names under which the service answers, others get 400: a page of the web that gives its own
            name this machine's address could read the gallery otherwise. None answers to any.

    Returns:
        The application; its OpenAPI description is at `/openapi.json`.

    Raises:
        ValueError: When the retriever has no gallery.
    """
    if retriever.index is None:
        raise ValueError("There is no gallery to serve. Build one with `tgdt index`.")
    limits = limits or ServeLimits()
    service = Service(retriever, limits)
    app = FastAPI(
        title="tgdt",
        description="Two-stage image-text retrieval.",
        version="1",
        lifespan=service.lifespan,
        docs_url=None,  # FastAPI's pages run scripts of a third party
        redoc_url=None,
    )
    app.state.service = service
    app.add_exception_handler(StarletteHTTPException, _problem)

    @app.get("/search", responses=_PROBLEMS, dependencies=[Depends(_refuse_unknown)])
    async def search_with_words(
        text: Annotated[str, Query(max_length=2000, pattern=r"\S")], options: Annotated[Options, Depends()]
    ) -> Results:
        """Search with words."""
        return await service.search(text, options)

    @app.post("/search", responses=_PROBLEMS, dependencies=[Depends(_refuse_unknown)])
    async def search_with_picture(
        image: Annotated[UploadFile, File(description="the picture")],
        options: Annotated[Options, Depends()],
        request: Request,
    ) -> Results:
        """Search with an uploaded picture."""
        return await service.search(await service.prepare(image, client_of(request.scope)), options)

    @app.api_route("/search", methods=_OTHER_METHODS, include_in_schema=False)
    async def refuse_method() -> None:
        # The router would name the methods of one of the two functions above only.
        raise HTTPException(405, "search with GET and words, or POST a picture", {"Allow": "GET, POST"})

    described = app.openapi
    app.openapi = lambda: describe(described(), retriever.index.metadata_types)  # type: ignore[method-assign]

    @app.get("/healthz", responses={503: {"model": Problem, "description": "the gallery does not answer"}})
    async def health() -> Health:
        """Tell that the service runs, and over what."""
        return Health(status="ok", items=await service.items(), model=retriever.index.settings["model_id"])

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> str:
        """Counters and times in the text format of Prometheus."""
        try:
            return service.metrics.render(await service.items())
        except HTTPException:  # the other metrics are wanted most when the store fails
            return service.metrics.render(None)

    app.add_middleware(
        Guard,
        metrics=service.metrics,
        max_in_flight=limits.max_in_flight,
        max_per_client=limits.max_per_client or max(1, limits.max_in_flight // 2),
        max_body=limits.max_body,
        body_timeout=limits.timeout,
    )
    if allowed_hosts is not None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(allowed_hosts), www_redirect=False)
    return app


def _refuse_unknown(request: Request) -> None:
    """Refuse a parameter that would be ignored, such as `topk`."""
    known = {*Options.model_fields, *(["text"] if request.method == "GET" else [])}
    if unknown := sorted(set(request.query_params) - known):
        raise HTTPException(422, f"unknown query parameter {unknown[0][:80]!r}; known are {', '.join(sorted(known))}")


async def _problem(request: Request, error: Exception) -> Response:
    """Answer 507 where an upload could not be put aside; FastAPI takes any error of its parser for a bad body."""
    if isinstance(error.__cause__, OSError) and getattr(error, "status_code", None) == 400:
        error = HTTPException(507, f"there is no room for the upload: {error.__cause__.strerror}")
    return await http_exception_handler(request, cast(StarletteHTTPException, error))


def _condition(text: str | None) -> Any:
    if text is None:
        return None
    try:
        condition = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"where must be a JSON object, found {text[:80]!r}") from error
    if not isinstance(condition, dict):
        raise HTTPException(400, f"where must be a JSON object, found {text[:80]!r}")
    try:
        parse_filter(condition)
    except (TypeError, ValueError) as error:
        raise HTTPException(400, str(error)) from error
    return condition or None


def _hit(hit: Any) -> HitModel:
    scores = {
        name: None if math.isnan(getattr(hit, name)) else getattr(hit, name)
        for name in ("global_score", "local_score")
    }
    return HitModel(id=hit.id, score=hit.score, metadata=json_value(hit.metadata), **scores)
