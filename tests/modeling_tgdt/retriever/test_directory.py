# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""A retriever as a directory and as a repository: references to models, copies of galleries, what is sent."""

import json
import re
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import ModelCard

from modeling_tgdt.retrieval_tgdt import TGDTRetriever
from modeling_tgdt.retriever import directory as files
from modeling_tgdt.retriever.fingerprint import check_gallery_model, model_identity
from tests.download_cache import as_download_cache
from tests.tiny_retrieval import random_picture, tiny_model, tiny_processor, tiny_retriever


@pytest.fixture(scope="module")
def retriever() -> TGDTRetriever:
    made = tiny_retriever()
    made.add_images([random_picture(seed) for seed in range(3)], progress=False)
    return made


class FakeHub:
    """Stands in for HfApi and remembers commits."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {
            "index/segment-old/tokens": b"",
            "README.md": b"---\ntags: [mine]\n---\n# Mine\n",
        }
        self.commits: list[list[str]] = []
        self.branches: list[str] = []
        self.options: dict[str, Any] = {}

    def __call__(self, token: str | None = None) -> "FakeHub":
        return self

    def create_branch(self, repo_id: str, branch: str, exist_ok: bool, repo_type: str) -> None:
        self.branches.append(branch)

    def hf_hub_download(self, repo_id: str, filename: str, **options: Any) -> Path:
        path = Path(tempfile.mkdtemp(), filename)
        path.write_bytes(self.files[filename])
        return path

    def create_repo(self, repo_id: str, **options: Any) -> Any:
        return SimpleNamespace(repo_id=repo_id)

    def list_repo_files(self, repo_id: str, repo_type: str, revision: str | None = None) -> list[str]:
        return list(self.files)

    def create_commit(self, repo_id: str, operations: list[Any], repo_type: str, **options: Any) -> str:
        self.options = options
        self.commits.append([operation.path_in_repo for operation in operations])
        for operation in operations:
            if isinstance(operation, files.CommitOperationDelete):
                del self.files[operation.path_in_repo]
            else:
                with operation.as_file() as source:
                    self.files[operation.path_in_repo] = source.read()
        return f"https://hub/{repo_id}/commit/1"


def test_push_sends_one_commit_that_loads_again(
    retriever: TGDTRetriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = FakeHub()
    monkeypatch.setattr(files, "HfApi", hub)
    assert retriever.push_to_hub("user/repo") == "https://hub/user/repo/commit/1"
    assert len(hub.commits) == 1
    assert "index/segment-old/tokens" not in hub.files
    assert {"README.md", "config.json", "model.safetensors", "processor_config.json", "index/manifest.json"} <= set(
        hub.files
    )
    assert not any(name.endswith("writer.lock") for name in hub.files)
    for name, data in hub.files.items():
        (tmp_path / "repo" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "repo" / name).write_bytes(data)
    monkeypatch.setattr(files, "snapshot_download", lambda name, revision, **options: str(tmp_path / "repo"))
    pulled = TGDTRetriever.from_pretrained("user/repo", revision="main")
    assert pulled.search("sea") == retriever.search("sea")


def test_a_push_takes_the_options_of_a_model(
    retriever: TGDTRetriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = FakeHub()
    monkeypatch.setattr(files, "HfApi", hub)
    retriever.push_to_hub("user/repo")
    assert hub.options == {"commit_message": "Upload retriever"} and not hub.branches
    assert hub.files["README.md"].endswith(b"# Mine\n")  # a card that is there stays
    retriever.push_to_hub(
        "user/repo", commit_message="Two", commit_description="More", revision="next", create_pr=True,
        tags=["birds", "mine"], max_shard_size="20KB",
    )  # fmt: skip
    expected = {"commit_message": "Two", "commit_description": "More", "revision": "next", "create_pr": True}
    assert hub.options == expected and hub.branches == ["next"]
    card = ModelCard(hub.files["README.md"].decode())
    assert card.data.tags == ["mine", "birds"] and "# Mine" in card.text
    assert "model.safetensors.index.json" in hub.files  # shards


def test_a_repository_without_a_card_gets_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = FakeHub()
    hub.files.clear()
    monkeypatch.setattr(files, "HfApi", hub)
    made = tiny_retriever()
    made.add_images([random_picture(seed) for seed in range(3)], progress=False)
    made.save_pretrained(tmp_path / "saved", push_to_hub=True, repo_id="user/repo", tags=["birds"])
    card = ModelCard(hub.files["README.md"].decode())
    assert card.data.to_dict() == {
        "library_name": "transformers", "pipeline_tag": "zero-shot-image-classification",
        "tags": ["tgdt", "image-text-retrieval", "birds"],
    }  # fmt: skip
    assert "with a gallery of 3 images" in card.text
    (code,) = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    exec(code.replace("user/repo", str(tmp_path / "saved")), {})
    with pytest.raises(TypeError, match="push_to_hub=True for the option 'tags'"):
        made.save_pretrained(tmp_path / "saved", tags=["birds"])


def test_loading_options_reach_model_and_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, seen = tiny_retriever(), {}
    made.save_pretrained(tmp_path)

    def download(name: str, revision: str | None = None, **options: Any) -> str:
        seen.update(options, revision=revision)
        return str(tmp_path)

    monkeypatch.setattr(files, "snapshot_download", download)
    options = {"token": "hf_dummy", "cache_dir": str(tmp_path / "cache"), "attn_implementation": "eager"}
    loaded = TGDTRetriever.from_pretrained("user/repo", revision="v1", **options)
    assert (seen["revision"], seen["token"], seen["cache_dir"]) == ("v1", "hf_dummy", str(tmp_path / "cache"))
    assert "attn_implementation" not in seen
    assert loaded.model.config._attn_implementation == "eager"
    with pytest.raises(TypeError, match="foo"):
        TGDTRetriever.from_pretrained(tmp_path, foo=1)


def test_a_missing_repository_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> str:
        raise FileNotFoundError("cannot find it in the cache")

    monkeypatch.setattr(files, "snapshot_download", refuse)
    with pytest.raises(OSError, match=r"'user/nothing' is not a directory here.*in the cache"):
        TGDTRetriever.from_pretrained("user/nothing")


def test_a_gallery_in_a_cache_of_links_is_read_only(retriever: TGDTRetriever, tmp_path: Path) -> None:
    retriever.save_pretrained(tmp_path / "saved")
    snapshot = as_download_cache(tmp_path / "saved", tmp_path / "hub" / "models--user--repo")
    pulled = TGDTRetriever.from_pretrained(snapshot)
    assert pulled.search("sea") == retriever.search("sea")
    with pytest.raises(OSError, match="copy the gallery"):
        pulled.add_images([random_picture(9)], progress=False)
    name, revision = model_identity(pulled.model)
    assert name == "user/repo"
    assert revision.startswith("0" * 40 + "+weights.")
    pulled.save_pretrained(tmp_path / "own")
    own = TGDTRetriever.from_pretrained(tmp_path / "own")
    assert own.add_images([random_picture(9)], ids=["new"], progress=False).added == 1


def test_a_reference_names_the_model_relative_to_the_gallery(retriever: TGDTRetriever, tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path / "all" / "model")
    tiny_processor().save_pretrained(tmp_path / "all" / "model")
    assert retriever.index is not None
    files.copy_gallery(retriever.index.path, tmp_path / "all" / "g" / "index")
    files.write_reference(tmp_path / "all" / "g", str(tmp_path / "all" / "model"))
    assert json.loads((tmp_path / "all" / "g" / "retriever.json").read_text())["model"] == "../model"
    (tmp_path / "all").rename(tmp_path / "moved")
    assert TGDTRetriever.from_pretrained(tmp_path / "moved" / "g").search("sea") == retriever.search("sea")
    (tmp_path / "moved" / "g" / "retriever.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        TGDTRetriever.from_pretrained(tmp_path / "moved" / "g")


@pytest.mark.parametrize("named", ["../../own", "{root}/own"], ids=["relative", "absolute"])
def test_a_downloaded_reference_leads_nowhere_on_this_machine(
    tmp_path: Path, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own").mkdir()
    made = tmp_path / "made"
    files.write_reference(made, "model")
    (made / "model").mkdir()
    (made / "model" / "config.json").write_text("{}")
    snapshot = as_download_cache(made, tmp_path / "cache")
    assert files.find_model(snapshot, files.read_reference(snapshot)) == snapshot / "model"
    asked: list[str] = []
    monkeypatch.setattr(files, "snapshot_download", lambda name, **_: asked.append(name) or str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "user" / "repo").mkdir(parents=True)
    for reference in ("user/repo", named.format(root=tmp_path)):
        assert files.find_model(snapshot, {"model": reference}) == tmp_path
        assert files.find_model(made, {"model": "user/repo"}) == Path("user/repo")  # one's own names what is here
    assert asked == ["user/repo", named.format(root=tmp_path)]


@pytest.mark.parametrize("address", ["http://stranger/model", "//stranger/share", "\\\\stranger\\share"])
@pytest.mark.parametrize("key", ["model", "pictures"])
def test_a_reference_names_no_network_address(tmp_path: Path, key: str, address: str) -> None:
    (tmp_path / "retriever.json").write_text(json.dumps({"model": "user/repo", key: address}))
    with pytest.raises(ValueError, match=f"its {key} is .*no repository"):
        files.read_reference(tmp_path)


def test_copies_are_whole_and_without_locks(retriever: TGDTRetriever, tmp_path: Path) -> None:
    assert retriever.index is not None
    for _ in range(2):
        files.copy_gallery(retriever.index.path, tmp_path / "copy")
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
    assert not (tmp_path / "copy" / "writer.lock").exists()
    copied = files.open_index(tmp_path / "copy")
    assert copied is not None
    assert copied.verify() == []
    files.copy_gallery(tmp_path / "copy", tmp_path / "copy")
    assert files.open_index(tmp_path) is None


def test_a_gallery_keeps_its_directory_when_the_model_is_saved_into_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tiny_retriever()
    made.create_index(tmp_path / "g")
    made.add_images([random_picture(0)], progress=False)
    made.save_pretrained(tmp_path / "g")
    assert len(list((tmp_path / "g").rglob("model.safetensors"))) == 1
    assert not (tmp_path / "g" / "index").exists()
    made.add_images([random_picture(1)], progress=False)
    assert len(TGDTRetriever.from_pretrained(tmp_path / "g").index or ()) == 2
    made.save_pretrained(tmp_path / "other")  # nor does the model go along as a part of the gallery
    assert len(list((tmp_path / "other").rglob("model.safetensors"))) == 1
    assert TGDTRetriever.from_pretrained(tmp_path / "other").search("sea") == made.search("sea")
    hub = FakeHub()
    monkeypatch.setattr(files, "HfApi", hub)
    made.push_to_hub("user/repo")
    assert [name for name in hub.files if name.endswith(".safetensors")] == ["model.safetensors"]
    assert "index/manifest.json" in hub.files and any(name.startswith("index/segment-") for name in hub.files)


@pytest.mark.parametrize(("gallery", "folder"), [("g", "g/deeper"), ("g/index/deeper", "g")])
def test_a_copy_that_would_hold_or_lie_in_the_gallery_is_refused(gallery: str, folder: str, tmp_path: Path) -> None:
    made = tiny_retriever()
    made.create_index(tmp_path / gallery)
    made.add_images([random_picture(0)], progress=False)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="apart from the gallery"):
        made.save_pretrained(tmp_path / folder)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_gallery_with_a_plain_revision_is_compared_by_it(tmp_path: Path) -> None:
    made = tiny_retriever()
    made.create_index(tmp_path / "g", model_id="user/repo", model_revision="a" * 40)
    assert made.index is not None
    made.model.name_or_path = "user/repo"
    made.model.config._commit_hash = "a" * 40
    check_gallery_model(made.index, made.model)
    made.model.config._commit_hash = "b" * 40
    with pytest.raises(ValueError, match="Load the model that built it"):
        check_gallery_model(made.index, made.model)
