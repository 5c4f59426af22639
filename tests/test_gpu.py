# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""On a CUDA device: losses, gradients and embeddings are those of the CPU, in float32 and bfloat16."""

import copy

import pytest
import torch

from modeling_tgdt import CMCLoss, token_similarity
from tests.modeling_tgdt import tiny

pytestmark = pytest.mark.gpu


def tokens(count: int, length: int, dim: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    values = torch.nn.functional.normalize(torch.randn(count, length, dim), dim=-1)
    return values, torch.arange(length)[None] < torch.randint(2, length + 1, (count, 1))


@pytest.mark.parametrize("objective", ["hinge", "infonce", "sigmoid"])
def test_loss_and_gradients_equal_the_cpu(objective: str) -> None:
    torch.manual_seed(0)
    (images, regions), (texts, words) = tokens(48, 20), tokens(48, 12)
    found = {}
    for device in ("cpu", "cuda"):
        leaves = [part.detach().to(device).requires_grad_() for part in (images[:, 0], texts[:, 0], images, texts)]
        loss = CMCLoss(0.2, objective=objective, intra_weight=0.1)
        value = loss(*leaves, regions.to(device), words.to(device))["loss"]
        value.backward()
        found[device] = [value.detach().cpu(), *(leaf.grad.cpu() for leaf in leaves)]
    for ours, expected in zip(found["cuda"], found["cpu"], strict=True):
        torch.testing.assert_close(ours, expected, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
def test_token_similarity_equals_the_cpu(dtype: torch.dtype, error: float) -> None:
    torch.manual_seed(1)
    (images, regions), (texts, words) = tokens(30, 36), tokens(50, 16)
    expected = token_similarity(images, texts, regions, words)
    ours = token_similarity(images.to("cuda", dtype), texts.to("cuda", dtype), regions.to("cuda"), words.to("cuda"))
    torch.testing.assert_close(ours.float().cpu(), expected, atol=error, rtol=0)


def test_embeddings_equal_the_cpu() -> None:
    model = tiny.tiny_model().eval()
    inputs = {**tiny.text_inputs(), **tiny.region_inputs()}
    twin = copy.deepcopy(model).to("cuda")
    with torch.no_grad():
        expected = model(**inputs)
        ours = twin(**{name: value.to("cuda") for name, value in inputs.items()})
    for name in ("image_embeds", "text_embeds", "image_token_embeds", "text_token_embeds", "logits_per_image"):
        torch.testing.assert_close(getattr(ours, name).cpu(), getattr(expected, name), atol=1e-4, rtol=0)
