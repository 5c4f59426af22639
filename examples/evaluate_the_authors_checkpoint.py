"""Convert a checkpoint of the authors' code and evaluate it on bottom-up features.

python examples/evaluate_the_authors_checkpoint.py            # the miniature that was recorded from their code
python examples/evaluate_the_authors_checkpoint.py --checkpoint model_best.pth.tar --captions dataset_flickr30k.json \
    --features features_36 --image-root flickr30k-images --text-model google-bert/bert-base-uncased --protocol f30k

FEATURES holds `bu_att/<id>.npz` and `bu_box/<id>.npy`, as bottom-up-attention writes them; the image folder is read
for the sizes of the photos only.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from transformers import AutoConfig, AutoTokenizer, BertConfig, BertTokenizer

from modeling_tgdt import TGDTImageProcessor, TGDTProcessor
from modeling_tgdt.convert_tgdt_original_to_hf import convert_checkpoint
from trainer import evaluate_retrieval, load_captions

RECORDED = Path(__file__).parents[1] / "tests" / "fixtures" / "reference"


def lay_out_miniature(folder: Path) -> dict[str, Path]:
    """Write the recorded miniature as the files that one has for Flickr30K."""
    content = json.loads((RECORDED / "pipeline_inputs.json").read_text())
    arrays = load_file(RECORDED / "pipeline_inputs.safetensors")
    for name in ("bu_att", "bu_box", "bert"):
        (folder / name).mkdir()
    for number, (image, (width, height)) in enumerate(zip(content["images"], content["sizes_wh"], strict=True)):
        np.savez(folder / "bu_att" / f"{number}.npz", feat=arrays[f"feat.{number}"])
        np.save(folder / "bu_box" / f"{number}.npy", arrays[f"boxes_px.{number}"])
        image |= {"width": width, "height": height}
    (folder / "captions.json").write_text(json.dumps({"images": content["images"], "dataset": "flickr30k"}))
    (folder / "vocab.txt").write_text("\n".join(content["vocab"]) + "\n")
    BertTokenizer.from_pretrained(folder).save_pretrained(folder / "bert")
    bert = BertConfig(hidden_size=32, num_attention_heads=2, intermediate_size=64, vocab_size=100)
    bert.update({"max_position_embeddings": 64})
    bert.save_pretrained(folder / "bert")
    paths = {"captions": folder / "captions.json", "features": folder, "text_model": folder / "bert"}
    return paths | {"checkpoint": RECORDED / "checkpoint.safetensors"}


def main(arguments: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Convert, evaluate, print a table and return the metrics."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("checkpoint", "captions", "features", "image-root", "text-model"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--split", default="test")
    parser.add_argument("--protocol", default="standard", choices=("standard", "f30k", "coco_1k", "coco_5k"))
    args = parser.parse_args(arguments)

    with tempfile.TemporaryDirectory() as scratch:
        if args.checkpoint is None:
            vars(args).update(lay_out_miniature(Path(scratch)))
        model = convert_checkpoint(args.checkpoint, text_config=AutoConfig.from_pretrained(args.text_model))
        processor = TGDTProcessor(TGDTImageProcessor(), AutoTokenizer.from_pretrained(args.text_model))
        photos = load_captions(args.captions, args.split, features=args.features, image_root=args.image_root)
        metrics = evaluate_retrieval(model, processor, photos, protocol=args.protocol)
        print(f"{len(photos)} photos, {sum(len(photo['captions']) for photo in photos)} captions")
    for mode, values in metrics.items():
        recalls = "  ".join(f"{way} R@{k} {values[f'{way}_r{k}']:.1f}" for way in ("i2t", "t2i") for k in (1, 5, 10))
        print(f"{mode:>10}: {recalls}  rsum {values['rsum']:.1f}")
    return metrics


if __name__ == "__main__":
    main()
