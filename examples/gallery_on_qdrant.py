"""Keep the gallery in Qdrant: embedded in a directory, or on a server or cluster by its address.

python examples/gallery_on_qdrant.py pictures "a small red star above a blue circle" --model demo_output
python examples/gallery_on_qdrant.py pictures "a red star" --model demo_output --url http://localhost:6333

A server is `docker run -p 6333:6333 qdrant/qdrant`; its key goes into the environment variable QDRANT_API_KEY.
"""

import argparse
from pathlib import Path

from modeling_tgdt import Hit, TGDTRetriever
from modeling_tgdt.retriever.picture_sources import list_pictures


def main(arguments: list[str] | None = None) -> list[Hit]:
    """Index, search with a filter on metadata, print the hits and return them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("query")
    parser.add_argument("--model", required=True, help="directory or Hub id")
    parser.add_argument("--gallery", type=Path, default=Path("qdrant-gallery"))
    parser.add_argument("--url", help="address of a server; embedded in the gallery's directory by default")
    parser.add_argument("--format", help="search among pictures of this suffix only, such as .png")
    args = parser.parse_args(arguments)

    retriever = TGDTRetriever.from_pretrained(args.model)
    options = {"url": args.url} if args.url else {}
    index = retriever.create_index(args.gallery, engine="qdrant", engine_options=options, exist_ok=True)
    names, files = zip(*list_pictures(args.pictures), strict=True)
    metadata = [{"format": path.suffix, "bytes": path.stat().st_size} for path in files]
    report = retriever.add_images(files, ids=names, metadata=metadata, resume=True)
    print(f"{report.added} added, {report.unchanged} known, {len(index)} pictures in the collection")

    where = {"format": args.format} if args.format else None
    hits: list[Hit] = retriever.search(args.query, top_k=5, where=where)
    for rank, hit in enumerate(hits, 1):
        print(f"{rank}. {hit.id}  {hit.score:.3f}  {hit.metadata['bytes']} bytes")
    index.close()
    return hits


if __name__ == "__main__":
    main()
