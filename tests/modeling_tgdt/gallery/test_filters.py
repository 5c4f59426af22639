"""One grammar of filters: the same answers from every engine, equal to Python's own comparison."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from modeling_tgdt.gallery.filters import parse_filter
from modeling_tgdt.index_tgdt import TGDTIndex
from tests.modeling_tgdt.gallery.index_twin import unit
from tests.modeling_tgdt.gallery.test_exact import FAISS, engine_settings

DIM, ITEMS = 8, 60
BIG = 1 << 70
# Filter, and the same in Python over a row, in which a missing value is None.
EXPRESSIONS: list[tuple[dict[str, Any], Callable[[dict[str, Any]], bool]]] = [
    ({"year": 2021}, lambda r: r["year"] == 2021),
    ({"year": {"gte": 2021}}, lambda r: r["year"] is not None and r["year"] >= 2021),
    ({"year": {"gt": 2020.5, "lt": 2023}}, lambda r: r["year"] is not None and 2020.5 < r["year"] < 2023),
    ({"year": {"lte": 2020.5}}, lambda r: r["year"] is not None and r["year"] <= 2020.5),
    ({"year": {"lt": 2021.0}}, lambda r: r["year"] is not None and r["year"] < 2021),
    ({"year": {"not": 2021}}, lambda r: r["year"] != 2021),
    ({"year": {"not": [2020, 2021]}}, lambda r: r["year"] not in (2020, 2021)),
    ({"not": {"year": {"gte": 2021}}}, lambda r: not (r["year"] is not None and r["year"] >= 2021)),
    ({"year": {"in": [2020, 2023]}}, lambda r: r["year"] in (2020, 2023)),
    ({"size": {"gte": 2}}, lambda r: r["size"] >= 2),
    ({"size": {"lt": 1.25}}, lambda r: r["size"] < 1.25),
    ({"or": [{"year": 2020}, {"tag": "sea"}]}, lambda r: r["year"] == 2020 or r["tag"] == "sea"),
    ({"or": []}, lambda r: False),
    ({"and": []}, lambda r: True),
    ({"tag": []}, lambda r: False),
    ({"tag": {"not": []}}, lambda r: True),
    ({"and": [{"tag": "sea"}, {"not": {"day": True}}]}, lambda r: r["tag"] == "sea" and not r["day"]),
    ({"tag": "sea", "day": [True]}, lambda r: r["tag"] == "sea" and r["day"]),
    ({"ids": ["03", "07", "no such item"]}, lambda r: r["id"] in ("03", "07")),
    ({"not": {"ids": ["03"]}, "year": {"lte": 2021}}, lambda r: r["id"] != "03" and (r["year"] or 9999) <= 2021),
    ({"themes": "even"}, lambda r: "even" in r["themes"]),
    ({"themes": {"not": ["odd", "no such"]}}, lambda r: "odd" not in r["themes"]),
    ({"years": {"gte": 2020, "lt": 2002}}, lambda r: any(y >= 2020 for y in r["years"])),
    ({"years": np.uint64(2000)}, lambda r: 2000 in r["years"]),
    ({"not": {"or": [{"day": True}, {"size": {"gt": 2}}]}}, lambda r: not (r["day"] or r["size"] > 2)),
]
# What the gallery's own files answer and Qdrant has no words for.
LOCAL: list[tuple[dict[str, Any], Callable[[dict[str, Any]], bool]]] = [
    ({"tag": {"prefix": "s"}}, lambda r: r["tag"].startswith("s")),
    ({"tag": {"gt": "lake"}}, lambda r: r["tag"] > "lake"),
    ({"year": {"lt": BIG}}, lambda r: r["year"] is not None),
    ({"year": {"gte": -BIG}}, lambda r: r["year"] is not None),
    ({"year": {"gt": BIG}}, lambda r: False),
    ({"year": {"lte": float("inf")}}, lambda r: r["year"] is not None),
    ({"year": {"gte": float("nan")}}, lambda r: False),
    ({"year": lambda year: year % 2 == 0}, lambda r: r["year"] is not None and r["year"] % 2 == 0),
    ({"or": [{"year": lambda year: year > 2022}, {"day": True}]}, lambda r: (r["year"] or 0) > 2022 or r["day"]),
]  # fmt: skip


def rows() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [
        {
            "id": f"{number:02}",
            "year": None if number % 7 == 0 else int(rng.integers(2019, 2025)),
            "tag": str(rng.choice(["sea", "snow", "lake", "hill"])),
            "size": float(rng.integers(0, 16)) / 4,
            "day": bool(rng.integers(2)),
            "themes": [] if number % 5 == 0 else ["all", ["even", "odd"][number % 2]],
            "years": [2000, 2010 + number % 20],
        }
        for number in range(ITEMS)
    ]


def filled(path, **settings) -> TGDTIndex:
    index, rng = TGDTIndex.create(path, dim=DIM, **settings), np.random.default_rng(1)
    items = rows()
    metadata = [{key: value for key, value in row.items() if key != "id" and value is not None} for row in items]
    for part in (slice(0, 40), slice(40, None)):  # more than one segment
        names = [row["id"] for row in items[part]]
        index.add(names, unit(rng, len(names), DIM), unit(rng, len(names), 2, DIM), metadata=metadata[part])
    return index


@pytest.mark.parametrize("engine", ["exact", "faiss", "device", "edge", "server"])
def test_every_engine_answers_as_python_does(tmp_path, engine, request) -> None:
    own_files = engine in ("exact", "faiss", "device")
    index = filled(tmp_path / "g", **({} if engine in ("exact", "device") else engine_settings(engine, request)))
    if engine == "faiss":
        index.compact()
        assert FAISS["engine"] == index.settings["engine"]
    if engine == "device":
        index.to("cpu")
    query = unit(np.random.default_rng(2), 1, DIM)
    for where, right in EXPRESSIONS + (LOCAL if own_files else []):
        found = index.search(query, mode="global", top_k=ITEMS, candidates=ITEMS, where=where).ids[0]
        assert sorted(found) == [row["id"] for row in rows() if right(row)], where


def test_a_date_equals_its_iso_form(tmp_path) -> None:
    index, rng = TGDTIndex.create(tmp_path / "g", dim=DIM), np.random.default_rng(0)
    days = np.array(["2020-05-01", "2021-05-01"], dtype="datetime64[D]").tolist()
    index.add(["a", "b"], unit(rng, 2, DIM), unit(rng, 2, 2, DIM), metadata={"day": days})
    query = unit(rng, 1, DIM)
    assert index.search(query, mode="global", where={"day": "2021-05-01"}).ids == [["b"]]
    with pytest.raises(TypeError, match="where.'day'.: 'soon' does not fit"):
        index.search(query, mode="global", where={"day": "soon"})


def test_times_are_compared_as_times(tmp_path) -> None:
    index = TGDTIndex.create(tmp_path / "g", dim=DIM)
    taken = np.array(["2020-05-01", "2021-05-01", "2022-05-01"], dtype="datetime64[s]").tolist()
    index.add(
        ["a", "b", "c"], unit(np.random.default_rng(0), 3, DIM), [np.zeros((0, DIM))] * 3, metadata={"taken": taken}
    )
    query = unit(np.random.default_rng(2), 1, DIM)
    for where, right in (
        ({"gte": "2021-01-01"}, "bc"),
        ({"lt": "2021-05-01T00:00:01"}, "ab"),
        ({"lt": taken[1]}, "a"),
    ):
        found = index.search(query, mode="global", where={"taken": where}).ids[0]
        assert sorted(found) == list(right)
    with pytest.raises(TypeError, match="does not fit the column's type"):
        index.search(query, mode="global", where={"taken": {"gte": "yesterday"}})


@pytest.mark.parametrize(
    ("where", "error", "message"),
    [
        ({"year": {"above": 3}}, ValueError, "operator of .*, found 'above'"),
        ({"year": None}, TypeError, "found None"),
        ({"year": {"gte": None}}, TypeError, "found None"),
        ({"year": [None]}, TypeError, "found None"),
        ({"year": [[1]]}, TypeError, r"found \[1\]"),
        ({"year": {"in": 3}}, ValueError, "'in' takes a list"),
        ({"tag": {"prefix": 3}}, ValueError, "'prefix' takes a string"),
        ({"or": {"year": 1}}, ValueError, "'or' takes a list of filters"),
        ({"and": [3]}, ValueError, "must be a mapping"),
        ({"not": []}, ValueError, "must be a mapping"),
        ({"ids": "a"}, ValueError, "'ids' takes a list of strings"),
        ({3: 1}, TypeError, "keys of a filter"),
    ],
)
def test_what_is_no_filter_is_refused(where, error, message) -> None:
    with pytest.raises(error, match=message):
        parse_filter(where)


def test_a_deep_filter_is_refused() -> None:
    where: dict[str, Any] = {"year": 1}
    for _ in range(10_000):
        where = {"not": where}
    with pytest.raises(ValueError, match="nested 20 deep"):
        parse_filter(where)
