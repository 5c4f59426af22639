# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""A gallery in Qdrant, for galleries that outgrow one machine: embedded, or a server or cluster by URL.

Every item is a point with the named vectors `global` (dense) and `tokens` (multivector, max_sim, without a graph).
Where the query's tokens are the words, Qdrant ranks by both scores in one request; where the stored ones are, it gives
the shortlist and our kernel ranks the fetched multivectors, because its max_sim sums over the query only.
"""

from __future__ import annotations

import ipaddress
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np
import torch

from ..kernels.maxsim import maxsim
from ..kernels.ragged import Pairs, RaggedQueries, TokenStore
from .files import QDRANT_FOLDERS, Gallery
from .filters import All, Call, Compare, Filter, Ids, Not, OneOf
from .local import Query, SearchMode, SearchResult
from .metadata import metadata_rows, metadata_types
from .plain_files import tree_inside
from .qdrant_edge import EdgeClient, edge
from .storage import GalleryBusyError

try:
    import qdrant_client as _qdrant
except ImportError:
    _qdrant = None  # type: ignore[assignment]

models: Any = getattr(_qdrant, "models", None)

NAMESPACE = uuid.UUID("6f0f4a0e-52d5-4f0e-9d0e-7d2f1a0c9b11")
_POINTS, _QUERIES, _PAGE, _ATTEMPTS = 64, 32, 256, 5
_REQUEST_BYTES, _NUMBER_BYTES = 24 << 20, 24  # a number as JSON has up to 24 letters
_CLUSTER = ("shard_number", "replication_factor", "write_consistency_factor")
_SEARCH = ("exact", "hnsw_ef")
_OPTIONS = {"url", "embedded", "collection", "timeout", *_CLUSTER, *_SEARCH}
_T = TypeVar("_T")


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

    def __init__(self, gallery: Gallery, named: Mapping[str, Any]) -> None:
        self.gallery = gallery
        self.settings = gallery.snapshot.manifest.settings
        self.options = _allowed_options(gallery.root, self.settings["engine_options"], named)
        self.collection = self.options.get("collection", "tgdt")
        self._connection: Any = None
        self._indexed: set[str] = set()
        if not self._call("collection_exists"):
            self._create_collection()

    @staticmethod
    def complete_options(options: Mapping[str, Any]) -> dict[str, Any]:
        """Check the options, before anything is written, and name the kind of embedding where there is no url."""
        if _qdrant is None:
            raise ImportError("engine='qdrant' needs its client; install it with `pip install 'tgdt[qdrant]'`.")
        if unknown := set(options) - _OPTIONS:
            raise ValueError(f"engine_options of 'qdrant' are {sorted(_OPTIONS)}, found {sorted(unknown)}.")
        collection = options.get("collection", "tgdt")
        if not re.fullmatch(r"[\w-][\w.-]*", str(collection), re.ASCII):
            raise ValueError(
                f"engine_options['collection'] must be letters, digits, '-', '_' and '.', found {collection!r}."
            )
        for key in {"timeout", "hnsw_ef", *_CLUSTER} & set(options):
            if type(options[key]) not in (int, float) or not 0 < options[key] < 1 << 31:
                raise ValueError(f"engine_options[{key!r}] must be a number above 0, found {options[key]!r}.")
        if "url" in options:
            _check_url(options["url"])
            return dict(options)
        embedded = options.get("embedded", "local" if edge is None else "edge")
        if embedded not in QDRANT_FOLDERS:
            raise ValueError(f"engine_options['embedded'] must be one of {list(QDRANT_FOLDERS)}, found {embedded!r}.")
        return {**options, "embedded": embedded}

    @property
    def client(self) -> Any:
        """The connection or the embedded store, opened again after `close`."""
        if self._connection is None:
            self._connection = _connect(self.options, self.gallery.root)
        return self._connection

    def __len__(self) -> int:
        return self._call("count", exact=True).count

    def __contains__(self, name: str) -> bool:
        return bool(self._call("retrieve", [point_id(name)], with_payload=False, with_vectors=False))

    def ids(self) -> list[str]:
        """Ids of all items, in the order of the points."""
        return [point.payload["id"] for page in self._pages(None, False) for point in page]

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
                    vector={"global": vector.tolist()} | ({"tokens": own.tolist()} if len(own) else {}),
                    payload={"id": name, "meta": values},
                )
                for name, vector, own, values in zip(
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
                f"the gallery in {str(self.gallery.root)!r} is an embedded Qdrant store, which one process holds; "
                "fill it with one process, or use a server: --engine-option url=http://..."
            )

    def leave(self) -> None:
        """Nothing to do: what a server was given is visible."""

    def get(self, ids: Sequence[str]) -> tuple[np.ndarray, list[np.ndarray]]:
        """Fetch the embeddings of ids that are all there."""
        points: dict[str, Any] = {}
        for start in range(0, len(ids), _POINTS):
            asked = [point_id(name) for name in ids[start : start + _POINTS]]
            found = self._call("retrieve", asked, with_payload=True, with_vectors=True)
            points.update((point.payload["id"], point) for point in found)
        vectors = np.array([points[name].vector["global"] for name in ids], np.float32)
        vectors = vectors.reshape(len(ids), self.gallery.snapshot.manifest.global_dim)
        return vectors, [self._tokens(points[name]) for name in ids]

    def metadata(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """Read the metadata of ids that are all there."""
        found: dict[str, Any] = {}
        for start in range(0, len(ids), _PAGE):
            asked = [point_id(name) for name in ids[start : start + _PAGE]]
            points = self._call("retrieve", asked, with_payload=True, with_vectors=False)
            found.update((point.payload["id"], point.payload["meta"]) for point in points)
        return [found[name] for name in ids]

    def store_again(self, ids: list[str], table: Any) -> None:
        """Write the points of ids again with the ids and metadata of a table."""
        vectors, tokens = self.get(ids)
        counts = np.array([len(own) for own in tokens])
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
        expected = {"global": self.gallery.snapshot.manifest.global_dim, "tokens": self.settings["dim"]}
        wrong = {name: size for name, size in sizes.items() if size != expected[name]}
        return [f"collection {self.collection!r}: vector {n!r} has size {s}" for n, s in wrong.items()]

    def refresh(self) -> bool:
        """Every search sees the newest state."""
        return False

    def to(self, device: torch.device) -> None:
        """Refuse any device but the CPU."""
        if device.type != "cpu":
            raise ValueError(
                f"a Qdrant gallery is scored where Qdrant runs, found {str(device)!r}; "
                "only engines 'exact' and 'faiss' move to a device."
            )

    def close(self) -> None:
        """Close the connection or let go of the embedded store; the next call opens it again."""
        connection, self._connection = getattr(self, "_connection", None), None
        if connection is not None:
            connection.close()

    def search(self, query: Query, top_k: int, candidates: int, mode: SearchMode) -> SearchResult:
        """Rank the gallery for checked queries; see `TGDTIndex.search`."""
        condition = _filter(query.where)
        if mode == "local":
            return _result(self._exhaustive(query, top_k, condition))
        words = _words(query) if mode == "two_stage" and query.sum_over == "query" else [np.zeros(0)] * len(query)
        pushed_down = [len(own) > 0 and self.settings["local_weight"] != 0 for own in words]
        limit = candidates if mode == "two_stage" else top_k
        requests = [
            self._formula(vector, own, top_k, limit, condition)
            if pushed
            else self._nearest(vector, limit, condition, ["global"] if mode == "global" else True)
            for vector, own, pushed in zip(query.globals, words, pushed_down, strict=True)
        ]
        found = [answer.points for answer in self._ask(requests)]
        return _result(
            [
                sorted((self._row(point, query.globals[place]) for point in points), key=_rank_key)
                if pushed_down[place]
                else self._rank(query, place, points, mode)[:top_k]
                for place, points in enumerate(found)
            ]
        )

    def rerank(self, query: Query, candidate_ids: Sequence[Sequence[str]]) -> SearchResult:
        """Rank given candidates of each query by the mixed score, with our kernel."""
        rows = []
        for place, names in enumerate(candidate_ids):
            points = self._call("retrieve", [point_id(name) for name in names], with_vectors=True)
            rows.append(self._rank(query, place, points, "two_stage"))
        return _result(rows)

    def _exhaustive(self, query: Query, top_k: int, condition: Any) -> list[list[tuple[Any, ...]]]:
        best: list[list[tuple[Any, ...]]] = [[] for _ in range(len(query))]
        for page in self._pages(condition, True):
            for place, kept in enumerate(best):
                kept += self._rank(query, place, page, "local")[:top_k]
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

    def _formula(self, vector: np.ndarray, words: np.ndarray, top_k: int, candidates: int, condition: Any) -> Any:
        """Ask for the mixed score: stage one twice as prefetch, once re-scored by the tokens, then a weighted sum."""
        near = models.Prefetch(
            query=vector.tolist(), using="global", limit=candidates, filter=condition, params=self._search_params()
        )
        tokens = models.Prefetch(prefetch=[near], query=words.tolist(), using="tokens", limit=candidates)
        per_word = 1 / len(words) if self.settings["reduction"] == "mean" else 1.0
        weights = (self.settings["global_weight"], self.settings["local_weight"] * self.settings["scale"] * per_word)
        terms = [models.MultExpression(mult=[w, f"$score[{i}]"]) for i, w in enumerate(weights)]
        return models.QueryRequest(
            prefetch=[near, tokens],
            query=models.FormulaQuery(formula=models.SumExpression(sum=terms), defaults={"$score[1]": 0.0}),
            limit=top_k,
            with_vector=["global"],
            with_payload=True,
        )

    def _search_params(self) -> Any:
        chosen = {name: self.options[name] for name in _SEARCH if name in self.options}
        return models.SearchParams(**chosen) if chosen else None

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
        scores = scores.astype(np.float32).tolist()
        names, metadata = zip(*((point.payload["id"], point.payload["meta"]) for point in points), strict=True)
        return sorted(zip(names, scores, dots, local, metadata, strict=True), key=_rank_key)

    def _local_scores(self, query: Query, place: int, points: list[Any]) -> np.ndarray:
        words = _words(query)[place]
        parts = [self._tokens(point) for point in points]
        offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
        store = TokenStore(np.concatenate(parts), None, offsets, "float32")
        asked = RaggedQueries(words, np.array([0, len(words)], dtype=np.int64))
        pairs = Pairs(np.zeros(len(points), np.int32), np.arange(len(points)), np.array([0, len(points)]))
        scores = maxsim([store], asked, pairs, sum_over=query.sum_over)
        if self.settings["reduction"] == "mean":
            scores = scores / np.maximum(np.diff(offsets) if query.sum_over == "stored" else len(words), 1)
        return scores * self.settings["scale"]

    def _tokens(self, point: Any) -> np.ndarray:
        return np.array(point.vector.get("tokens", []), np.float32).reshape(-1, self.settings["dim"])

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
        near = models.VectorParams(size=self.gallery.snapshot.manifest.global_dim, distance=models.Distance.DOT)
        vectors = {"global": near, "tokens": tokens}
        cluster = {name: self.options[name] for name in _CLUSTER if name in self.options}
        self._call("create_collection", vectors_config=vectors, **cluster)

    def _index_fields(self, table: Any) -> None:
        """Make filters on new metadata keys fast; the emulation has no such thing."""
        if self.options.get("embedded") == "local":
            return
        for key, arrow_type in metadata_types(table.schema).items():
            if arrow_type in _FIELD_KINDS and key not in self._indexed:
                kind = models.PayloadSchemaType(_FIELD_KINDS[arrow_type])
                self._call("create_payload_index", _path(key), kind)
                self._indexed.add(key)

    def _call(self, method: str, *arguments: Any, **options: Any) -> Any:
        return _retry(lambda: getattr(self.client, method)(self.collection, *arguments, **options), self.options)


def _batches(counts: np.ndarray, dim: int, metadata: list[dict[str, Any]]) -> Iterator[slice]:
    """Yield runs of items that fit a request, whose size a server limits: 32 MiB by default."""
    first, size = 0, 0
    for place, (count, values) in enumerate(zip(counts, metadata, strict=True)):
        own = _NUMBER_BYTES * dim * (int(count) + 1) + 6 * len(str(values))  # JSON escapes a letter as \u1234
        if place > first and (size + own > _REQUEST_BYTES or place - first == _POINTS):
            yield slice(first, place)
            first, size = place, 0
        size += own
    if len(counts):
        yield slice(first, len(counts))


_FIELD_KINDS = {"string": "keyword", "int64": "integer", "double": "float", "bool": "bool"}


def _allowed_options(root: Path, stored: Mapping[str, Any], named: Mapping[str, Any]) -> dict[str, Any]:
    """Join the options of a manifest with the caller's, who alone says where to connect and whether to unpickle."""
    url = named.get("url") or os.environ.get("QDRANT_URL")
    if "url" in stored and not url:
        raise ValueError(
            f"the gallery in {str(root)!r} lies in a Qdrant server; its directory names {stored['url']!r}, which is "
            "not taken on trust. Name the address yourself: engine_options={'url': ...}, --engine-option url=..., or "
            "the environment variable QDRANT_URL."
        )
    known = {**stored, **named}
    options = QdrantBackend.complete_options({**known, "url": url} if "url" in known else known)
    if options.get("embedded") == "local" and named.get("embedded") != "local":
        raise ValueError(
            f"the gallery in {str(root)!r} is an emulated Qdrant store, whose files can run code when they are read. "
            "If you wrote it, open it with engine_options={'embedded': 'local'} or --engine-option embedded=local."
        )
    return options


def _check_url(url: Any) -> None:
    parts = urlsplit(url) if isinstance(url, str) else None
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise ValueError(
            f"engine_options['url'] must look like https://node:6333, without a name or password, found {url!r}."
        )


def _on_this_machine(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def point_id(name: str) -> str:
    """Return the point of an id: the same on every machine, so a repeated upsert changes nothing."""
    return str(uuid.uuid5(NAMESPACE, name))


def _connect(options: Mapping[str, Any], root: Path) -> Any:
    if "url" in options:
        key, timeout = os.environ.get("QDRANT_API_KEY"), options.get("timeout", 60)
        if key and not (options["url"].startswith("https://") or _on_this_machine(options["url"])):
            raise ValueError(
                f"QDRANT_API_KEY would go to {options['url']!r} in clear; give an address with https://, or unset the "
                "key where the server has none."
            )
        return _qdrant.QdrantClient(url=options["url"], api_key=key, timeout=timeout)
    tree_inside(root, QDRANT_FOLDERS[options["embedded"]])  # its own files are opened by Qdrant, which follows links
    if options["embedded"] == "edge":
        return EdgeClient(root / QDRANT_FOLDERS["edge"])
    try:
        return _qdrant.QdrantClient(path=str(root / QDRANT_FOLDERS["local"]))
    except RuntimeError as error:
        raise GalleryBusyError(f"{error} close() the index that holds it.") from error


def _retry(call: Callable[[], _T], options: Mapping[str, Any]) -> _T:
    """Repeat a call that a server refused for a passing reason; every call may be repeated without harm."""
    for attempt in range(_ATTEMPTS if "url" in options else 1):
        if attempt:
            time.sleep(0.25 * 2 ** (attempt - 1))
        try:
            return call()
        except Exception as error:  # the client raises its own types per transport
            status = getattr(error, "status_code", None)
            if "url" not in options or isinstance(error, TypeError | ValueError):
                raise
            if status in range(400, 429):
                reason = " ".join(str(error).split())
                raise ValueError(f"Qdrant at {options['url']} refused a request: {reason}") from error
            last = error
    reason = " ".join(str(last).split())
    raise ConnectionError(
        f"Qdrant at {options['url']} did not answer {_ATTEMPTS} times in a row: {reason}. Check that it runs and call "
        "again; what was written stays, and items written twice are the same."
    ) from last


def _words(query: Query) -> list[np.ndarray]:
    return np.split(query.tokens.rows, query.tokens.offsets[1:-1])


def _rank_key(row: tuple[Any, ...]) -> tuple[float, str]:
    return -row[1], row[0]


def _filter(where: Filter | None) -> Any:
    return None if where is None else models.Filter(must=[_condition(where)])


def _condition(where: Filter) -> Any:
    """Say a filter in Qdrant's words; it has none for functions and prefixes."""
    if isinstance(where, Ids):
        return models.HasIdCondition(has_id=[point_id(name) for name in where.ids])
    if isinstance(where, Not):
        return models.Filter(must_not=[_condition(where.part)])
    if isinstance(where, All):
        return models.Filter(must=[_condition(part) for part in where.parts])
    if isinstance(where, OneOf):
        return _one_of([_condition(part) for part in where.parts])
    if isinstance(where, Call) or where.operator == "prefix":
        kind = "a callable" if isinstance(where, Call) else "a prefix"
        raise ValueError(
            f"where[{where.key!r}] is {kind}, which Qdrant cannot run; give values, a list of values or a range."
        )
    field = _path(where.key)
    if where.operator == "in":
        return _one_of([_equal(field, where.key, item) for item in where.operand])
    if where.operator == "eq":
        return _equal(field, where.key, where.operand)
    return _range(field, where)


def _one_of(parts: list[Any]) -> Any:
    """Join by or; of an empty list nothing is true."""
    return models.Filter(should=parts) if parts else models.HasIdCondition(has_id=[])


def _range(field: str, where: Compare) -> Any:
    if isinstance(where.operand, bool) or not isinstance(where.operand, int | float | str):
        raise TypeError(f"where[{where.key!r}]: {where.operator!r} takes a number or a time, found {where.operand!r}.")
    kind = models.DatetimeRange if isinstance(where.operand, str) else models.Range
    try:
        return models.FieldCondition(key=field, range=kind(**{where.operator: where.operand}))
    except ValueError as error:
        raise TypeError(
            f"where[{where.key!r}]: Qdrant orders numbers and ISO times, found {where.operand!r}."
        ) from error


def _path(key: str) -> str:
    return f"meta.{key}" if re.fullmatch(r"[\w-]+", key, re.ASCII) else f'meta."{key}"'


def _equal(field: str, key: str, value: Any) -> Any:
    if isinstance(value, bool | str) or (isinstance(value, int) and abs(value) > 1 << 53):
        return models.FieldCondition(key=field, match=models.MatchValue(value=value))
    if isinstance(value, int | float):  # a match would tell 1 from 1.0
        return models.FieldCondition(key=field, range=models.Range(gte=value, lte=value))
    raise TypeError(f"where[{key!r}] must be a string, number or boolean, or a list of them, found {value!r}.")


def _result(rows: Sequence[Sequence[tuple[Any, ...]]]) -> SearchResult:
    columns = [[[row[i] for row in own] for own in rows] for i in range(5)]
    scores, dots, local = ([np.array(own, dtype=np.float32) for own in columns[i]] for i in (1, 2, 3))
    return SearchResult(columns[0], scores, dots, local, columns[4])
