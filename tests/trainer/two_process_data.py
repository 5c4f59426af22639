"""Run by `torchrun`: what two processes read of a stream, and which captions of "one" per photo they see.

torchrun --nproc-per-node 2 tests/trainer/two_process_data.py OUT
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from tests.trainer.scenes_model import processor, scenes, tiny_model
from trainer import CMCTrainer, CMCTrainingArguments
from trainer.scoring.sharding import leave_process_group


def batches_of(out: Path, dataset: Any, **options: Any) -> list[tuple[list[int], list[list[int]]]]:
    """Train, and return image ids and word pieces of every batch of this process."""
    args = CMCTrainingArguments(
        str(out.with_suffix("")), per_device_train_batch_size=4, save_strategy="no", report_to=[], use_cpu=True,
        disable_tqdm=True, ddp_backend="gloo", dataloader_drop_last=True, **options,
    )  # fmt: skip
    trainer = CMCTrainer(model=tiny_model(), args=args, train_dataset=dataset, processing_class=processor())
    seen, original = [], trainer._embed

    def recording(model: Any, inputs: dict[str, Any]) -> Any:
        seen.append((inputs["image_ids"].tolist(), inputs["input_ids"].tolist()))
        return original(model, inputs)

    trainer._embed = recording  # type: ignore[method-assign]
    trainer.train()
    return seen


def main(out: Path) -> None:
    stream = batches_of(out, scenes().to_iterable_dataset(), max_steps=3)
    epochs = batches_of(out, scenes(), num_train_epochs=3, captions_per_image="one", unique_photos_per_batch=False)
    rank = torch.distributed.get_rank()
    out.with_suffix(f".{rank}").write_text(json.dumps({"stream": stream, "epochs": epochs}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    leave_process_group()
