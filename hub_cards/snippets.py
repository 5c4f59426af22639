# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""The code blocks of the cards. Tests run each of them as it stands."""

from __future__ import annotations

_ADD = 'retriever.add_images("photos")  # a folder of pictures\n'
_REGIONS = """corners = torch.rand(36, 2) / 2  # stand-ins for what an object detector finds in a photo
boxes = torch.cat([corners, corners + 0.5], dim=1)
regions = {{"features": torch.rand(36, {width}), "boxes": boxes, "image_size": (1, 1)}}
"""
_ADD_REGIONS = f"""{_REGIONS}retriever.add_images([regions], ids=["photo"])
"""
_SEARCH = """for hit in retriever.search("a small red star above a blue circle", top_k=5):
    print(hit.id, hit.score, hit.global_score, hit.local_score)"""


def retriever_code(name: str, *, gallery: bool = False, region_width: int | None = None) -> str:
    """Return a block that loads a retriever and searches.

    Args:
        name: Hub id or directory.
        gallery: Whether a gallery comes with the model.
        region_width: Width of the region features; None for a model that reads pixels.
    """
    imports = ["from modeling_tgdt import TGDTRetriever\n"]
    if region_width and not gallery:
        imports.insert(0, "import torch\n\n")
    filling = "" if gallery else _ADD if region_width is None else _ADD_REGIONS.format(width=region_width)
    return f'{"".join(imports)}\nretriever = TGDTRetriever.from_pretrained("{name}")\n{filling}{_SEARCH}'


def custom_code(name: str, *, region_width: int | None = None) -> str:
    """Return a block that scores a picture against texts without the package.

    Args:
        name: Hub id or directory.
        region_width: Width of the region features; None for a model that reads pixels.
    """
    if region_width is None:
        imported, given = "from PIL import Image\n", ""
        picture = 'images=[Image.open("photo.jpg")]'
    else:
        imported, picture = "", "regions=[regions]"
        given = _REGIONS.format(width=region_width)
    return f"""import torch
{imported}from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("{name}", trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained("{name}", trust_remote_code=True)
{given}inputs = processor({picture}, text=["a red star", "a blue circle"], return_tensors="pt")
with torch.no_grad():
    print(model(**inputs).logits_per_image)"""


def gallery_code(gallery: str) -> str:
    """Return a block that searches a gallery that is a dataset repository.

    Args:
        gallery: Its Hub id.
    """
    return "\n".join(
        [
            "from huggingface_hub import snapshot_download",
            "from modeling_tgdt import TGDTRetriever",
            "",
            f'retriever = TGDTRetriever.from_pretrained(snapshot_download("{gallery}", repo_type="dataset"))',
            _SEARCH,
        ]
    )


__all__ = ["custom_code", "gallery_code", "retriever_code"]
