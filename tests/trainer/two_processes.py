"""Run by `torchrun`: one training step and one evaluation, their results written by rank 0.

torchrun --nproc-per-node N tests/trainer/two_processes.py OUT PER_DEVICE_BATCH MINI_BATCH
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.trainer.scenes_model import processor, scenes, scenes_with_negatives, tiny_model
from trainer import CMCTrainer, CMCTrainingArguments
from trainer.scoring.sharding import leave_process_group
from trainer.training.mining import HardNegativeMining


def main(out: Path, per_device: int, mini_batch_size: int | None) -> None:
    loss = {"objective": "infonce", "learnable_temperature": True, "distill_loss_weight": 0.3}
    model = tiny_model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **loss)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    args = CMCTrainingArguments(
        str(out.with_suffix("")),
        per_device_train_batch_size=per_device,
        per_device_eval_batch_size=3,
        max_steps=15,  # into the second epoch, which is dealt with what was mined
        dataloader_drop_last=True,  # accelerate fills the last global batch up from the first
        hard_negatives=2,
        mining_epochs=1,
        mini_batch_size=mini_batch_size,
        learning_rate=1e-4,
        max_grad_norm=1.0,  # the gradient of so narrow a model is steep
        optim="sgd",
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        ddp_backend="gloo",
    )
    trainer = CMCTrainer(
        model=model,
        args=args,
        train_dataset=scenes_with_negatives(),
        eval_dataset=scenes(10, 1),
        processing_class=processor(),
    )
    metrics = trainer.evaluate()  # before training: equal weights to the last bit, so no tie can flip
    trainer.train()
    if trainer.is_world_process_zero():
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        kept = {name: value for name, value in metrics.items() if "runtime" not in name and "per_second" not in name}
        (mined,) = [
            callback.packed
            for callback in trainer.callback_handler.callbacks
            if isinstance(callback, HardNegativeMining)
        ]
        save_file(
            trainer.model.state_dict(),
            out,
            {"losses": json.dumps(losses), "metrics": json.dumps(kept), "mined": mined},
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) or None)
    leave_process_group()
