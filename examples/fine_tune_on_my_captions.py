"""Fine-tune on your own captioned pictures and compare the retrieval modes.

python examples/fine_tune_on_my_captions.py pictures --output my-model

PICTURES is anything that `load_captions` reads: a folder with a captions.csv, a Parquet or JSONL file, a Hub id.
"""

import argparse
from pathlib import Path

from transformers import AutoTokenizer

from modeling_tgdt import TGDTImageProcessor, TGDTModel, TGDTProcessor
from trainer import CMCTrainer, CMCTrainingArguments, evaluate_retrieval, load_captions, warm_start


def build(vision: str, text: str) -> tuple[TGDTModel, TGDTProcessor]:
    """Put a new model on two pretrained backbones."""
    model = TGDTModel.from_vision_text_pretrained(vision, text, projection_dim=256, text_global_token="mean")
    return model, TGDTProcessor(TGDTImageProcessor.from_backbone(vision), AutoTokenizer.from_pretrained(text))


def main(arguments: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Train, evaluate on held-out pictures, save, and return the metrics."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures")
    parser.add_argument("--output", type=Path, default=Path("my-model"))
    parser.add_argument("--vision", default="facebook/dinov2-small", help="directory or Hub id")
    parser.add_argument("--text", default="sentence-transformers/all-MiniLM-L6-v2", help="directory or Hub id")
    parser.add_argument("--model", help="continue from this TGDT model instead of new heads on two backbones")
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    args = parser.parse_args(arguments)

    photos = load_captions(args.pictures, on_error="skip").train_test_split(0.2, seed=0)
    if args.model:
        model, processor = TGDTModel.from_pretrained(args.model), TGDTProcessor.from_pretrained(args.model)
    else:
        model, processor = build(args.vision, args.text)
        warm_start(model, processor, photos["train"])
    training = CMCTrainingArguments(
        str(args.output),
        num_train_epochs=args.epochs,
        per_device_train_batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        text_learning_rate=args.learning_rate / 10,
        freeze=["vision"],
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        report_to=[],
    )
    trainer = CMCTrainer(
        model=model,
        args=training,
        train_dataset=photos["train"],
        eval_dataset=photos["test"],
        processing_class=processor,
    )
    trainer.train()
    trainer.save_model(str(args.output))

    metrics = evaluate_retrieval(trainer.model, processor, photos["test"])
    for mode, values in metrics.items():
        print(f"{mode:>10}: t2i R@1 {values['t2i_r1']:.1f}  i2t R@1 {values['i2t_r1']:.1f}  rsum {values['rsum']:.1f}")
    print(f"Saved: {args.output}. Next: python examples/search_my_photos.py PHOTOS WORDS --model {args.output}")
    return metrics


if __name__ == "__main__":
    main()
