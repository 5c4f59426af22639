# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""A gallery in Qdrant, for galleries that outgrow one machine: embedded, or a server or cluster by URL.

Every item is a point with the named vectors `global` (dense) and `tokens` (multivector, max_sim, without a graph).
Where the query's tokens are the words, Qdrant ranks by both scores in one request; where the stored ones are, it gives
the shortlist and our kernel ranks the fetched multivectors, because its max_sim sums over the query only.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .gallery_tgdt import Gallery
from .local_tgdt import Query, SearchMode, SearchResult
from .maxsim_tgdt import Pairs, RaggedQueries, maxsim
from .metadata_tgdt import Condition, metadata_rows
from .segment_tgdt import TokenStore

try:
    import qdrant_client as _qdrant
except ImportError:
    _qdrant = None  # type: ignore[assignment]

models: Any = getattr(_qdrant, "models", None)

NAMESPACE = uuid.UUID("6f0f4a0e-52d5-4f0e-9d0e-7d2f1a0c9b11")
_BATCH, _ATTEMPTS = 64, 5
_OPTIONS = {"url", "collection", "timeout"}


class QdrantBackend:
    """The gallery behind a `TGDTIndex` with `engine="qdrant"`.

    The directory holds the manifest (and the data in embedded mode). `engine_options`: `url` of a server (without it
    the data is embedded below the directory), `collection` (default "tgdt"), `timeout` in seconds. The API key comes
    from the environment variable QDRANT_API_KEY and is never stored.

    Args:
        gallery: Directory with the settings.
        client: A client to use instead of making one, for tests and unusual set-ups.
    """

    def __init__(self, gallery: Gallery, client: Any = None) -> None:
        self.gallery = gallery
        self.settings = gallery.snapshot.manifest.settings
        options = self.settings["engine_options"]
        self.check_options(options)
        self.collection = options.get("collection", "tgdt")
        self.client = client or _connect(options, str(gallery.root / "qdrant"))
        if not self.client.collection_exists(self.collection):
            self._create_collection()

    @staticmethod
    def check_options(options: Mapping[str, Any]) -> None:
        """Refuse unknown options, and a missing client library."""
        if _qdrant is None:
            raise ImportError("engine='qdrant' needs its client; install it with `pip install 'tgdt[qdrant]'`.")
        if unknown := set(options) - _OPTIONS:
            raise ValueError(f"engine_options of 'qdrant' are {sorted(_OPTIONS)}, found {sorted(unknown)}.")

    def __len__(self) -> int:
        return self.client.count(self.collection, exact=True).count

    def __contains__(self, name: str) -> bool:
        return bool(self.client.retrieve(self.collection, [point_id(name)], with_payload=False))

    def ids(self) -> list[str]:
        """Ids of all items, in the order of the points."""
        return [point.payload["id"] for point in self._scroll(None, False)]

    def add(self, ids: list[str], table: Any, globals_: np.ndarray, tokens: np.ndarray, counts: np.ndarray) -> None:
        """Upsert items in batches; a repeated call writes the same points again."""
        metadata = metadata_rows(table)
        parts = np.split(tokens, np.cumsum(counts)[:-1])
        for start in range(0, len(ids), _BATCH):
            points = []
            for name, vector, own, values in zip(
                *(column[start : start + _BATCH] for column in (ids, globals_, parts, metadata)), strict=True
            ):
                vectors = {"global": vector.tolist()} | ({"tokens": own.tolist()} if len(own) else {})
                points.append(
                    models.PointStruct(id=point_id(name), vector=vectors, payload={"id": name, "meta": values})
                )
            _retry(lambda points=points: self.client.upsert(self.collection, points, wait=True))  # type: ignore[misc]

    def begin(self) -> None:
        """Nothing to do: Qdrant takes any number of writers."""

    def delete(self, ids: list[str]) -> None:
        """Delete items."""
        points = [point_id(name) for name in ids]
        _retry(lambda: self.client.delete(self.collection, models.PointIdsList(points=points), wait=True))

    def compact(self) -> None:
        """Nothing to do: Qdrant optimizes its own segments."""

    def verify(self) -> list[str]:
        """Compare the collection's vectors with the manifest; Qdrant checks its own files."""
        vectors = self.client.get_collection(self.collection).config.params.vectors
        sizes = {name: getattr(vectors.get(name), "size", None) for name in ("global", "tokens")}
        wrong = {name: size for name, size in sizes.items() if size != self.settings["dim"]}
        return [f"collection {self.collection!r}: vector {n!r} has size {s}" for n, s in wrong.items()]

    def refresh(self) -> bool:
        """Every search sees the newest state."""
        return False

    def close(self) -> None:
        """Close the connection, or the embedded store."""
        self.client.close()

    def search(self, query: Query, top_k: int, candidates: int, mode: SearchMode) -> SearchResult:
        """Rank the gallery for checked queries; see `TGDTIndex.search`."""
        condition = _filter(query.where)
        rows = [self._search_one(query, place, top_k, candidates, mode, condition) for place in range(len(query))]
        return _result(rows)

    def rerank(self, query: Query, candidate_ids: Sequence[Sequence[str]]) -> SearchResult:
        """Rank given candidates of each query by the mixed score, with our kernel."""
        rows = []
        for place, names in enumerate(candidate_ids):
            ids = [point_id(name) for name in names]
            points = self.client.retrieve(self.collection, ids, with_vectors=True)
            rows.append(self._rank(query, place, points, "two_stage")[: len(names)])
        return _result(rows)

    def _search_one(
        self, query: Query, place: int, top_k: int, candidates: int, mode: SearchMode, condition: Any
    ) -> list[tuple[Any, ...]]:
        if mode == "local":
            return self._rank(query, place, list(self._scroll(condition, True)), mode)[:top_k]
        vector = query.globals[place]
        first = query.tokens.offsets[place]
        words = query.tokens.rows[first : query.tokens.offsets[place + 1]]
        pushed_down = mode == "two_stage" and query.sum_over == "query" and len(words) > 0
        if pushed_down and self.settings["local_weight"]:
            points = self._formula(vector, words, top_k, candidates, condition)
            return sorted((self._row(point, vector) for point in points), key=lambda row: (-row[1], row[0]))
        points = self.client.query_points(
            self.collection,
            query=vector.tolist(),
            using="global",
            limit=candidates if mode == "two_stage" else top_k,
            query_filter=condition,
            with_vectors=True,
        ).points
        return self._rank(query, place, points, mode)[:top_k]

    def _formula(
        self, vector: np.ndarray, words: np.ndarray, top_k: int, candidates: int, condition: Any
    ) -> list[Any]:
        near = models.Prefetch(query=vector.tolist(), using="global", limit=candidates, filter=condition)
        tokens = models.Prefetch(prefetch=[near], query=words.tolist(), using="tokens", limit=candidates)
        per_word = 1 / len(words) if self.settings["reduction"] == "mean" else 1.0
        weights = (self.settings["global_weight"], self.settings["local_weight"] * self.settings["scale"] * per_word)
        terms = [models.MultExpression(mult=[w, f"$score[{i}]"]) for i, w in enumerate(weights)]
        formula = models.FormulaQuery(formula=models.SumExpression(sum=terms), defaults={"$score[1]": 0.0})
        return self.client.query_points(
            self.collection, prefetch=[near, tokens], query=formula, limit=top_k, with_vectors=["global"]
        ).points

    def _row(self, point: Any, vector: np.ndarray) -> tuple[Any, ...]:
        dot = float(np.asarray(point.vector["global"], np.float32) @ vector)
        local = (point.score - self.settings["global_weight"] * dot) / self.settings["local_weight"]
        return point.payload["id"], point.score, dot, local, point.payload["meta"]

    def _rank(self, query: Query, place: int, points: list[Any], mode: SearchMode) -> list[tuple[Any, ...]]:
        if not points:
            return []
        dots = np.array([point.vector["global"] for point in points], np.float32) @ query.globals[place]
        local = np.full(len(points), np.nan) if mode == "global" else self._local_scores(query, place, points)
        mixed = self.settings["global_weight"] * dots + self.settings["local_weight"] * local
        scores = {"two_stage": mixed, "global": dots, "local": local}[mode]
        names = [point.payload["id"] for point in points]
        order = np.lexsort((np.array(names, dtype=object), -scores.astype(np.float32)))
        return [(names[i], scores[i], dots[i], local[i], points[i].payload["meta"]) for i in order]

    def _local_scores(self, query: Query, place: int, points: list[Any]) -> np.ndarray:
        dim = self.settings["dim"]
        parts = [np.array(point.vector.get("tokens", []), np.float32).reshape(-1, dim) for point in points]
        offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
        store = TokenStore(np.concatenate(parts), None, offsets, "float32")
        first, last = query.tokens.offsets[place : place + 2]
        words = RaggedQueries(query.tokens.rows[first:last], np.array([0, last - first], dtype=np.int64))
        pairs = Pairs(np.zeros(len(points), np.int32), np.arange(len(points)), np.array([0, len(points)]))
        scores = maxsim([store], words, pairs, sum_over=query.sum_over)
        if self.settings["reduction"] == "mean":
            scores = scores / np.maximum(np.diff(offsets) if query.sum_over == "stored" else last - first, 1)
        return scores * self.settings["scale"]

    def _scroll(self, condition: Any, vectors: bool) -> Iterator[Any]:
        offset = None
        while True:
            points, offset = self.client.scroll(
                self.collection, condition, limit=256, offset=offset, with_payload=True, with_vectors=vectors
            )
            yield from points
            if offset is None:
                return

    def _create_collection(self) -> None:
        size, half = self.settings["dim"], self.settings["token_dtype"] != "float32"
        tokens = models.VectorParams(
            size=size,
            distance=models.Distance.DOT,
            datatype=models.Datatype.FLOAT16 if half else models.Datatype.FLOAT32,
            multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
            hnsw_config=models.HnswConfigDiff(m=0),
            on_disk=True,
        )
        self.client.create_collection(
            self.collection,
            vectors_config={"global": models.VectorParams(size=size, distance=models.Distance.DOT), "tokens": tokens},
        )


def point_id(name: str) -> str:
    """Return the point of an id: the same on every machine, so a repeated upsert changes nothing."""
    return str(uuid.uuid5(NAMESPACE, name))


def _connect(options: Mapping[str, Any], path: str) -> Any:
    if "url" not in options:
        return _qdrant.QdrantClient(path=path)
    key, timeout = os.environ.get("QDRANT_API_KEY"), options.get("timeout", 60)
    return _qdrant.QdrantClient(url=options["url"], api_key=key, timeout=timeout)


def _retry(call: Callable[[], Any]) -> None:
    for attempt in range(_ATTEMPTS):
        try:
            call()
            return
        except Exception as error:  # the client raises its own types per transport
            status = getattr(error, "status_code", None)
            if attempt + 1 == _ATTEMPTS or isinstance(error, ValueError | TypeError) or status in range(400, 429):
                raise
            time.sleep(0.1 * 2**attempt)


def _filter(where: Mapping[str, Condition] | None) -> Any:
    if not where:
        return None
    return models.Filter(must=[_condition(f"meta.{key}", key, value) for key, value in where.items()])


def _condition(field: str, key: str, value: Any) -> Any:
    if callable(value):
        raise ValueError(f"where[{key!r}] is a callable, which Qdrant cannot run; give a value or a list of values.")
    if isinstance(value, list | tuple | set | frozenset):
        return models.Filter(should=[_condition(field, key, item) for item in value])
    if isinstance(value, float):
        return models.FieldCondition(key=field, range=models.Range(gte=value, lte=value))
    return models.FieldCondition(key=field, match=models.MatchValue(value=value))


def _result(rows: list[list[tuple[Any, ...]]]) -> SearchResult:
    columns = [[[row[i] for row in own] for own in rows] for i in range(5)]
    scores, dots, local = ([np.array(own, dtype=np.float32) for own in columns[i]] for i in (1, 2, 3))
    return SearchResult(columns[0], scores, dots, local, columns[4])
