"""Draw captioned pictures to try the other examples on: a folder of PNG files with a captions.csv.

python examples/draw_pictures.py pictures --count 60
"""

import argparse
import csv
from pathlib import Path

from trainer.scenes import make_scenes


def main(arguments: list[str] | None = None) -> Path:
    """Draw the folder and return it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1, help="1 draws what `make demo` keeps for evaluation")
    args = parser.parse_args(arguments)
    args.folder.mkdir(parents=True, exist_ok=True)
    with (args.folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "caption"])
        for row in make_scenes(args.count, args.seed):
            name = f"{row['image_id']}.png"
            row["image"].save(args.folder / name)
            writer.writerows([name, caption] for caption in row["captions"])
    print(f"{args.count} pictures and their captions: {args.folder}")
    return args.folder


if __name__ == "__main__":
    main()
