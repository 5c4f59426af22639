"""Is there a match at all? A gallery of half the photos, captions of photos in it and not: AUROC, false positives.

python -m benchmarks.threshold
python -m benchmarks.threshold --model M --dataset FLICKR8K_PARQUET_DIR --split validation

Half of the captions inside fit the threshold, without those outside; the other half and all outside are judged by it.
`raw` is the best hit's score alone, `fitted` is `TGDTRetriever.fit_threshold`.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from modeling_tgdt import TGDTRetriever
from modeling_tgdt.retriever.threshold import ScoreThreshold, auroc
from trainer import load_captions
from trainer.scenes import make_scenes
from trainer.scenes.weights import MODEL, shipped


def best_hits(retriever: TGDTRetriever, captions: list[str], threshold: ScoreThreshold) -> tuple[Any, Any]:
    """Return score and probability of every caption's best hit."""
    ranked = retriever.search(captions, threshold.candidates, threshold.candidates)
    scores = [np.array([hit.score for hit in hits]) for hits in ranked]
    return np.array([own[0] for own in scores]), np.array([threshold.probabilities(own)[0] for own in scores])


def report(name: str, inside: np.ndarray, outside: np.ndarray, rate: float) -> None:
    """Print AUROC, and the false positives at a rate of true ones."""
    least = np.quantile(inside, 1 - rate, method="lower")
    wrong = (outside >= least).mean()
    print(f"{name}: AUROC {auroc(inside, outside):.3f}, {wrong:.1%} false positives at {rate:.0%} true positives")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL, help="default: the small model that comes with the package")
    parser.add_argument("--dataset", default="scenes", help="default: scenes drawn on the spot")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--photos", type=int, default=1000, help="half of them are in the gallery")
    parser.add_argument("--captions", type=int, default=5, help="per photo")
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--rate", type=float, default=0.95)
    options = parser.parse_args()
    if options.dataset == "scenes":
        photos = make_scenes(options.photos, seed=1)
    else:
        photos = load_captions(options.dataset, split=options.split)
    photos = photos.select(range(min(options.photos, len(photos))))
    half = len(photos) // 2
    retriever = TGDTRetriever.from_pretrained(shipped(options.model))
    names = [str(number) for number in range(half)]
    retriever.add_images([photos[row]["image"] for row in range(half)], ids=names)
    captions = [list(own)[: options.captions] for own in photos["captions"]]
    fitting = [(text, names[row]) for row in range(half // 2) for text in captions[row]]
    threshold = retriever.fit_threshold(*map(list, zip(*fitting, strict=True)), candidates=options.candidates)
    judged = [text for row in range(half // 2, half) for text in captions[row]]
    others = [text for row in range(half, len(photos)) for text in captions[row]]
    inside, outside = (best_hits(retriever, texts, threshold) for texts in (judged, others))
    print(f"{half} photos, {len(fitting)} captions fit, {len(judged)} inside and {len(others)} outside judged")
    for place, name in enumerate(("raw", "fitted")):
        report(name, inside[place], outside[place], options.rate)
    kept, wrong = ((part[1] >= threshold.probability).mean() for part in (inside, outside))
    print(f"at the fitted threshold: {kept:.1%} of the matches and {wrong:.1%} of the others keep a hit")


if __name__ == "__main__":
    main()
