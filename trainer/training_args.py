# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Arguments of [`CMCTrainer`]."""

from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments

from .training.checks import check_arguments
from .training.stages import STAGES, TOWERS


@dataclass
class CMCTrainingArguments(TrainingArguments):
    """`transformers.TrainingArguments` plus what training an image-text retriever needs.

    Changed defaults: `remove_unused_columns` is `False`, since the columns are read by the collator; `logging_steps`
    is a twentieth of the run; `metric_for_best_model` is `"rsum"`.

    Args:
        train_stage: `"joint"` trains everything; `"local"` all but the global encoders, by token similarity;
            `"global"` only the global encoders, on the tokens as they are. The paper's schedule is local, then global.
        freeze: Backbones that stay as they are: `"vision"`, `"text"`.
        vision_learning_rate: Learning rate of the vision backbone; `learning_rate` when omitted.
        text_learning_rate: Learning rate of the text backbone; `learning_rate` when omitted.
        projection_learning_rate: Learning rate of the two projections; `learning_rate` when omitted. Projections that
            come with a dual encoder, or that `warm_start` fitted, are pretrained as the backbones are.
        gather_across_devices: Whether the captions and images on all processes are negatives of each other.
        mini_batch_size: Pairs that are embedded at a time. The loss still sees the whole batch, with the gradient of
            the whole batch (GradCache), at the memory of a mini-batch.
        unique_photos_per_batch: Whether a batch holds at most one caption of a photo.
        look_alikes_per_batch: Whether photos with one `group_id` are dealt into one batch, where the data have that
            column: each is then a hard negative of the others.
        hard_negatives: Look-alike photos that a photo brings into its batch, mined in the whole training set with the
            model's own global embeddings; 0 for none. Captions of one photo, and photos that share a caption, are
            never each other's.
        mining_epochs: Mine at the start of every `mining_epochs`-th epoch but the first, whose order is random.
        captions_per_image: `"all"`: an epoch sees every caption. `"one"`: one drawn caption of every photo.
        word_dropout: Probability with which a word of a training caption is left out, against overfitting.
        region_dropout: Share of the regions of a training photo that is left out; for regions, cached ones included.
        cache_vision_tokens: Whether the frozen vision backbone is run once over the photos and its tokens are kept on
            disk. Needs `freeze` to hold `"vision"`.
        token_cache_dir: Where these tokens are kept; `output_dir/token_cache` when omitted.
        on_error: What an unreadable picture does: `"raise"`, `"skip"` (counted and listed) or `"placeholder"`.
        margin_warmup_steps: Steps over which the hinge's margins grow from 0.
        lr_step_epochs: Epochs after which the learning rate falls to a tenth, again and again, with a linear warm-up
            over `warmup_steps`: the authors' schedule. `lr_scheduler_type` rules when omitted.
        collapse_threshold: Mean cosine between different photos of a batch above which a warning names the step.
        eval_on_start: Whether the metrics are measured before the first step, too, to compare the end with; with
            `load_best_model_at_end` the start is kept as `checkpoint-0` and comes back unless a checkpoint beats it.
            By default where evaluation is part of training (`eval_strategy`).
        eval_modes: Retrieval modes that an evaluation measures.
        eval_candidates: Shortlist of the two-stage mode; the paper's 100 images and 50 captions when omitted.
    """

    remove_unused_columns: bool = field(default=False, metadata={"help": "Kept off: the collator reads the columns."})
    train_stage: str = field(default="joint", metadata={"help": "joint, local or global.", "choices": list(STAGES)})
    freeze: list[str] = field(default_factory=list, metadata={"help": "Backbones that stay as they are: vision text."})
    vision_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the vision backbone (default: learning_rate)."}
    )
    text_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the text backbone (default: learning_rate)."}
    )
    projection_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the two projections (default: learning_rate)."}
    )
    gather_across_devices: bool = field(
        default=True, metadata={"help": "Take negatives from all processes, with the gradient of the joined batch."}
    )
    mini_batch_size: int | None = field(
        default=None, metadata={"help": "Embed this many pairs at a time; the loss sees the whole batch (GradCache)."}
    )
    unique_photos_per_batch: bool = field(
        default=True, metadata={"help": "Keep two captions of one photo out of one batch."}
    )
    look_alikes_per_batch: bool = field(
        default=True, metadata={"help": "Deal photos with one group_id into one batch, as hard negatives."}
    )
    hard_negatives: int = field(
        default=0, metadata={"help": "Mined look-alike photos that a photo brings into its batch (0: none)."}
    )
    mining_epochs: int = field(default=1, metadata={"help": "Mine them anew after this many epochs."})
    captions_per_image: str = field(
        default="all",
        metadata={"help": "all: every caption in an epoch; one: one drawn per photo.", "choices": ["all", "one"]},
    )
    word_dropout: float = field(default=0.0, metadata={"help": "Leave out each word of a caption this often."})
    region_dropout: float = field(default=0.0, metadata={"help": "Leave out this share of a photo's regions."})
    cache_vision_tokens: bool = field(
        default=False, metadata={"help": "Run the frozen vision backbone once and train from its stored tokens."}
    )
    token_cache_dir: str | None = field(
        default=None, metadata={"help": "Where these tokens are kept (default: OUTPUT_DIR/token_cache)."}
    )
    on_error: str = field(
        default="raise",
        metadata={"help": "What an unreadable picture does.", "choices": ["raise", "skip", "placeholder"]},
    )
    margin_warmup_steps: int = field(default=0, metadata={"help": "Steps over which the margins grow from 0."})
    lr_step_epochs: int | None = field(
        default=None, metadata={"help": "Epochs after which the learning rate falls to a tenth (authors' schedule)."}
    )
    collapse_threshold: float = field(
        default=0.98, metadata={"help": "Mean cosine between photos of a batch above which a warning is logged."}
    )
    logging_steps: float = field(default=0.05, metadata={"help": "Steps between logs; below 1: share of the run."})
    eval_on_start: bool | None = field(  # type: ignore[assignment]
        default=None,
        metadata={"help": "Measure before the first step (default: where evaluation is part of training)."},
    )
    eval_modes: list[str] = field(
        default_factory=lambda: ["global", "local", "two_stage"],
        metadata={"help": "Retrieval modes to measure: global local two_stage."},
    )
    eval_candidates: int | None = field(
        default=None, metadata={"help": "Shortlist size of the two-stage mode (default: 100 images, 50 captions)."}
    )

    def __post_init__(self) -> None:
        names_metric = self.metric_for_best_model is not None
        super().__post_init__()
        if self.metric_for_best_model is not None and not names_metric:  # the parent's choice is a loss
            self.metric_for_best_model, self.greater_is_better = "rsum", True
        if self.eval_on_start is None:
            self.eval_on_start = self.eval_strategy != "no"
        if not torch.accelerator.is_available():
            self.dataloader_pin_memory = False  # without an accelerator it does nothing but warn
        self.freeze = [self.freeze] if isinstance(self.freeze, str) else list(self.freeze)
        self.eval_modes = [self.eval_modes] if isinstance(self.eval_modes, str) else list(self.eval_modes)
        _check_choice("train_stage", [self.train_stage], STAGES)
        _check_choice("freeze", self.freeze, TOWERS)
        _check_choice("eval_modes", self.eval_modes, ("global", "local", "two_stage"))
        _check_choice("captions_per_image", [self.captions_per_image], ("all", "one"))
        _check_choice("on_error", [self.on_error], ("raise", "skip", "placeholder"))
        if self.mini_batch_size is not None and self.mini_batch_size < 1:
            raise ValueError(f"mini_batch_size must be at least 1, found {self.mini_batch_size}.")
        if self.hard_negatives < 0 or self.mining_epochs < 1:
            found = f"{self.hard_negatives} and {self.mining_epochs}"
            raise ValueError(f"hard_negatives must be at least 0 and mining_epochs at least 1, found {found}.")
        if self.hard_negatives and not self.unique_photos_per_batch:
            raise ValueError("hard_negatives deals batches of different photos: leave unique_photos_per_batch on.")
        if not (0 <= self.word_dropout < 1 and 0 <= self.region_dropout < 1):
            found = f"{self.word_dropout} and {self.region_dropout}"
            raise ValueError(f"word_dropout and region_dropout must be in [0, 1), found {found}.")
        if self.lr_step_epochs is not None and self.lr_step_epochs < 1:
            raise ValueError(f"lr_step_epochs must be at least 1, found {self.lr_step_epochs}.")
        if self.cache_vision_tokens and "vision" not in self.freeze:
            raise ValueError(
                "cache_vision_tokens stores the output of a vision backbone that does not change. Add 'vision' to "
                "freeze, or leave cache_vision_tokens off."
            )
        check_arguments(self)


def _check_choice(name: str, found: list[str], known: object) -> None:
    choices = list(known)  # type: ignore[call-overload]
    unknown = [value for value in found if value not in choices]
    if unknown:
        raise ValueError(f"{name} must be among {choices}, found {unknown[0]!r}.")
