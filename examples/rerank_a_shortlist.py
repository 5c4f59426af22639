"""Keep the CLIP/FAISS search that you have, and let TGDT's tokens re-rank its shortlist.

python examples/rerank_a_shortlist.py pictures "a small red star above a blue circle" --model demo_output \
    --first-stage openai/clip-vit-base-patch32

The first stage is any model with `get_image_features` and `get_text_features`; without one, the global embeddings of
the TGDT model stand in for it. The gallery is asked for nothing but the order of ids that it is given.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

from modeling_tgdt import TGDTRetriever
from modeling_tgdt.retriever.picture_sources import list_pictures


class FirstStage:
    """Your own search: one vector per picture in a FAISS index.

    Args:
        name: Model directory or Hub id.
        pictures: Files to search.
    """

    def __init__(self, name: str, pictures: Sequence[Path]) -> None:
        self.model, self.processor = AutoModel.from_pretrained(name), AutoProcessor.from_pretrained(name)
        vectors = [self._embed(images=Image.open(path).convert("RGB")) for path in pictures]
        self.index = faiss.IndexFlatIP(vectors[0].shape[1])
        self.index.add(np.concatenate(vectors))

    def _embed(self, **content: Any) -> np.ndarray:
        inputs = self.processor(**content, return_tensors="pt", padding=True)
        embed = self.model.get_text_features if "text" in content else self.model.get_image_features
        with torch.inference_mode():
            vector = embed(**inputs).pooler_output
        return torch.nn.functional.normalize(vector, dim=-1).numpy()

    def search(self, query: str, count: int) -> list[int]:
        """Return the rows of the best pictures."""
        return self.index.search(self._embed(text=query), count)[1][0].tolist()


def main(arguments: list[str] | None = None) -> tuple[list[str], list[str]]:
    """Print and return the shortlist before and after re-ranking."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("query")
    parser.add_argument("--model", required=True, help="TGDT model, directory or Hub id")
    parser.add_argument("--first-stage", help="CLIP-like model (default: the TGDT model's global embeddings)")
    parser.add_argument("--candidates", type=int, default=10)
    args = parser.parse_args(arguments)

    names, files = zip(*list_pictures(args.pictures), strict=True)
    rows = FirstStage(args.first_stage or args.model, files).search(args.query, min(args.candidates, len(files)))
    shortlist = [names[row] for row in rows]

    with tempfile.TemporaryDirectory() as folder:
        retriever = TGDTRetriever.from_pretrained(args.model)
        index = retriever.create_index(folder)
        retriever.add_images(files, ids=names)
        query = retriever.encode_texts([args.query])
        result = index.rerank(query.global_embeds, query.token_embeds, None, [shortlist])
    reranked = result.ids[0]
    for place, name in enumerate(reranked, 1):
        print(f"{place:>2}. {name}  (was {shortlist.index(name) + 1})  tokens {result.local_scores[0][place - 1]:.3f}")
    return shortlist, reranked


if __name__ == "__main__":
    main()
