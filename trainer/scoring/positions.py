# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Rank a whole gallery in bounded memory: exhaustively, or by a shortlist that tokens re-rank."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from hub_cards.metric.image_text_recall.image_text_recall import pad_rows, relevant_positions
from modeling_tgdt.similarity_tgdt import ScoreConfig, token_similarity

from .embeddings import RaggedTokens, RetrievalEmbeddings
from .sharding import gather_rows, is_main_process, shard, sum_over_processes

Direction = Literal["i2t", "t2i"]
Positions = NDArray[np.int64]  # (Q, R) places of the relevant items from 0, padded with -1

# Items scored at once: images x captions of one block. Products of tokens are chunked further by the kernel.
_IMAGE_BLOCK, _TEXT_BLOCK, _QUERY_BLOCK = 64, 256, 128


def relevant_rows(embeddings: RetrievalEmbeddings, direction: Direction) -> NDArray[np.int64]:
    """Return the relevant items of every query, (queries, R), padded with -1.

    Args:
        embeddings: The gallery.
        direction: `"i2t"`: the captions of each photo; `"t2i"`: the photo of each caption.
    """
    owners = embeddings.text_to_image.numpy()
    if direction == "t2i":
        return owners[:, None].astype(np.int64)
    rows: list[list[int]] = [[] for _ in range(len(embeddings.image_embeds))]
    for text, image in enumerate(owners.tolist()):
        rows[image].append(text)
    return pad_rows(rows)


def exhaustive_positions(
    embeddings: RetrievalEmbeddings, score: ScoreConfig, *, progress: bool = False, title: str = "Scoring"
) -> dict[str, Positions]:
    """Rank everything against everything, both ways from one pass.

    Every process scores its share of the photos against all captions. The position of a caption's photo is a sum of
    counts over the shares, so no process ever needs a whole column. Memory: share x T float32.

    Args:
        embeddings: The gallery, the same on every process.
        score: The score to rank by.
        progress: Whether to show a progress bar.
        title: Text of the progress bar.

    Returns:
        `"i2t"` (photos with captions, R) and `"t2i"` (T, 1) positions, ties against the system.
    """
    images = shard(len(embeddings.image_embeds))
    scores = _score_rows(embeddings, images, score, progress, title)
    captions = relevant_rows(embeddings, "i2t")
    i2t = torch.full((len(images), captions.shape[1]), -1)  # (share, R)
    for block in images.split(_QUERY_BLOCK) if len(images) else ():
        first = int(block[0] - images[0])
        block_scores = scores[first : first + len(block)]
        i2t[first : first + len(block)] = torch.from_numpy(relevant_positions(block_scores, captions[block.numpy()]))
    positions = gather_rows(i2t).numpy()
    with_captions = positions[:, 0] >= 0
    return {"i2t": positions[with_captions], "t2i": _caption_positions(embeddings, images, scores)}


def _caption_positions(embeddings: RetrievalEmbeddings, images: Tensor, scores: NDArray[np.float32]) -> Positions:
    """Count, for every caption, the other photos that score at least as high as its own; (T, 1)."""
    owners = embeddings.text_to_image
    mine = torch.isin(owners, images).nonzero()[:, 0].numpy()  # captions whose photo this process scores
    rows = (owners[mine] - (images[0] if len(images) else 0)).numpy()  # of those photos in `scores`
    photo_scores = np.zeros(len(owners), dtype=np.float32)  # (T,), of each caption with its photo
    photo_scores[mine] = scores[rows, mine]
    photo_scores = sum_over_processes(torch.from_numpy(photo_scores)).numpy()  # only one process has each photo
    ahead = np.zeros(len(owners), dtype=np.int64)  # (T,)
    for start in range(0, len(scores), _QUERY_BLOCK):
        ahead += (scores[start : start + _QUERY_BLOCK] >= photo_scores).sum(axis=0)
    ahead[mine] -= 1  # the photo itself
    return sum_over_processes(torch.from_numpy(ahead)).numpy()[:, None]


def _score_rows(
    embeddings: RetrievalEmbeddings, images: Tensor, score: ScoreConfig, progress: bool, title: str
) -> NDArray[np.float32]:
    """Return scores of some photos against all captions, (n, T) float32 on the CPU."""
    texts = len(embeddings.text_embeds)
    scores = np.zeros((len(images), texts), dtype=np.float32)
    if score.global_weight:
        text_embeds = embeddings.text_embeds.float().T
        for start in range(0, len(images), _QUERY_BLOCK):
            block = images[start : start + _QUERY_BLOCK]
            products = embeddings.image_embeds[block].float() @ text_embeds
            scores[start : start + len(block)] = products.cpu().numpy()
    if not score.local_weight:
        scores *= score.global_weight
    else:
        image_tokens, text_tokens = _tokens(embeddings)
        # Captions of one length share a block, so hardly any padding is multiplied.
        order = text_tokens.lengths.argsort(stable=True)
        bar = tqdm(order.split(_TEXT_BLOCK), desc=title, unit="block", disable=not (progress and is_main_process()))
        for columns in bar:
            words, word_mask = text_tokens.padded(columns)
            for start in range(0, len(images), _IMAGE_BLOCK):
                regions, mask = image_tokens.padded(images[start : start + _IMAGE_BLOCK])
                local = token_similarity(regions, words, mask, word_mask, reduction=score.reduction, scale=score.scale)
                cells = np.ix_(np.arange(start, start + len(local)), columns.numpy())  # these hold global scores
                scores[cells] = score.mixed(scores[cells], local.cpu().numpy())
    return scores


def similarity_matrix(embeddings: RetrievalEmbeddings, score: ScoreConfig) -> Tensor:
    """Return the scores of all photos against all captions, (I, T) float32 on the CPU.

    Args:
        embeddings: The gallery.
        score: The score.
    """
    everything = torch.arange(len(embeddings.image_embeds))
    return torch.from_numpy(_score_rows(embeddings, everything, score, progress=False, title=""))


def two_stage_positions(
    embeddings: RetrievalEmbeddings,
    direction: Direction,
    candidates: int,
    score: ScoreConfig,
    *,
    progress: bool = False,
) -> tuple[Positions, Positions]:
    """Rank by a shortlist: the best `candidates` by global score, re-ranked by the mixed score.

    Args:
        embeddings: The gallery, the same on every process; queries are shared out.
        direction: `"i2t"` or `"t2i"`.
        candidates: Size K of the shortlist; at most the gallery.
        score: The mixed score of stage two.
        progress: Whether to show a progress bar.

    Returns:
        Final positions and stage-one positions, both (queries, R). Items outside the shortlist keep their stage-one
        position, which is K or more: a miss.
    """
    relevant = relevant_rows(embeddings, direction)
    queries = torch.from_numpy(np.flatnonzero(relevant[:, 0] >= 0))  # photos without captions ask nothing
    mine = queries[shard(len(queries))]
    blocks = mine.split(_QUERY_BLOCK) if len(mine) else ()
    bar = tqdm(blocks, desc=f"Re-ranking {direction}", unit="block", disable=not (progress and is_main_process()))
    parts = [_two_stage_block(embeddings, direction, candidates, score, block, relevant) for block in bar]
    empty = np.zeros((0, relevant.shape[1]), dtype=np.int64)
    final, first = (np.concatenate([empty, *(pair[side] for pair in parts)]) for side in (0, 1))
    return gather_rows(torch.from_numpy(final)).numpy(), gather_rows(torch.from_numpy(first)).numpy()


def _two_stage_block(
    embeddings: RetrievalEmbeddings,
    direction: Direction,
    candidates: int,
    score: ScoreConfig,
    queries: Tensor,
    relevant: NDArray[np.int64],
) -> tuple[Positions, Positions]:
    query, gallery = _global_sides(embeddings, direction)
    similarity = query[queries].float() @ gallery.float().T  # (queries, gallery)
    relevant = relevant[queries.numpy()]
    first = relevant_positions(similarity.cpu().numpy(), relevant)  # (queries, R), of stage one
    inside = ((first >= 0) & (first < candidates)).sum(axis=1)  # (queries,), relevant items on the shortlist
    shortlist = _shortlist(similarity, relevant, inside, min(candidates, similarity.shape[1]))
    mixed = np.stack(  # (queries, K)
        [
            _mixed_scores(embeddings, direction, int(number), items, values[items], score)
            for number, items, values in zip(queries, shortlist, similarity, strict=True)
        ]
    )
    # The relevant items inside come first in the shortlist, so columns 0 to inside - 1 are theirs.
    slots = np.arange(relevant.shape[1])
    columns = np.where(slots < inside[:, None], np.minimum(slots, mixed.shape[1] - 1), -1)  # (queries, R)
    final = relevant_positions(mixed, columns)
    return np.where(columns >= 0, final, first), first


def _shortlist(similarity: Tensor, relevant: NDArray[np.int64], inside: NDArray[Any], size: int) -> Tensor:
    """Return the top items by similarity with ties against the relevant ones, which come first; (queries, size).

    Whether a relevant item is inside has been decided by counting; here it is lifted to the front or taken out.
    """
    valid = torch.from_numpy(relevant >= 0)
    columns = torch.from_numpy(np.maximum(relevant, 0)).to(similarity.device)
    relevant_scores = similarity.gather(1, columns).masked_fill(~valid.to(similarity.device), -torch.inf)
    rank = relevant_scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1).cpu()  # among the relevant
    lifted = torch.where(rank < torch.from_numpy(inside)[:, None], torch.inf, -torch.inf).to(similarity)
    adjusted = similarity.clone()
    rows, slots = valid.nonzero(as_tuple=True)
    adjusted[rows, columns[rows, slots]] = lifted[rows, slots]
    return adjusted.topk(size, dim=1).indices


def _mixed_scores(
    embeddings: RetrievalEmbeddings,
    direction: Direction,
    query: int,
    items: Tensor,
    similarity: Tensor,
    score: ScoreConfig,
) -> NDArray[np.float32]:
    """Return the mixed scores (K,) of one query against its shortlist."""
    local = local_scores(embeddings, direction, query, items, score) if score.local_weight else 0.0
    scores: NDArray[np.float32] = score.mixed(similarity, local).float().cpu().numpy()
    return scores


def local_scores(
    embeddings: RetrievalEmbeddings, direction: Direction, query: int, items: Tensor, score: ScoreConfig
) -> Tensor:
    """Return token similarities (K,) of one query against chosen items.

    Args:
        embeddings: The gallery.
        direction: `"i2t"` or `"t2i"`.
        query: Number of the photo or caption.
        items: (K,) numbers of captions or photos.
        score: Gives reduction and scale.
    """
    image_tokens, text_tokens = _tokens(embeddings)
    one, items = torch.tensor([query]), items.cpu()
    images, texts = (items, one) if direction == "t2i" else (one, items)
    regions, mask = image_tokens.padded(images)
    words, word_mask = text_tokens.padded(texts)
    scores = token_similarity(regions, words, mask, word_mask, reduction=score.reduction, scale=score.scale)
    return scores.flatten()


def query_milliseconds(
    embeddings: RetrievalEmbeddings,
    direction: Direction,
    score: ScoreConfig,
    candidates: int | None = None,
    *,
    queries: int = 16,
) -> float:
    """Return the median wall time of scoring one query alone, in milliseconds, encoding excluded.

    Args:
        embeddings: The gallery.
        direction: `"i2t"` or `"t2i"`.
        score: The score; without local weight no token is read.
        candidates: Shortlist of a two-stage search, or None to score the whole gallery.
        queries: How many queries to time, spread over the set; one more warms up.
    """
    query, gallery = _global_sides(embeddings, direction)
    count = min(queries, len(query))
    numbers = np.linspace(0, len(query) - 1, count).astype(int)
    times = []
    for number in [numbers[0], *numbers]:  # the first warms up, and its time is dropped
        start = time.perf_counter()
        similarity = gallery.float() @ query[number].float()
        for items in _searched(similarity, candidates, score):
            _mixed_scores(embeddings, direction, int(number), items, similarity[items], score)
        similarity.cpu()
        times.append(1000 * (time.perf_counter() - start))
    return float(np.median(times[1:]))


def _searched(similarity: Tensor, candidates: int | None, score: ScoreConfig) -> Iterator[Tensor]:
    if candidates is not None:
        yield similarity.topk(min(candidates, len(similarity))).indices
    elif score.local_weight:
        yield from torch.arange(len(similarity), device=similarity.device).split(_TEXT_BLOCK)


def _global_sides(embeddings: RetrievalEmbeddings, direction: Direction) -> tuple[Tensor, Tensor]:
    sides = (embeddings.image_embeds, embeddings.text_embeds)
    return sides if direction == "i2t" else (sides[1], sides[0])


def _tokens(embeddings: RetrievalEmbeddings) -> tuple[RaggedTokens, RaggedTokens]:
    if embeddings.image_tokens is None or embeddings.text_tokens is None:
        raise ValueError("Local and two-stage scores need token embeddings, found global ones only.")
    return embeddings.image_tokens, embeddings.text_tokens
