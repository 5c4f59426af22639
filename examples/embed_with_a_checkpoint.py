"""Load somebody's checkpoint in three lines and embed pictures and captions.

python examples/embed_with_a_checkpoint.py demo_output pictures/scene-00000.png "a red star" "a blue ring"
"""

import argparse

import torch
from transformers import AutoModel, AutoProcessor

import modeling_tgdt  # noqa: F401  registers the classes; without the package: trust_remote_code=True below


def main(arguments: list[str] | None = None) -> torch.Tensor:
    """Print the similarity of one picture with each caption, and return it (1, captions)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="directory or Hub id")
    parser.add_argument("picture", help="path or URL")
    parser.add_argument("captions", nargs="+")
    args = parser.parse_args(arguments)

    model, processor = AutoModel.from_pretrained(args.model), AutoProcessor.from_pretrained(args.model)
    inputs = processor(images=[args.picture], text=args.captions, return_tensors="pt")
    with torch.inference_mode():
        out = model(**inputs)

    print(f"global: image {tuple(out.image_embeds.shape)}, captions {tuple(out.text_embeds.shape)}")
    print(f"tokens: image {tuple(out.image_token_embeds.shape)}, captions {tuple(out.text_token_embeds.shape)}")
    for caption, score in zip(args.captions, out.logits_per_image[0].tolist(), strict=True):
        print(f"{score:.3f}  {caption}")
    return out.logits_per_image


if __name__ == "__main__":
    main()
