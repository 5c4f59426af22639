# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""A gallery in Qdrant, for galleries that outgrow one machine: embedded, or a server or cluster by URL.

Every item is a point with the named vectors `global` (dense) and `tokens` (multivector, max_sim, without a graph).
Where the query's tokens are the words, Qdrant ranks by both scores in one request; where the stored ones are, it gives
the shortlist and our kernel ranks the fetched multivectors, because its max_sim sums over the query only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ...kernels.maxsim import maxsim
from ...kernels.ragged import Pairs, RaggedQueries, TokenStore
from ...similarity_tgdt import ScoreConfig
from ..backend import Query, SearchMode, SearchResult
from ..files import GalleryFiles
from ..metadata import metadata_rows, metadata_types
from .connection import CLUSTER, SEARCH, allowed_options, connect, retry
from .edge import EdgeClient
from .filters import field_path, models, point_id, qdrant_filter

_POINTS, _QUERIES, _PAGE = 64, 32, 256
_REQUEST_BYTES, _NUMBER_BYTES = 24 << 20, 24  # a number as JSON has up to 24 letters


class QdrantBackend:
    """The gallery behind a `TGDTIndex` with `engine="qdrant"`.

    The directory holds the manifest, and in embedded mode the data. `engine_options`:

    - `url` of a server or of any node of a cluster; opening the gallery again takes the address from the caller or
      from QDRANT_URL, never from the manifest, whoever wrote it. The API key comes from QDRANT_API_KEY, goes to
      nobody else, over https or to this machine, and is never stored. `timeout` in seconds; `collection`, by default
      "tgdt"; for a new collection of a cluster `shard_number`, `replication_factor` and `write_consistency_factor`.
    - without `url`, `embedded`: "edge" (the engine in this process, the default where qdrant-edge-py is installed) or
      "local" (the client's emulation in memory, for small galleries). Either is held by one process at a time. The
      emulation reads its files with pickle: an existing one is opened only when the caller says "local" again.
    - `exact` (bool) to search without the graph, `hnsw_ef` for the breadth of its search.

    Tokens are stored in float16, or in float32 for `token_dtype="float32"`. Ties at the border of the shortlist are in
    Qdrant's order.

    Args:
        gallery: Directory with the settings.
        named: Options that the caller gave in this call.

    Raises:
        ValueError: When the manifest alone names a server or an emulated store.
    """

    def __init__(self, gallery: GalleryFiles, named: Mapping[str, Any]) -> None:
        self.gallery = gallery
        self.settings = gallery.snapshot.manifest.settings
        self.options = allowed_options(gallery.root, self.settings["engine_options"], named)
        self.collection = self.options.get("collection", "tgdt")
        self._connection: Any = None
        self._indexed: set[str] = set()
        if not self._call("collection_exists"):
            self._create_collection()

    @property
    def client(self) -> Any:
        """The connection or the embedded store, opened again after `close`."""
        if self._connection is None:
            self._connection = connect(self.options, self.gallery.root)
        return self._connection

    def __len__(self) -> int:
        return self._call("count", exact=True).count

    def __contains__(self, name: str) -> bool:
        return bool(self._call("retrieve", [point_id(name)], with_payload=False, with_vectors=False))

    def ids(self) -> list[str]:
        """Ids of all items, in the order of the points."""
        return [_id(point) for page in self._pages(None, False) for point in page]

    def metadata_types(self) -> None:
        """Nothing is known: Qdrant takes any payload."""

    def add(self, ids: list[str], table: Any, globals_: np.ndarray, tokens: np.ndarray, counts: np.ndarray) -> None:
        """Upsert items in batches; a repeated call writes the same points again."""
        self._index_fields(table)
        metadata = metadata_rows(table)
        parts = np.split(tokens, np.cumsum(counts)[:-1])
        for batch in _batches(counts, self.settings["dim"], metadata):
            points = [
                models.PointStruct(
                    id=point_id(name),
                    vector={"global": vector.tolist()} | ({"tokens": part.tolist()} if len(part) else {}),
                    payload={"id": name, "meta": values},
                )
                for name, vector, part, values in zip(
                    ids[batch], globals_[batch], parts[batch], metadata[batch], strict=True
                )
            ]
            self._call("upsert", points, wait=True)

    def begin(self) -> None:
        """Nothing to do: Qdrant takes any number of writers."""

    def join(self, first: bool = False) -> None:
        """Refuse an embedded store, which one process holds; a server takes the items of all as they come."""
        if "url" not in self.options:
            raise ValueError(
                f"The gallery in {str(self.gallery.root)!r} is an embedded Qdrant store, which one process holds. "
                "Fill it with one process, or use a server: --engine-option url=http://..."
            )

    def leave(self) -> None:
        """Nothing to do: what a server was given is visible."""

    def get(self, ids: Sequence[str]) -> tuple[np.ndarray, list[np.ndarray]]:
        """Fetch the embeddings of ids that are all there."""
        points: dict[str, Any] = {}
        for start in range(0, len(ids), _POINTS):
            asked = [point_id(name) for name in ids[start : start + _POINTS]]
            fetched = self._call("retrieve", asked, with_payload=True, with_vectors=True)
            points.update((_id(point), point) for point in fetched)
        vectors = np.array([_part(points[name].vector, "global") for name in ids], np.float32)
        vectors = vectors.reshape(len(ids), self.gallery.snapshot.manifest.layout.global_columns)
        return vectors, [self._tokens(points[name]) for name in ids]

    def metadata(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """Read the metadata of ids that are all there."""
        metadata_of: dict[str, Any] = {}
        for start in range(0, len(ids), _PAGE):
            asked = [point_id(name) for name in ids[start : start + _PAGE]]
            points = self._call("retrieve", asked, with_payload=True, with_vectors=False)
            metadata_of.update(_id_and_metadata(point) for point in points)
        return [metadata_of[name] for name in ids]

    def store_again(self, ids: list[str], table: Any) -> None:
        """Write the points of ids again with the ids and metadata of a table."""
        vectors, tokens = self.get(ids)
        counts = np.array([len(part) for part in tokens])
        self.add(table.column("id").to_pylist(), table, vectors, np.concatenate(tokens), counts)

    def delete(self, ids: list[str]) -> None:
        """Delete items."""
        self._call("delete", models.PointIdsList(points=[point_id(name) for name in ids]), wait=True)

    def compact(self) -> None:
        """Optimize an embedded shard; a server optimizes its own segments."""
        if isinstance(self.client, EdgeClient):
            self.client.optimize()

    def verify(self) -> list[str]:
        """Compare the collection's vectors with the manifest; Qdrant checks its own files."""
        vectors = self._call("get_collection").config.params.vectors
        sizes = {name: getattr(vectors.get(name), "size", None) for name in ("global", "tokens")}
        expected = {"global": self.gallery.snapshot.manifest.layout.global_columns, "tokens": self.settings["dim"]}
        wrong = {name: size for name, size in sizes.items() if size != expected[name]}
        return [f"collection {self.collection!r}: vector {n!r} has size {s}" for n, s in wrong.items()]

    def refresh(self) -> bool:
        """Every search sees the newest state."""
        return False

    def to(self, device: torch.device) -> None:
        """Refuse any device but the CPU."""
        if device.type != "cpu":
            raise ValueError(
                f"A Qdrant gallery is scored where Qdrant runs, found {str(device)!r}; "
                "only engines 'exact' and 'faiss' move to a device."
            )

    def close(self) -> None:
        """Close the connection or let go of the embedded store; the next call opens it again."""
        connection, self._connection = getattr(self, "_connection", None), None
        if connection is not None:
            connection.close()

    def search(self, query: Query, top_k: int, candidates: int, mode: SearchMode) -> SearchResult:
        """Rank the gallery for checked queries; see `TGDTIndex.search`."""
        condition = qdrant_filter(query.where)
        if mode == "local":
            return _result(self._exhaustive(query, top_k, condition))
        words = _words(query) if mode == "two_stage" and query.sum_over == "query" else [np.zeros(0)] * len(query)
        pushed_down = [len(query_words) > 0 and query.score.local_weight != 0 for query_words in words]
        limit = candidates if mode == "two_stage" else top_k
        requests = [
            self._formula(vector, query_words, query.score, top_k, limit, condition)
            if pushed
            else self._nearest(vector, limit, condition, ["global"] if mode == "global" else True)
            for vector, query_words, pushed in zip(query.globals, words, pushed_down, strict=True)
        ]
        answers = [answer.points for answer in self._ask(requests)]
        return _result(
            [
                sorted((_row(point, query.globals[number], query.score) for point in points), key=_rank_key)
                if pushed_down[number]
                else self._rank(query, number, points, mode)[:top_k]
                for number, points in enumerate(answers)
            ]
        )

    def rerank(self, query: Query, candidate_ids: Sequence[Sequence[str]]) -> SearchResult:
        """Rank given candidates of each query by the mixed score, with our kernel."""
        rows = []
        for number, names in enumerate(candidate_ids):
            points = self._call("retrieve", [point_id(name) for name in names], with_vectors=True)
            rows.append(self._rank(query, number, points, "two_stage"))
        return _result(rows)

    def _exhaustive(self, query: Query, top_k: int, condition: Any) -> list[list[tuple[Any, ...]]]:
        best: list[list[tuple[Any, ...]]] = [[] for _ in range(len(query))]
        for page in self._pages(condition, True):
            for number, kept in enumerate(best):
                kept += self._rank(query, number, page, "local")[:top_k]
                kept.sort(key=_rank_key)
                del kept[top_k:]
        return best

    def _ask(self, requests: list[Any]) -> list[Any]:
        parts = [requests[start : start + _QUERIES] for start in range(0, len(requests), _QUERIES)]
        return [answer for part in parts for answer in self._call("query_batch_points", part)]

    def _nearest(self, vector: np.ndarray, limit: int, condition: Any, with_vector: Any) -> Any:
        return models.QueryRequest(
            query=vector.tolist(),
            using="global",
            limit=limit,
            filter=condition,
            params=self._search_params(),
            with_vector=with_vector,
            with_payload=True,
        )

    def _formula(
        self, vector: np.ndarray, words: np.ndarray, score: ScoreConfig, top_k: int, candidates: int, condition: Any
    ) -> Any:
        """Ask for the mixed score: stage one twice as prefetch, once re-scored by the tokens, then a weighted sum."""
        near = models.Prefetch(
            query=vector.tolist(), using="global", limit=candidates, filter=condition, params=self._search_params()
        )
        tokens = models.Prefetch(prefetch=[near], query=words.tolist(), using="tokens", limit=candidates)
        one = np.ones(1, np.float32)
        weights = score.global_weight, score.local_weight * float(score.local(one, np.array([len(words)]))[0])
        terms = [models.MultExpression(mult=[w, f"$score[{i}]"]) for i, w in enumerate(weights)]
        return models.QueryRequest(
            prefetch=[near, tokens],
            query=models.FormulaQuery(formula=models.SumExpression(sum=terms), defaults={"$score[1]": 0.0}),
            limit=top_k,
            with_vector=["global"],
            with_payload=True,
        )

    def _search_params(self) -> Any:
        chosen = {name: self.options[name] for name in SEARCH if name in self.options}
        return models.SearchParams(**chosen) if chosen else None

    def _rank(self, query: Query, number: int, points: list[Any], mode: SearchMode) -> list[tuple[Any, ...]]:
        if not points:
            return []
        dots = np.array([_part(point.vector, "global") for point in points], np.float32) @ query.globals[number]
        local = np.full(len(points), np.nan) if mode == "global" else self._local_scores(query, number, points)
        scores = {"two_stage": query.score.mixed(dots, local), "global": dots, "local": local}[mode]
        scores = scores.astype(np.float32).tolist()
        names, metadata = zip(*(_id_and_metadata(point) for point in points), strict=True)
        return sorted(zip(names, scores, dots, local, metadata, strict=True), key=_rank_key)

    def _local_scores(self, query: Query, number: int, points: list[Any]) -> np.ndarray:
        words = _words(query)[number]
        parts = [self._tokens(point) for point in points]
        offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
        store = TokenStore(np.concatenate(parts), None, offsets, "float32")
        asked = RaggedQueries(words, np.array([0, len(words)], dtype=np.int64))
        pairs = Pairs(np.zeros(len(points), np.int32), np.arange(len(points)), np.array([0, len(points)]))
        scores = maxsim([store], asked, pairs, sum_over=query.sum_over)
        counts = np.diff(offsets) if query.sum_over == "stored" else np.full(len(points), len(words))
        return query.score.local(scores, counts)

    def _tokens(self, point: Any) -> np.ndarray:
        return np.array((point.vector or {}).get("tokens", []), np.float32).reshape(-1, self.settings["dim"])

    def _pages(self, condition: Any, vectors: bool) -> Iterator[list[Any]]:
        offset = None
        while True:
            points, offset = self._call(
                "scroll", condition, limit=_PAGE, offset=offset, with_payload=True, with_vectors=vectors
            )
            yield points
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
        columns = self.gallery.snapshot.manifest.layout.global_columns
        vectors = {"global": models.VectorParams(size=columns, distance=models.Distance.DOT), "tokens": tokens}
        cluster = {name: self.options[name] for name in CLUSTER if name in self.options}
        self._call("create_collection", vectors_config=vectors, **cluster)

    def _index_fields(self, table: Any) -> None:
        """Make filters on new metadata keys fast; the emulation has no indexes."""
        if self.options.get("embedded") == "local":
            return
        for key, arrow_type in metadata_types(table.schema).items():
            if arrow_type in _FIELD_KINDS and key not in self._indexed:
                kind = models.PayloadSchemaType(_FIELD_KINDS[arrow_type])
                self._call("create_payload_index", field_path(key), kind)
                self._indexed.add(key)

    def _call(self, method: str, *arguments: Any, **options: Any) -> Any:
        return retry(lambda: getattr(self.client, method)(self.collection, *arguments, **options), self.options)


def _batches(counts: np.ndarray, dim: int, metadata: list[dict[str, Any]]) -> Iterator[slice]:
    """Yield runs of items that fit a request, whose size a server limits: 32 MiB by default."""
    first, size = 0, 0
    for position, (count, values) in enumerate(zip(counts, metadata, strict=True)):
        added = _NUMBER_BYTES * dim * (int(count) + 1) + 6 * len(str(values))  # JSON escapes a letter as \u1234
        if position > first and (size + added > _REQUEST_BYTES or position - first == _POINTS):
            yield slice(first, position)
            first, size = position, 0
        size += added
    if len(counts):
        yield slice(first, len(counts))


_FIELD_KINDS = {"string": "keyword", "int64": "integer", "double": "float", "bool": "bool"}


def _row(point: Any, vector: np.ndarray, score: ScoreConfig) -> tuple[Any, ...]:
    """Return a point that Qdrant ranked; its local score is what the mixed one holds beside the global one."""
    dot = float(np.asarray(_part(point.vector, "global"), np.float32) @ vector)
    local = (point.score - score.mixed(dot, 0.0)) / score.local_weight
    name, metadata = _id_and_metadata(point)
    return name, point.score, dot, local, metadata


def _id_and_metadata(point: Any) -> tuple[str, Any]:
    return _id(point), _part(point.payload, "meta")


def _id(point: Any) -> str:
    """Return the id of a point's item, under which alone a collection of ours can have stored it."""
    name = _part(point.payload, "id")
    if not isinstance(name, str) or str(point.id) != point_id(name):
        raise _damaged(f"the item {name!r} under the id of its point", "it under another")
    return name


def _part(values: Any, name: str) -> Any:
    """Return what every point holds; in a damaged collection, or one that others write to, one may lack it."""
    if not isinstance(values, Mapping) or name not in values:
        raise _damaged(f"{name!r} in every point", "one without")
    return values[name]


def _damaged(expected: str, found: str) -> ValueError:
    return ValueError(
        f"Expected {expected} of the Qdrant collection, found {found}. The collection is damaged, or something else "
        "writes to it: build the gallery again."
    )


def _words(query: Query) -> list[np.ndarray]:
    return np.split(query.tokens.rows, query.tokens.offsets[1:-1])


def _rank_key(row: tuple[Any, ...]) -> tuple[float, str]:
    return -row[1], row[0]


def _result(rows: Sequence[Sequence[tuple[Any, ...]]]) -> SearchResult:
    columns = [[[row[i] for row in ranked] for ranked in rows] for i in range(5)]  # each by query
    scores, dots, local = ([np.array(values, dtype=np.float32) for values in columns[i]] for i in (1, 2, 3))
    return SearchResult(columns[0], scores, dots, local, columns[4])
