# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""TGDTRetriever: a model, its processor and a gallery, searched with words or pictures in two stages."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Mapping, Sized
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from .encoding_tgdt import Embeddings, Encoder, PreparedImage, check_text
from .explain_tgdt import Alignment, explain, scored_words
from .gallery.backend import SearchMode
from .gallery.processes import ProcessGroup, process_group
from .gallery.storage import GalleryBusyError
from .index_tgdt import Kind, TGDTIndex
from .modeling_tgdt import TGDTModel
from .processing_tgdt import TGDTProcessor
from .retriever.composed import ComposedQuery, EncodedPart, search_composed
from .retriever.directory import (
    find_directory,
    find_model,
    open_index,
    read_reference,
    split_options,
)
from .retriever.duplicates import check_threshold, group_hits
from .retriever.filling import AddReport, GalleryFiller, OnError, name_items
from .retriever.fingerprint import check_gallery_model, model_identity, weights_state
from .retriever.hubness import HubnessOptions
from .retriever.loading import load_backend
from .retriever.matches import Hit, Match, hits_of, match_words
from .retriever.picture_sources import picture_items
from .retriever.publishing import PublishingMixin
from .retriever.temporary import temporary_index
from .retriever.threshold import ScoreThreshold
from .retriever.tuning import TuningMixin
from .runtimes.onnx import OnnxModel

_TEXT_BATCHES = 16


class TGDTRetriever(TuningMixin, PublishingMixin):
    """Indexes and searches pictures or texts.

    Args:
        model: TGDTModel; it is moved to `device` and used in evaluation mode.
        processor: TGDTProcessor.
        index: Gallery to search, built with this model. None: the first `add_*` makes one in a temporary directory.
        device: Where the model runs; where it is now by default.
        hubness: Reference queries of the model. A gallery made with them ranks items lower that are near every query.

    Raises:
        ValueError: When another model built the gallery.

    Example:
        `retriever = TGDTRetriever.from_pretrained("user/repo"); retriever.add_images("photos");
        retriever.search("a dog on a beach")[0].id`
    """

    def __init__(
        self,
        model: TGDTModel,
        processor: TGDTProcessor,
        index: TGDTIndex | None = None,
        device: str | torch.device | None = None,
        *,
        hubness: HubnessOptions | None = None,
    ) -> None:
        if index is not None:
            check_gallery_model(index, model)
        self.model = model if device is None else model.to(device)  # type: ignore[arg-type]
        self.hubness = hubness
        self._encoder = Encoder(model, processor)
        self.processor = self._encoder.processor
        self.index = index
        self._weights = weights_state(self.model)

    def __repr__(self) -> str:
        config, device = self.model.config, self.model.device
        return f"TGDTRetriever(dim={config.projection_dim}, device={str(device)!r}, index={self.index!r})"

    def create_index(
        self,
        path: str | os.PathLike[str] | None = None,
        kind: Kind = "image",
        *,
        exist_ok: bool = False,
        **options: Any,
    ) -> TGDTIndex:
        """Make an empty gallery for this model and use it from now on.

        Args:
            path: Its directory; None for a temporary one, which goes with the retriever.
            kind: "image" or "text".
            exist_ok: If there is a gallery already, open it with its own options instead of refusing.
            **options: Of `TGDTIndex.create`, such as `token_dtype`, `global_dim` and `engine`. `hubness` is on by
                default where the model has reference queries.

        Returns:
            The gallery, which records the weights of the mixed score and which model it belongs to.

        Raises:
            FileExistsError: When there is a gallery, without `exist_ok`.
            ValueError: When another model built the gallery that is there.
        """
        if exist_ok and path is not None and self._open_index(Path(path), options.get("engine_options")):
            return self._searchable()
        self._weights = weights_state(self.model)
        config = self.model.config
        model_id, revision = model_identity(self.model)
        settings: dict[str, Any] = {
            "dim": config.projection_dim,
            "model_id": model_id,
            "model_revision": revision,
            "global_weight": config.global_score_weight,
            "local_weight": config.local_score_weight,
            "reduction": config.similarity_reduction,
            "scale": config.similarity_scale,
            "hubness": self.hubness is not None,
        }
        settings |= {"kind": kind, **options}
        while True:
            try:
                self.index = temporary_index(settings) if path is None else TGDTIndex.create(Path(path), **settings)
                return self.index
            except (FileExistsError, GalleryBusyError):  # another process is making it, or has just made it
                if not exist_ok or path is None:
                    raise
                if self._open_index(Path(path), options.get("engine_options")):
                    return self._searchable()
                time.sleep(0.05)  # should the other one die, this one makes it

    def _open_index(self, path: Path, engine_options: Mapping[str, Any] | None) -> bool:
        """Use the gallery that is there; return whether there is one."""
        index = open_index(path, engine_options)
        if index is not None:
            check_gallery_model(index, self.model)
            self.index = index
        return index is not None

    def add_images(
        self,
        images: Any,
        ids: Iterable[str] | None = None,
        metadata: Any = None,
        batch_size: int = 32,
        on_error: OnError = "raise",
        *,
        resume: bool = False,
        workers: int | None = None,
        progress: bool = True,
        max_pixels: int | None = None,
        draft: bool = False,
        share: bool = True,
    ) -> AddReport:
        """Read, embed and store pictures; memory stays bounded whatever the source.

        In a program of several processes (`torch.distributed`) every process makes this call with the same source and
        gallery. Each embeds a share, and one commit shows them all. Processes with galleries of their own fill those.

        Args:
            images: Folder, list or generator of pictures (path, URL, bytes, PIL, array, tensor, or
                `{"features", "boxes", "image_size"}` regions), or a `datasets.Dataset` with an image column.
            ids: One string per picture. By default relative paths of a folder, paths of a list, the column
                `image_id`, or running numbers.
            metadata: One dict per picture, or a dict of columns.
            batch_size: Pictures per forward pass.
            on_error: `"raise"` at a picture that cannot be read, or `"skip"` and report it.
            resume: Leave out ids that are in the gallery, to go on after an interruption.
            workers: Threads that decode; the number of cores by default.
            progress: Whether to show a progress bar.
            max_pixels: Largest picture that is decoded, width x height; `PIL.Image.MAX_IMAGE_PIXELS` by default.
            draft: Decode large JPEGs at a smaller scale, at least twice the size that the model reads. This is faster,
                and the embeddings are nearly those of the full size.
            share: Pass False where only one of several processes makes this call.

        Returns:
            What was added and what was skipped, with reasons.

        Raises:
            ValueError: For an unreadable picture, or when the gallery holds texts.
            TypeError: When the source is not a collection of pictures.
        """
        index = self._writable("image")
        prepare = partial(self.prepare_image, max_pixels=max_pixels, draft=draft)
        filler = self._filler(
            index, prepare, self.encode_images, batch_size, on_error, resume, workers, progress, share
        )
        left_out: dict[str, str] = {}
        items = name_items(picture_items(images, left_out), index, ids, metadata, resume)
        report = filler.fill(items, _length(images))
        report.leave_out(left_out)
        return report

    def add_texts(
        self,
        texts: Iterable[str],
        ids: Iterable[str] | None = None,
        metadata: Any = None,
        batch_size: int = 64,
        on_error: OnError = "raise",
        *,
        resume: bool = False,
        progress: bool = True,
        share: bool = True,
    ) -> AddReport:
        """Embed and store texts; see `add_images`. Ids are running numbers by default.

        Raises:
            ValueError: When the gallery holds pictures.
            TypeError: When an item is not a string.
        """
        if isinstance(texts, str):
            raise TypeError(f"Expected a list of texts, found the single string {texts!r}. Pass [{texts!r}].")
        index = self._writable("text")
        filler = self._filler(index, check_text, self.encode_texts, batch_size, on_error, resume, 1, progress, share)
        filler.batch_size *= _TEXT_BATCHES  # the encoder sorts these by length and cuts them into batches
        return filler.fill(name_items(((None, text) for text in texts), index, ids, metadata, resume), _length(texts))

    def encode_images(self, images: Iterable[Any], batch_size: int = 32) -> Embeddings:
        """Embed N pictures or regions: global embeddings (N, D) and N ragged region arrays (Ri, D), input order."""
        if isinstance(images, str | bytes | os.PathLike) or not isinstance(images, Iterable):
            raise TypeError(
                f"Expected a list of pictures, found the single {type(images).__name__}. Put it into a list."
            )
        return self._encoder.encode_images(images, batch_size)

    def encode_texts(self, texts: Iterable[str], batch_size: int = 64) -> Embeddings:
        """Embed N texts: global embeddings (N, D) and N ragged word arrays (Wi, D), input order."""
        return self._encoder.encode_texts(texts, batch_size)

    def prepare_image(self, picture: Any, max_pixels: int | None = None, *, draft: bool = False) -> PreparedImage:
        """Read and preprocess a picture in any thread; the result is a query or an item of `encode_images`."""
        return self._encoder.prepare_image(picture, max_pixels, draft=draft)

    def search(
        self,
        query: Any,
        top_k: int = 10,
        candidates: int = 100,
        mode: SearchMode = "two_stage",
        *,
        where: Mapping[str, Any] | None = None,
        global_weight: float | None = None,
        local_weight: float | None = None,
        hubness: bool = True,
        explain: bool = False,
        min_score: float | ScoreThreshold | None = None,
        group_similar: float | None = None,
    ) -> Any:
        """Rank the gallery for one query or a list of queries.

        Args:
            query: Text (every `str` is words), or a picture: PIL, array, tensor, bytes, `pathlib.Path` or regions.
                A list may mix them. Several parts make one query as `ComposedQuery(["a beach", "snow"], [1, -1])`.
            top_k: Hits per query.
            candidates: Size of the shortlist that the global score picks; `top_k` where that is larger.
            mode: "two_stage", "global" (stage one alone) or "local" (every item by its tokens alone). Where the
                gallery gives tokens no weight, as for a dual encoder, whose tokens are untrained, "two_stage" is
                "global".
            where: Metadata filter, see `TGDTIndex.search`.
            global_weight: Weight of the global score in this call; the gallery's own by default.
            local_weight: Weight of the local score in this call.
            hubness: Whether to rank items lower that are near every query, in a gallery that records which ones are.
            explain: Give the hits of a text query their `matches`, computed from the stored tokens of these hits.
            min_score: Leave out hits with a lower score, or those that a threshold of `fit_threshold` refuses; its
                size of the shortlist then replaces `candidates`.
            group_similar: Cosine of global embeddings from which a hit is a near-duplicate of a better one and becomes
                one of its `similar`, such as 0.95. Looks at `candidates` hits.

        Returns:
            `list[Hit]`, best first; for a list of queries a list of these.

        Raises:
            ValueError: When there is no gallery, a picture cannot be read, an option is out of range, or `explain` is
                asked of a gallery of texts.
        """
        index = self._searchable()
        if isinstance(min_score, float) and math.isnan(min_score):
            raise ValueError(f"min_score must be a number, found {min_score}: every hit would be left out.")
        if explain and index.kind != "image":
            raise ValueError("explain=True matches words with the regions of pictures; this gallery holds texts.")
        if mode == "two_stage" and global_weight is local_weight is None and not index.settings["local_weight"]:
            mode = "global"
        queries = list(query) if isinstance(query, list | tuple) else [query]
        candidates = max(candidates, top_k) if candidates > 0 else candidates
        if isinstance(min_score, ScoreThreshold):  # reads the scores of a whole shortlist, as long as those it fitted
            candidates = min_score.candidates
        whole = group_similar is not None or isinstance(min_score, ScoreThreshold)
        how: dict[str, Any] = {
            "top_k": max(top_k, candidates) if whole and top_k > 0 else top_k,
            "candidates": candidates,
            "mode": mode,
            "where": where,
            "hubness": hubness,
            "global_weight": global_weight,
            "local_weight": local_weight,
        }
        hits: list[list[Hit]] = [[] for _ in queries]
        words: dict[int, np.ndarray] = {}  # word tokens of the queries that are texts
        for row, asked in enumerate(queries):
            if isinstance(asked, ComposedQuery):
                (hits[row],) = hits_of(search_composed(index, self._parts(asked), **how))
        for kind, rows, embeds in self._encode_queries(queries):
            result = index.search(embeds.global_embeds, embeds.token_embeds, query_kind=kind, **how)
            for row, tokens, ranked in zip(rows, embeds.token_embeds, hits_of(result), strict=True):
                hits[row] = ranked
                words |= {row: tokens} if kind == "text" else {}
        if min_score is not None:
            hits = [_above(ranked, min_score) for ranked in hits]
        if group_similar is not None:
            hits = [self._grouped(ranked, group_similar) for ranked in hits]
        hits = [ranked[:top_k] for ranked in hits]
        for row, tokens in words.items() if explain else ():
            hits[row] = self._matched(queries[row], tokens, hits[row])
        return hits if isinstance(query, list | tuple) else hits[0]

    def explain(self, image: Any, text: str, **options: Any) -> Alignment:
        """Show which word of a text matches which region of a picture; see `explain_tgdt.explain`."""
        if isinstance(self.model, OnnxModel):
            raise ValueError("Explanations need boxes, which ONNX graphs do not give. Load the model with PyTorch.")
        return explain(self.model, self.processor, image, text, **options)

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        *,
        model: str | os.PathLike[str] | None = None,
        revision: str | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
        engine_options: Mapping[str, Any] | None = None,
        backend: Literal["torch", "onnx"] | None = None,
        **options: Any,
    ) -> TGDTRetriever:
        """Load a retriever, with its gallery when there is one.

        Args:
            name: Directory or Hub id of what `save_pretrained`, `push_to_hub` or `tgdt index` wrote, of a model
                without a gallery, of a PEFT adapter (its file names the model), or of a pretrained dual encoder such
                as CLIP.
            model: Directory or Hub id of another model to use with that gallery.
            revision: Branch, tag or commit on the Hub.
            device: Where the model runs.
            dtype: Data type of the weights; that of the files by default.
            engine_options: How to reach a gallery in Qdrant, see `TGDTIndex.open`.
            backend: "torch", or "onnx" to run the graphs that `tgdt export` wrote. By default "onnx" where there are
                graphs but no weights, otherwise "torch".
            **options: Of the download (`token`, `cache_dir`, `local_files_only`, ...) and of
                `TGDTModel.from_pretrained` (`attn_implementation`, `device_map`, `quantization_config`, ...).

        Raises:
            ValueError: When nothing is found, or another model built the gallery.
            TypeError: For an option that neither of them knows.
        """
        download, loading = split_options(options)
        if backend == "onnx":
            download = {"ignore_patterns": [], **download}  # the graphs are not among what is downloaded by default
        folder = find_directory(name, revision, **download)
        source = find_directory(model, **download) if model else find_model(folder, read_reference(folder), **download)
        loading |= {} if dtype is None else {"dtype": dtype}
        loaded, processor = load_backend(source, backend, **loading)
        index, hubness = open_index(folder, engine_options), HubnessOptions.from_pretrained(source)
        return cls(loaded, processor, index, device, hubness=hubness)

    def _searchable(self) -> TGDTIndex:
        if self.index is None:
            raise ValueError("Expected a gallery to search, found none. Call add_images or add_texts, or pass index=.")
        self._check_weights()
        return self.index

    def _check_weights(self) -> None:
        """Refuse to use a gallery whose model has been trained since it was built.

        Raises:
            ValueError: When the weights are no longer those that made the gallery.
        """
        state = weights_state(self.model)
        if self.index is not None and state != self._weights:
            check_gallery_model(self.index, self.model)
        self._weights = state

    def _writable(self, kind: Kind) -> TGDTIndex:
        self._check_weights()
        index = self.index if self.index is not None else self.create_index(kind=kind)
        if index.kind != kind:
            raise ValueError(
                f"The gallery holds {index.kind}s, found {kind}s to add. Make another retriever with its own index."
            )
        if index.has_hubness and self.hubness is None:
            raise ValueError(
                f"The gallery at {str(index.path)!r} keeps a hubness for each item, which this retriever cannot "
                "measure without reference queries. Pass hubness=, or build another with create_index(hubness=False)."
            )
        return index

    def _filler(
        self, index: TGDTIndex, prepare: Any, encode: Any, batch_size: int, on_error: OnError, resume: bool,
        workers: int | None, progress: bool, share: bool,
    ) -> GalleryFiller:  # fmt: skip
        bank = self.hubness.truncated(index.global_dim) if self.hubness and index.has_hubness else None
        return GalleryFiller(
            index,
            prepare,
            lambda ready: encode(ready, batch_size),
            batch_size=batch_size,
            on_error=on_error,
            resume=resume,
            workers=workers or max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))),
            progress=progress,
            hubness=None if bank is None else partial(bank.corrections, kind=index.kind),
            group=_sharing_group(index) if share else None,
        )

    def _encode_queries(self, queries: list[Any]) -> list[tuple[Kind, list[int], Embeddings]]:
        kinds: dict[Kind, list[int]] = {"text": [], "image": []}
        for row, query in enumerate(queries):
            if isinstance(query, str) and not query.strip():
                raise ValueError("The query is empty. Pass a few words, or a picture.")
            if isinstance(query, ComposedQuery):
                continue
            kinds["text" if isinstance(query, str) else "image"].append(row)
        encoders = {"text": self.encode_texts, "image": self.encode_images}
        return [(kind, rows, encoders[kind]([queries[row] for row in rows])) for kind, rows in kinds.items() if rows]

    def _parts(self, query: ComposedQuery) -> list[EncodedPart]:
        """Embed the parts of a query."""
        return [
            EncodedPart(kind, embeds.item(position), query.weights[row])
            for kind, rows, embeds in self._encode_queries(list(query.parts))
            for position, row in enumerate(rows)
        ]

    def _grouped(self, hits: list[Hit], threshold: float) -> list[Hit]:
        """Put hits under the better ones that they nearly equal."""
        check_threshold(threshold)
        if not hits:
            return hits
        groups = group_hits(self._searchable().get([hit.id for hit in hits])[0], threshold)
        return [replace(hits[best], similar=tuple(hits[row].id for row in others)) for best, *others in groups]

    def _matched(self, text: str, tokens: np.ndarray, hits: list[Hit]) -> list[Hit]:
        """Return the hits of a text, of whose word tokens (W, D) each word gets its best region."""
        words, stored = scored_words(self.model, self.processor, text), self._searchable().tokens([h.id for h in hits])
        return [
            replace(hit, matches=match_words(tokens, words, regions))
            for hit, regions in zip(hits, stored, strict=True)
        ]


def _above(hits: list[Hit], least: float | ScoreThreshold) -> list[Hit]:
    """Return the hits of a shortlist that are good enough."""
    if not isinstance(least, ScoreThreshold):
        return [hit for hit in hits if hit.score >= least]
    chances = least.probabilities(np.array([hit.score for hit in hits[: least.candidates]]))
    return [hit for hit, chance in zip(hits, chances, strict=False) if chance >= least.probability]


def _sharing_group(index: TGDTIndex) -> ProcessGroup | None:
    """Return the processes that have the same gallery open as this one; None where each has its own."""
    group = process_group()
    same = group is not None and len(set(group.gather(str(index.path.resolve())))) == 1
    return group if same else None


def _length(source: Any) -> int | None:
    return len(source) if isinstance(source, Sized) and not isinstance(source, str) else None


__all__ = ["AddReport", "Alignment", "ComposedQuery", "Embeddings", "Hit", "Match", "ScoreThreshold", "TGDTRetriever"]
