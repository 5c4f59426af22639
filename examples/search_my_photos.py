"""Search a folder of photos with words, and see which word matched where.

python examples/search_my_photos.py pictures "a small red star above a blue circle" --model demo_output

The gallery is kept, so that the second search starts at once and new photos are all that is read.
"""

import argparse
from pathlib import Path

from modeling_tgdt import Hit, TGDTRetriever


def main(arguments: list[str] | None = None) -> list[Hit]:
    """Index what is new, search, print the hits and return them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="folder, with sub-folders")
    parser.add_argument("query", help="words")
    parser.add_argument("--model", required=True, help="directory or Hub id")
    parser.add_argument("--gallery", type=Path, default=Path("gallery"), help="where the index is kept")
    parser.add_argument("--top", type=int, default=5)
    args = parser.parse_args(arguments)

    retriever = TGDTRetriever.from_pretrained(args.model)
    retriever.create_index(args.gallery, exist_ok=True)
    report = retriever.add_images(args.photos, on_error="skip", resume=True)
    print(f"{report.added} new photos, {report.unchanged} known, {len(report.skipped)} unreadable")
    for name, reason in report.skipped:
        print(f"  {name}: {reason}")

    hits: list[Hit] = retriever.search(args.query, top_k=args.top)
    for rank, hit in enumerate(hits, 1):
        print(f"{rank}. {hit.id}  {hit.score:.3f} = {hit.global_score:.3f} global + {hit.local_score:.3f} local")
    if hits:
        best = retriever.explain(args.photos / hits[0].id, args.query)
        best.save(args.gallery / "best.png")
        print(f"Which word matched where: {args.gallery / 'best.png'}")
    return hits


if __name__ == "__main__":
    main()
