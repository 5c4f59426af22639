# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Cards for the Hub: of a model, a gallery, the metric and the Space, written from what was recorded."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData, ModelCard, ModelCardData, SpaceCardData
from huggingface_hub.repocard import RepoCard, SpaceCard

from modeling_tgdt.index_tgdt import TGDTIndex
from modeling_tgdt.retriever.shown import code, markdown

from .facts import architecture, base_models, region_width, shaping_recipe, training_lines
from .privacy import public_command
from .results import MODES, PROTOCOLS, eval_results, evaluated_split, measured, write_eval_results
from .snippets import custom_code, gallery_code, retriever_code
from .sources import DataSource, data_source
from .tables import results_table, sweep_table

MARKER = "<!-- Written by tgdt, and written anew when the model is pushed. Remove this line to keep your changes. -->"
CITATION = """@article{liu2023tgdt,
  title = {Efficient Token-Guided Image-Text Retrieval with Consistent Multimodal Contrastive Training},
  author = {Liu, Chong and Zhang, Yuqi and Wang, Hongsong and Chen, Weihua and Wang, Fan and Huang, Yan and
            Shen, Yi-Dong and Wang, Liang},
  journal = {IEEE Transactions on Image Processing},
  year = {2023},
  url = {https://arxiv.org/abs/2306.08789}
}"""
_HERE = Path(__file__).parent
_TAGS = ["tgdt", "image-text-retrieval", "cross-modal-retrieval", "late-interaction", "arxiv:2306.08789"]
_COMMON: dict[str, Any] = {"marker": MARKER, "citation": CITATION}

Source = str | os.PathLike[str] | Mapping[str, Any]


def model_card(
    source: Source,
    repo_id: str | None = None,
    *,
    config: Mapping[str, Any] | None = None,
    gallery: bool | None = None,
    adapter: bool | None = None,
    **metadata: Any,
) -> ModelCard:
    """Write the card of a model from what its run recorded; what was not recorded is left out.

    Args:
        source: Model directory, of which `run.json` and `config.json` are read where they are; or a record.
        repo_id: Where it will be on the Hub; without it the code blocks load the directory by its name.
        config: Content of `config.json`, for a record.
        gallery: Whether a gallery comes with the model; by default, whether the directory has one.
        adapter: Whether it is an adapter of PEFT, which loads the model that it names; by default, whether the
            directory holds one and no model.
        **metadata: Front matter that replaces ours, such as `license="mit"`.

    Raises:
        ValueError: When `run.json` is damaged.

    Example:
        >>> model_card({}, "user/model").data.library_name
        'transformers'
    """
    try:
        return _model_card(source, repo_id, config, gallery, adapter, metadata)
    except (ValueError, AttributeError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(
            f"Expected run.json and config.json as tgdt writes them, found {type(error).__name__}: {error}. "
            "Repair or remove them."
        ) from error


def _model_card(
    source: Source,
    repo_id: str | None,
    config: Mapping[str, Any] | None,
    gallery: bool | None,
    adapter: bool | None,
    metadata: Mapping[str, Any],
) -> ModelCard:
    record = read_record(source)
    folder = None if isinstance(source, Mapping) else Path(source)
    config = config or (_read_json(folder / "config.json") if folder else {})
    name = repo_id or (re.sub(r"[^\w./ -]", "_", folder.resolve().name) if folder else "tgdt-model")
    if gallery is None:
        gallery = folder is not None and (folder / "index" / "manifest.json").exists()
    if adapter is None:
        adapter = folder is not None and (folder / "adapter_config.json").exists() and not config
    data = data_source(record)
    width = region_width(config, record)
    content = {
        **_results_part(record),
        **_data_part(data),
        "title": markdown(name.rpartition("/")[2]),
        "description": markdown(shaping_recipe(record).get("description") or ""),
        "retriever_code": retriever_code(name, gallery=gallery, region_width=width),
        "custom_code": None if adapter else custom_code(name, region_width=width),
        "architecture": architecture(config, record),
        "training": training_lines(record),
        "base_models": base_models(record),
        "reads_regions": width is not None,
        **_COMMON,
    }
    front = _front_matter(record, data, name) | ({"library_name": "peft"} if adapter else {})
    card = ModelCard.from_template(
        ModelCardData(**{**front, **metadata}), template_path=str(_HERE / "templates/model.md"), **content
    )
    return ModelCard(_tidy(str(card)))


def write_model_card(folder: str | os.PathLike[str], repo_id: str | None = None, **options: Any) -> Path | None:
    """Write `README.md` and `.eval_results` into a model directory; None when somebody edited the card there.

    Args:
        folder: Model directory.
        repo_id: Where it will be on the Hub.
        **options: Of [`model_card`].
    """
    path = Path(folder, "README.md")
    record = read_record(folder)
    write_eval_results(Path(folder), record, data_source(record))
    if path.exists() and MARKER not in path.read_text(encoding="utf-8"):
        return None
    model_card(folder, repo_id, **options).save(path)
    return path


def gallery_card(
    gallery: TGDTIndex | str | os.PathLike[str], repo_id: str, model_id: str | None = None
) -> DatasetCard:
    """Write the card of a gallery that is a dataset repository.

    Args:
        gallery: The gallery or its directory.
        repo_id: Where it will be on the Hub.
        model_id: Model that built it, on the Hub.
    """
    index = gallery if isinstance(gallery, TGDTIndex) else TGDTIndex.open(Path(gallery))
    settings = index.settings
    model = model_id or settings["model_id"]
    facts = [
        ("model", f"[{model}](https://huggingface.co/{model})" if model_id else model and markdown(model)),
        ("revision of the weights", markdown(settings["model_revision"] or "")),
        ("items", f"{len(index):,} {index.kind}s"),
        ("embeddings", f"{index.dim} dimensions, tokens as {settings['token_dtype']}"),
        ("global embeddings", "" if index.global_dim == index.dim else f"cut to {index.global_dim} dimensions"),
        ("engine of stage one", settings["engine"]),
    ]
    content = {
        "title": repo_id.rpartition("/")[2],
        "count": len(index),
        "kind": index.kind,
        "code": gallery_code(repo_id),
        "facts": [(name, value) for name, value in facts if value],
        **_COMMON,
    }
    data = DatasetCardData(pretty_name=content["title"], tags=["tgdt", "embeddings", "image-text-retrieval"])
    card = DatasetCard.from_template(data, template_path=str(_HERE / "templates/gallery.md"), **content)
    return DatasetCard(_tidy(str(card)))


def metric_card() -> RepoCard:
    """Return the card of the metric `image_text_recall`, which lies beside its code."""
    return RepoCard.load(_HERE / "metric/image_text_recall/README.md")


def space_card(repo_id: str, model_id: str, *, gallery: bool = True, sdk_version: str | None = None) -> SpaceCard:
    """Write the card of the Space, whose front matter the Hub runs it by.

    Args:
        repo_id: Where the Space will be.
        model_id: Model that it serves.
        gallery: Whether the model comes with a gallery.
        sdk_version: Gradio's version; the one that is installed by default.
    """
    data = SpaceCardData(
        title=repo_id.rpartition("/")[2],
        sdk="gradio",
        sdk_version=sdk_version or _gradio_version(),
        app_file="app.py",
        license="apache-2.0",
        models=[model_id],
        tags=["tgdt", "image-text-retrieval"],
    )
    path = str(_HERE / "templates/space.md")
    card = SpaceCard.from_template(data, path, model_id=model_id, gallery=gallery, marker=MARKER)
    return SpaceCard(_tidy(str(card)))


def read_record(source: Source) -> Mapping[str, Any]:
    """Return what a run recorded; empty when it recorded nothing.

    Args:
        source: Directory of the run, or the record itself.

    Raises:
        ValueError: When `run.json` is damaged.
    """
    return source if isinstance(source, Mapping) else _read_json(Path(source, "run.json"))


def _front_matter(record: Mapping[str, Any], data: DataSource | None, name: str) -> dict[str, Any]:
    results = eval_results(record, data)
    front: dict[str, Any] = {
        "language": "en" if data else None,
        "library_name": "transformers",
        "pipeline_tag": "zero-shot-image-classification",
        "tags": _TAGS,
        "base_model": base_models(record) or None,
        "datasets": [data.hub_id] if data and data.hub_id else None,
        "metrics": ["recall"] if results else None,
        "co2_eq_emissions": record.get("co2_eq_emissions"),
    }
    if data is not None and data.free:
        front["license"] = "apache-2.0"
    elif data is not None and data.terms_url:
        front |= {"license": "other", "license_name": f"{data.key}-terms", "license_link": data.terms_url}
    if results:
        front |= {"model_name": name.rpartition("/")[2], "eval_results": results}
    return front


def _results_part(record: Mapping[str, Any]) -> dict[str, Any]:
    results, protocol = measured(record), record.get("protocol") or "standard"
    rows = {markdown(mode): metrics for mode, metrics in results.items()}
    sweep = record.get("shortlist_sweep") if record.get("command") else None
    return {
        "results_table": results_table(rows) if rows else None,
        "protocol": code(protocol),
        "protocol_text": PROTOCOLS.get(protocol, PROTOCOLS["standard"]),
        "split": code(evaluated_split(record)),
        "seed": markdown(record.get("seed")),
        "modes": [(mode, MODES[mode]) for mode in results if mode in MODES],
        "command": public_command(record.get("command") or "").replace("```", "` ` `"),
        "sweep_table": sweep_table(sweep) if sweep else None,
    }


def _data_part(data: DataSource | None) -> dict[str, Any]:
    if data is None:
        return {}
    drawn = data.key == "scenes"
    return {
        "data_name": data.name,
        "data_terms": data.terms,
        "data_url": data.terms_url,
        "data_is_drawn": drawn,
    }


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} is damaged ({error}). Write it again, or remove it.") from error


def _gradio_version() -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("gradio")
    except PackageNotFoundError:
        return None


def _tidy(text: str) -> str:
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


__all__ = ["MARKER", "gallery_card", "metric_card", "model_card", "read_record", "space_card", "write_model_card"]
