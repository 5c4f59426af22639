# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""A small vision tower that learns shape, colour and size of drawn things from labels, as a detector's regions do."""

from __future__ import annotations

import logging
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PreTrainedModel

from modeling_tgdt import TGDTImageProcessor
from modeling_tgdt.backbones_tgdt import grid_boxes, grid_tokens, run_vision_backbone

from .layout import COLOURS, RADIUS, SHAPES

logger = logging.getLogger(__name__)

# In the order of a region's label, "small red star".
LABELS: dict[str, tuple[str, ...]] = {"size": tuple(RADIUS), "colour": COLOURS, "shape": SHAPES}
_BATCH, _RATE = 48, 2e-3


def pretrain_tower(
    config: dict[str, Any], scenes: Dataset, *, image_size: int, steps: int = 150, seed: int = 0
) -> tuple[PreTrainedModel, dict[str, float]]:
    """Train a vision backbone to tell size, colour and shape of the thing at whose centre a cell lies.

    Args:
        config: Fields of the backbone's configuration, with `model_type`.
        scenes: Drawn scenes, see [`make_scenes`].
        image_size: Side of the square that the pictures are resized to, in pixels.
        steps: Optimizer steps of 48 scenes.
        seed: Seed of weights and order.

    Returns:
        The backbone in evaluation mode, and the share of sizes, colours and shapes that were right in the last step;
        the linear heads that read them are thrown away.
    """
    torch.manual_seed(seed)
    tower = AutoModel.from_config(AutoConfig.for_model(**config)).train()
    pixels, things = _pixels(scenes, image_size), _things(scenes)
    width = _features(tower, pixels[:1]).shape[-1]
    heads = nn.ModuleList([nn.Linear(width, len(names)) for names in LABELS.values()])
    optimizer = torch.optim.AdamW([*tower.parameters(), *heads.parameters()], lr=_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps)
    for step in range(steps):
        batch = torch.randint(len(pixels), (_BATCH,))
        loss, right = _read_labels(tower, heads, pixels[batch], [things[scene] for scene in batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 49:
            logger.info("Step %d: loss %.3f, right %s.", step + 1, loss.item(), right)
    return tower.eval(), right


def _read_labels(
    tower: PreTrainedModel, heads: nn.ModuleList, pixels: Tensor, things: list[Tensor]
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of the labels at the centres of all things, and which share of each kind is right."""
    features = _features(tower, pixels)
    rows = torch.arange(len(things)).repeat_interleave(torch.tensor([len(scene) for scene in things]))
    joined = torch.cat(things)
    centres = grid_centres(features.shape[1])
    cells = torch.cdist(joined[:, :2], centres).argmin(1)
    picked, labels = features[rows, cells], joined[:, 2:].long()
    loss, right = features.new_zeros(()), {}
    for kind, head, label in zip(LABELS, heads, labels.T, strict=True):
        logits = head(picked)
        loss = loss + F.cross_entropy(logits, label)
        right[kind] = float((logits.argmax(1) == label).float().mean())
    return loss, right


def grid_centres(cells: int) -> Tensor:
    """Return the centres x, y of a square grid's cells, as shares of the side, (cells, 2)."""
    side = round(cells**0.5)
    boxes = grid_boxes(side, side)
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def _features(tower: PreTrainedModel, pixels: Tensor) -> Tensor:
    """Return the tokens (B, R, F) that a TGDT model reads of the backbone."""
    outputs: Any = run_vision_backbone(tower, pixels)
    return grid_tokens(outputs.last_hidden_state, pixels, tower.config)[0]


def _pixels(scenes: Dataset, image_size: int) -> Tensor:
    process = TGDTImageProcessor(size={"height": image_size, "width": image_size})
    batches = (scenes[start : start + 100]["image"] for start in range(0, len(scenes), 100))
    return torch.cat([process(batch, return_tensors="pt")["pixel_values"] for batch in batches])


def _things(scenes: Dataset) -> list[Tensor]:
    """Return per scene its things (n, 5): centre x, y as shares of the side, and the numbers of the three labels."""
    side = scenes[0]["image"].width
    return [
        torch.tensor(
            [
                [
                    (x1 + x2) / 2 / side,
                    (y1 + y2) / 2 / side,
                    *map(tuple.index, LABELS.values(), region["label"].split()),
                ]
                for region in regions
                for x1, y1, x2, y2 in [region["box"]]
            ]
        )
        for regions in scenes["regions"]
    ]
