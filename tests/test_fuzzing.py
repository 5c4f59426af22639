# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Readers of files that may come from anybody: whatever is in them, they return or refuse in their own words."""

import contextlib
import copy
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from modeling_tgdt import TGDTIndex
from modeling_tgdt.gallery.storage import replace_json
from modeling_tgdt.image_loading_tgdt import FORMATS, open_image, read_picture
from modeling_tgdt.retriever.directory import REFERENCE, find_model, read_reference
from modeling_tgdt.retriever.hubness import HubnessOptions
from modeling_tgdt.retriever.loading import load_pretrained
from tests.modeling_tgdt.gallery.forgery import every_file, seal, small_gallery, use
from tests.tiny_retrieval import random_picture, tiny_model, tiny_processor
from trainer.data.annotations import read_annotations
from trainer.data.region_features import open_region_store
from trainer.data.text_files import table_rows
from trainer.recipe import load_recipe

FUZZ = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "20")),  # `make fuzz` takes more
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a failing case is small already
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
REFUSALS = (ValueError, OSError)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
HOSTILE = JSON | st.sampled_from(["../../x", "/etc/passwd", "", ".", "a/b", "\0", 2**40, -1, 0, "int8", "faiss"])


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """All paths in a JSON value."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else []
    return [path, *(place for key, child in children for place in places(child, (*path, key)))]


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    value = copy.copy(value)
    value[path[0]] = replaced(value[path[0]], path[1:], new)
    return value


class Watch:
    """Counts what no reader may do: connect, start programs, unpickle. Python keeps audit hooks for good."""

    EVENTS = ("socket.connect", "subprocess.Popen", "os.system", "os.exec", "pickle.find_class")

    def __init__(self) -> None:
        self.active, self.seen = False, list[str]()
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: Any) -> None:
        if self.active and event in self.EVENTS:
            self.seen.append(f"{event} {arguments!r}"[:200])

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        self.active = True
        try:
            yield
        finally:
            self.active = False
        assert self.seen == []


watch = Watch()


@pytest.fixture(scope="module", autouse=True)
def no_sync() -> Iterator[None]:
    """Durability is not what is tested here, and it takes most of the time."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, rng = tmp_path_factory.mktemp("fuzz") / "gallery", np.random.default_rng(0)
    with TGDTIndex.create(path, dim=4, token_dtype="int8") as index:
        index.add(["a", "b", "c"], rng.normal(size=(3, 4)), rng.normal(size=(3, 2, 4)), metadata={"year": [1, 2, 3]})
        index.delete(["b"])
    return path


@FUZZ
@given(data=st.data())
def test_a_forged_manifest_opens_or_is_refused(gallery: Path, data: st.DataObject) -> None:
    """Its checksum is right: the forger could compute it too. Nothing outside the directory is touched."""
    content = json.loads((gallery / "manifest.json").read_text())
    content.pop("checksum")
    for _ in range(data.draw(st.integers(1, 2))):
        content = replaced(content, data.draw(st.sampled_from(places(content)[1:])), data.draw(HOSTILE))
    with tempfile.TemporaryDirectory() as folder:
        forged = Path(folder, "inner", "gallery")
        shutil.copytree(gallery, forged)
        replace_json(forged / "manifest.json", content)
        with contextlib.suppress(*REFUSALS, ImportError), TGDTIndex.open(forged) as index:
            query = np.ones((1, index.dim), np.float32)
            index.search(query, query[None])
            index.verify()
            index.add(["new"], query, query[None])
        assert [path.name for path in Path(folder).iterdir()] == ["inner"]
        assert [path.name for path in forged.parent.iterdir()] == ["gallery"]


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("engines")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TGDT_GALLERY_KEY", "a stranger's")
        made = {"exact": small_gallery(root / "exact"), "text": small_gallery(root / "text", token_dtype="float16")}
        if importlib.util.find_spec("faiss"):
            options = {"min_rows": 1, "factory": "HNSW8"}
            made["faiss"] = small_gallery(root / "faiss", engine="faiss", engine_options=options)
    return made


@st.composite
def damage(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes changed, cut, doubled, or others in their place."""
    kind = draw(st.sampled_from(["change", "change", "cut", "double", "other"]))
    if kind == "other":
        return draw(st.binary(max_size=64))
    if kind == "double":
        return content * 2
    if kind == "cut" or not content:
        return content[: draw(st.integers(0, len(content)))]
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 8))):
        changed[draw(st.integers(0, len(changed) - 1))] = draw(st.integers(0, 255))
    return bytes(changed)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # forged numbers overflow
@pytest.mark.parametrize("engine", ["exact", "text", "faiss"])
@FUZZ
@given(data=st.data())
def test_forged_files_of_a_gallery_are_used_or_refused(
    engines: dict[str, Path], engine: str, data: st.DataObject
) -> None:
    """Every file of it, with lengths and checksums made right afterwards, or a link in its place."""
    if engine not in engines:
        pytest.skip(f"{engine} is not installed")
    with tempfile.TemporaryDirectory() as folder:
        forged, outside = Path(folder, "inner", "gallery"), Path(folder, "outside")
        shutil.copytree(engines[engine], forged)
        outside.write_bytes(b"outside" * 99)
        for name in data.draw(
            st.lists(st.sampled_from(list(every_file(forged))), min_size=1, max_size=2, unique=True)
        ):
            path = forged / name
            if data.draw(st.sampled_from(["bytes", "bytes", "bytes", "link"])) == "link":
                path.unlink()
                path.symlink_to(outside)
            else:
                path.write_bytes(data.draw(damage(path.read_bytes())))
        with contextlib.suppress(*REFUSALS):
            seal(forged)
        with watch(), contextlib.suppress(*REFUSALS, TypeError):
            use(forged)
        assert outside.read_bytes() == b"outside" * 99
        assert sorted(path.name for path in Path(folder).iterdir()) == ["inner", "outside"]
        assert [path.name for path in forged.parent.iterdir()] == ["gallery"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fuzz") / "model"
    tiny_model().save_pretrained(path)
    tiny_processor().save_pretrained(path)
    HubnessOptions(torch.eye(4), torch.eye(4), neighbors=1).save_pretrained(path)
    for code in path.glob("*.py"):
        code.unlink()
    return path


MODEL_VALUES = st.sampled_from([None, "", "x", "../../x", "\0", -1, 0, 0.5, True, [], [1], {}, {"a": 1}])


@FUZZ
@given(data=st.data())
def test_forged_model_directories_load_or_are_refused(model: Path, data: st.DataObject) -> None:
    """Large sizes are left out: they use memory and time, which nobody promised to spare."""
    with tempfile.TemporaryDirectory() as folder:
        forged = Path(folder, "model")
        shutil.copytree(model, forged)
        path = forged / data.draw(st.sampled_from(sorted(path.name for path in forged.iterdir())))
        if path.suffix == ".json" and data.draw(st.booleans()):
            content = json.loads(path.read_text())
            place = data.draw(st.sampled_from(places(content)))
            path.write_text(json.dumps(replaced(content, place, data.draw(MODEL_VALUES))))
        else:
            path.write_bytes(data.draw(damage(path.read_bytes())))
        with watch(), contextlib.suppress(*REFUSALS, TypeError, ImportError, MemoryError):
            HubnessOptions.from_pretrained(forged, local_files_only=True)
            load_pretrained(str(forged), local_files_only=True)
        assert [path.name for path in Path(folder).iterdir()] == ["model"]


@pytest.fixture(scope="module")
def adapter(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of PEFT beside the model that it adapts."""
    peft = pytest.importorskip("peft", reason="PEFT is not installed")
    path = tmp_path_factory.mktemp("fuzz") / "adapter"
    shutil.copytree(model, path)
    options: dict[str, Any] = {"target_modules": ["query", "value"], "modules_to_save": ["text_projection"]}
    peft.get_peft_model(tiny_model(), peft.LoraConfig(r=2, **options)).save_pretrained(path)
    return path


@pytest.mark.filterwarnings("ignore::UserWarning:peft")  # of what a forged configuration asks for
@settings(FUZZ, max_examples=max(1, FUZZ.max_examples // 4))
@given(data=st.data())
def test_forged_adapters_load_or_are_refused(adapter: Path, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        forged = Path(folder, "adapter")
        shutil.copytree(adapter, forged)
        if data.draw(st.booleans()):
            path = forged / "adapter_config.json"
            content = json.loads(path.read_text())
            place = data.draw(st.sampled_from(places(content)))
            path.write_text(json.dumps(replaced(content, place, data.draw(MODEL_VALUES))))
        else:
            path = forged / "adapter_model.safetensors"
            path.write_bytes(data.draw(damage(path.read_bytes())))
        if data.draw(st.booleans()):
            (forged / "config.json").unlink()  # an adapter alone names its model
        with watch(), contextlib.suppress(*REFUSALS, TypeError, ImportError, MemoryError):
            load_pretrained(str(forged), local_files_only=True)
        assert [path.name for path in Path(folder).iterdir()] == ["adapter"]


@pytest.mark.parametrize(
    "value", ["1", float("nan"), None, True, 10**400], ids=["text", "nan", "null", "truth", "huge"]
)
@pytest.mark.parametrize("key", ["max_norm", "max_residual", "global_weight"])
def test_numbers_in_a_manifest_are_numbers(gallery: Path, tmp_path: Path, key: str, value: Any) -> None:
    content = json.loads((gallery / "manifest.json").read_text())
    content.pop("checksum")
    (content["settings"] if key in content["settings"] else content["segments"][0])[key] = value
    shutil.copytree(gallery, tmp_path / "gallery")
    replace_json(tmp_path / "gallery" / "manifest.json", content)
    with pytest.raises(ValueError, match=f"{key} is .* expected a number"):
        TGDTIndex.open(tmp_path / "gallery")


@pytest.mark.parametrize("name", ["../../outside", "/tmp/outside", "..", "a/b", ""])
def test_names_in_a_manifest_stay_in_its_directory(gallery: Path, tmp_path: Path, name: str) -> None:
    content = json.loads((gallery / "manifest.json").read_text())
    content.pop("checksum")
    content["segments"][0]["name"] = name
    shutil.copytree(gallery, tmp_path / "gallery")
    replace_json(tmp_path / "gallery" / "manifest.json", content)
    with pytest.raises(ValueError, match="is not a file of a gallery"):
        TGDTIndex.open(tmp_path / "gallery")


def read_first(path: Path, key: str) -> Any:
    store = open_region_store(path)
    return store.read(key) if key in store else None


READERS: dict[str, Callable[[Path], Any]] = {
    "manifest.json": lambda path: TGDTIndex.open(path.parent),
    REFERENCE: lambda path: find_model(path.parent, read_reference(path.parent), local_files_only=True),
    "captions.json": lambda path: read_annotations(path, None),
    "captions.token": lambda path: read_annotations(path, None),
    "captions.csv": lambda path: list(table_rows(path)),
    "captions.tsv": lambda path: list(table_rows(path)),
    "recipe.yaml": load_recipe,
    "a.npz": lambda path: read_first(path.parent, "a"),
    "a.npy": lambda path: read_first(path, "0"),
    "a.tsv": lambda path: read_first(path, "a"),
}
SHAPES = st.sampled_from(
    [
        {"images": [{"filename": "a.jpg", "split": "test", "sentences": [{"raw": "a cat"}], "imgid": 0}]},
        {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "caption": "a cat"}]},
        {"model": "user/name", "revision": None, "pictures": None},
        {"dataset": "scenes", "training": {"max_steps": 1}, "model": {"projection_dim": 8}},
    ]
)


@st.composite
def file_contents(draw: st.DrawFn) -> bytes:
    """Bytes, text, or JSON near to what a reader expects (which is YAML as well)."""
    kind = draw(st.sampled_from(["bytes", "text", "json"]))
    if kind == "bytes":
        return draw(st.sampled_from([b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00"])) + draw(st.binary(max_size=64))
    if kind == "text":
        return draw(st.text("a0,\t\"'#:0.jpg\n{}[]", max_size=48)).encode()
    value = draw(SHAPES)
    return json.dumps(replaced(value, draw(st.sampled_from(places(value))), draw(HOSTILE))).encode()


@pytest.mark.parametrize("name", READERS)
@FUZZ
@given(content=file_contents())
def test_readers_return_or_refuse(name: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(content)
        with contextlib.suppress(*REFUSALS):
            READERS[name](path)


@pytest.mark.parametrize("name", ["manifest.json", REFERENCE, "captions.json"])
def test_a_deep_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("[" * 100_000)
    with pytest.raises(ValueError, match="damaged|nested"):
        READERS[name](tmp_path / name)


def test_features_with_code_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", feat=np.array([{"code": 1}], dtype=object))
    with pytest.raises(ValueError, match="not a readable NumPy file.*allow_pickle"):
        open_region_store(tmp_path).read("a")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM"])
@FUZZ
@given(data=st.data())
def test_damaged_pictures_open_or_are_refused(kind: str, data: st.DataObject, tmp_path: Path) -> None:
    buffer = BytesIO()
    random_picture(0).save(buffer, kind)
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(content[: data.draw(st.integers(0, len(content)))])
    with contextlib.suppress(ValueError):
        assert read_picture(damaged).size
    path = tmp_path / "picture"
    path.write_bytes(damaged)
    with contextlib.suppress(ValueError):
        assert open_image(path).size


@pytest.mark.parametrize("read", [open_image, read_picture])
def test_formats_that_run_programs_are_refused(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    path = tmp_path / "picture.eps"
    random_picture(0).save(path, "EPS")
    assert "EPS" not in FORMATS
    with pytest.raises(ValueError, match="picture"):
        read(path)
