# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""What token pooling and small dtypes cost in recall and save in bytes.

make demo && python -m benchmarks.pooling --model demo_output
python -m benchmarks.pooling --model M --dataset PHOTOS
"""

import argparse
from dataclasses import replace
from itertools import product

import torch

from modeling_tgdt import TGDTModel, TGDTProcessor
from modeling_tgdt.kernels.quantize import bytes_per_token, decode_tokens, encode_tokens, pool_tokens
from modeling_tgdt.similarity_tgdt import ScoreConfig
from trainer.datasets import load_captions
from trainer.evaluation import retrieval_metrics
from trainer.recipe import load_recipe
from trainer.run import load_split
from trainer.scoring.embeddings import RaggedTokens
from trainer.scoring.encoding import EncodeOptions, encode_dataset

COLUMNS = ("i2t_r1", "i2t_r10", "t2i_r1", "t2i_r10", "rsum")


def stored(tokens: RaggedTokens, factor: int, token_dtype: str) -> RaggedTokens:
    """Return tokens as a gallery with this factor and dtype gives them back."""
    lengths, parts = tokens.lengths.tolist(), []
    for own in tokens.flat.float().split(lengths):
        parts.append(decode_tokens(*encode_tokens(pool_tokens(own.numpy(), factor), token_dtype), token_dtype))
    return RaggedTokens.from_lengths(
        torch.cat([torch.from_numpy(part) for part in parts]), torch.tensor([len(part) for part in parts])
    )


def main() -> None:
    """Encode once, evaluate two-stage retrieval for every factor and dtype."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--dataset", help="what load_captions reads (default: the evaluation scenes of the demo)")
    parser.add_argument("--factors", type=int, nargs="+", default=[1, 2, 3, 4, 6])
    parser.add_argument("--token-dtypes", nargs="+", default=["float32", "float16", "int8"])
    parser.add_argument("--candidates", type=int, default=100, help="pictures and captions on the shortlists")
    args = parser.parse_args()
    model, processor = TGDTModel.from_pretrained(args.model), TGDTProcessor.from_pretrained(args.model)
    recipe = load_recipe("scenes")
    rows = load_captions(args.dataset) if args.dataset else load_split(recipe, recipe.eval_split, None, None, None)
    embeddings = encode_dataset(model, processor, rows, EncodeOptions(progress=False))
    images = embeddings.image_tokens
    if images is None:
        raise ValueError("the model gave no tokens.")
    print(f"{len(embeddings.image_embeds)} pictures, {len(embeddings.text_embeds)} captions, two stages")
    print(f"{'factor':>6}  {'dtype':<9}{'bytes/picture':>14}" + "".join(f"{name:>10}" for name in COLUMNS))
    for token_dtype, factor in product(args.token_dtypes, args.factors):
        tokens = stored(images, factor, token_dtype)
        found = retrieval_metrics(
            replace(embeddings, image_tokens=tokens),
            score=ScoreConfig.of_model(model.config),
            modes=["two_stage"],
            candidates=args.candidates,
        )["two_stage"]
        size = len(tokens.flat) / len(tokens) * bytes_per_token(tokens.flat.shape[1], token_dtype)
        shown = "".join(f"{found[name]:>10.1f}" for name in COLUMNS)
        print(f"{factor:>6}  {token_dtype:<9}{size:>14.0f}{shown}", flush=True)


if __name__ == "__main__":
    main()
