# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Qdrant's own engine in this process, without a server: the calls of `QdrantClient` that a gallery needs, on a shard.

`qdrant-client` alone emulates Qdrant in numpy, in memory; `qdrant-edge-py` is the engine itself, on disk.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ..storage import GalleryBusyError

try:
    import qdrant_edge as _edge
except ImportError:
    _edge = None  # type: ignore[assignment]

edge: Any = _edge
_CONFIG = "edge_config.json"


class EdgeClient:
    """One collection in a directory, held by one process at a time.

    Args:
        path: Directory of the shard, made by `create_collection`.

    Raises:
        ImportError: When qdrant-edge-py is missing.
        GalleryBusyError: When another index holds the shard.
    """

    def __init__(self, path: Path) -> None:
        if edge is None:
            raise ImportError(
                "This gallery is embedded with Qdrant Edge. Install it with `pip install qdrant-edge-py`."
            )
        self.path = path
        self._shard: Any = _Shard(edge.EdgeShard.load, path) if (path / _CONFIG).exists() else None

    def collection_exists(self, name: str) -> bool:
        """Tell whether the shard was made."""
        return self._shard is not None

    def create_collection(self, name: str, vectors_config: dict[str, Any], **cluster_options: Any) -> None:
        """Make the shard; options of a cluster are ignored."""
        vectors = {key: _vector_params(value) for key, value in vectors_config.items()}
        self._shard = _Shard(edge.EdgeShard.create, self.path, edge.EdgeConfig(vectors=vectors))

    def get_collection(self, name: str) -> Any:
        """Return the vectors' sizes in the shape of the client's answer."""
        vectors = json.loads((self.path / _CONFIG).read_text(encoding="utf-8"))["vectors"]
        sizes = {key: SimpleNamespace(size=value["size"]) for key, value in vectors.items()}
        return SimpleNamespace(config=SimpleNamespace(params=SimpleNamespace(vectors=sizes)))

    def upsert(self, name: str, points: Sequence[Any], wait: bool = True) -> None:
        """Write points; they are on disk when this returns."""
        made = [edge.Point(id=point.id, vector=point.vector, payload=_payload(point.payload)) for point in points]
        self._shard.update(edge.UpdateOperation.upsert_points(made))
        self._shard.flush()

    def delete(self, name: str, selector: Any, wait: bool = True) -> None:
        """Delete points; they are gone from the disk when this returns."""
        self._shard.update(edge.UpdateOperation.delete_points(selector.points))
        self._shard.flush()

    def create_payload_index(self, name: str, field: str, schema: Any) -> None:
        """Make a filter's field fast."""
        kind = schema.value
        if kind == "bool":
            field, kind = _words_path(field), "keyword"
        schema_type = getattr(edge.PayloadSchemaType, kind.capitalize())
        self._shard.update(edge.UpdateOperation.create_field_index(field, schema_type))

    def optimize(self) -> None:
        """Merge segments and build the graph of the global vectors."""
        self._shard.optimize()

    def count(self, name: str, exact: bool = True) -> Any:
        """Count points."""
        return SimpleNamespace(count=self._shard.count(edge.CountRequest(exact=exact)))

    def retrieve(self, name: str, ids: Sequence[str], with_payload: bool = True, with_vectors: Any = False) -> Any:
        """Return the points of ids that are there."""
        return self._shard.retrieve(list(ids), with_payload, with_vectors)

    def scroll(
        self, name: str, scroll_filter: Any, limit: int, offset: Any, with_payload: bool, with_vectors: Any
    ) -> Any:
        """Return a page of points and where the next one begins."""
        request = edge.ScrollRequest(
            offset=offset,
            limit=limit,
            filter=_filter(scroll_filter),
            with_payload=with_payload,
            with_vector=with_vectors,
        )
        return self._shard.scroll(request)

    def query_batch_points(self, name: str, requests: Sequence[Any]) -> list[Any]:
        """Answer several queries in one pass over the shard."""
        made = [
            edge.QueryRequest(
                limit=request.limit,
                query=_query(request.query, request.using),
                prefetches=_prefetches(request.prefetch),
                filter=_filter(request.filter),
                with_vector=request.with_vector,
                with_payload=request.with_payload,
                params=_search_params(request.params),
            )
            for request in requests
        ]
        return [SimpleNamespace(points=points) for points in self._shard.query_batch(edge.QueryBatchRequest(made))]

    def close(self) -> None:
        """Write everything and let go of the shard."""
        if self._shard is not None:
            self._shard.close()


class _Shard:
    """A shard of the engine. Its plain exceptions and Rust's panics, which damaged files cause, become ValueError."""

    def __init__(self, make: Callable[..., Any], path: Path, *options: Any) -> None:
        self._path = path
        self._shard = self._call(make, str(path), *options)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(self._call, getattr(self._shard, name))

    def _call(self, method: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return method(*arguments)
        except BaseException as error:  # a panic is not an Exception, and its class cannot be imported
            if type(error) is not Exception and type(error).__name__ != "PanicException":
                raise
            if "WouldBlock" not in str(error):
                raise ValueError(f"The Qdrant shard at {str(self._path)!r} cannot be used: {error}") from error
            raise GalleryBusyError(
                f"Another index has {str(self._path)!r} open; an embedded Qdrant gallery is held by one index at a "
                "time. close() that one, or use a server (engine_options={'url': ...})."
            ) from error


def _vector_params(params: Any) -> Any:
    multi = params.multivector_config and edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim)
    half = params.datatype is not None and params.datatype.value == "float16"
    graph = params.hnsw_config and edge.HnswIndexConfig(m=params.hnsw_config.m, ef_construct=0, full_scan_threshold=0)
    return edge.EdgeVectorParams(
        size=params.size,
        distance=edge.Distance.Dot,
        on_disk=params.on_disk,
        multivector_config=multi,
        datatype=edge.VectorStorageDatatype.Float16 if half else edge.VectorStorageDatatype.Float32,
        hnsw_config=graph,
    )


def _query(query: Any, using: str | None) -> Any:
    if isinstance(query, list):
        return edge.Query.Nearest(query, using=using)
    terms = [
        edge.Expression.Mult([edge.Expression.Constant(weight), edge.Expression.Variable(name)])
        for weight, name in (term.mult for term in query.formula.sum)
    ]
    return edge.Formula(edge.Expression.Sum(terms), defaults=query.defaults)


def _prefetches(prefetch: Any) -> list[Any]:
    return [
        edge.Prefetch(
            limit=one.limit,
            query=_query(one.query, one.using),
            prefetches=_prefetches(one.prefetch),
            filter=_filter(one.filter),
            params=_search_params(one.params),
        )
        for one in prefetch or []
    ]


def _search_params(params: Any) -> Any:
    return params and edge.SearchParams(hnsw_ef=params.hnsw_ef, exact=bool(params.exact))


def _payload(payload: dict[str, Any]) -> dict[str, Any]:
    """Add booleans once more as words: the binding of version 0.9 turns a boolean to match into a number."""
    words = {key: str(value) for key, value in payload["meta"].items() if isinstance(value, bool)}
    return {**payload, "words": words} if words else payload


def _words_path(field: str) -> str:
    return "words." + field.removeprefix("meta.")


def _filter(condition: Any) -> Any:
    if condition is None:
        return None
    return edge.Filter(**{key: [_condition(c) for c in getattr(condition, key) or []] or None for key in _CLAUSES})


_CLAUSES = ("must", "should", "must_not")


def _condition(condition: Any) -> Any:
    if hasattr(condition, "has_id"):
        return edge.HasIdCondition(set(condition.has_id))
    if not hasattr(condition, "key"):
        return _filter(condition)
    if condition.range is not None:
        ends = {name: getattr(condition.range, name) for name in ("gt", "gte", "lt", "lte")}
        kind = edge.RangeDateTime if type(condition.range).__name__ == "DatetimeRange" else edge.RangeFloat
        return edge.FieldCondition(condition.key, range=kind(**ends))
    value = condition.match.value
    if isinstance(value, bool):
        return edge.FieldCondition(_words_path(condition.key), match=edge.MatchValue(str(value)))
    return edge.FieldCondition(condition.key, match=edge.MatchValue(value))
