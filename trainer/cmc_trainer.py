# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""CMCTrainer: `transformers.Trainer` for TGDT models."""

from __future__ import annotations

from collections import defaultdict
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer, TrainerCallback
from transformers.trainer_utils import EvalLoopOutput, EvalPrediction, has_length
from transformers.utils import logging

from modeling_tgdt.objectives_tgdt import PairEmbeddings
from modeling_tgdt.similarity_tgdt import ScoreConfig

from .data.caption_dataset import CaptionDataset
from .data.skip_report import SkipReport
from .distributed import gather_pairs
from .evaluation import retrieval_metrics
from .report import write_json
from .samplers import DistinctPhotoSampler
from .scoring.encoding import EncodeOptions, encode_dataset
from .training.checkpoints import last_complete_checkpoint
from .training.checks import check_inputs, metric_name
from .training.examples import (
    collate_on_every_process,
    training_collator,
    training_examples,
    with_cached_tokens,
)
from .training.grad_cache import batch_dependent_layer, cached_loss, split_inputs
from .training.head_scale import first_examples, match_head_scale, needs_scale
from .training.log_table import print_tables
from .training.mining import HardNegativeMining
from .training.stages import TOWERS, frozen_modules, stage_loss, training_stage
from .training.start import start_and_end
from .training_args import CMCTrainingArguments

logger = logging.get_logger(__name__)


def step_schedule(step: int, *, steps_per_epoch: int, step_epochs: int, warmup_steps: int) -> float:
    """Return the factor of the learning rate at a step, as the authors' script computes it.

    Their warm-up counts one step when it is constructed, so the first step is damped as the second would be.

    Args:
        step: Optimizer steps taken so far.
        steps_per_epoch: Optimizer steps of an epoch.
        step_epochs: Epochs between falls to a tenth.
        warmup_steps: Length of the linear warm-up; 0 for none.

    Example:
        >>> step_schedule(0, steps_per_epoch=400, step_epochs=20, warmup_steps=1000)
        0.002
    """
    warm_up = min(1.0, (step + 2) / warmup_steps) if warmup_steps else 1.0
    return 0.1 ** (step // steps_per_epoch // step_epochs) * warm_up


class _CaptionEpochs(TrainerCallback):
    """Tells the training data its epoch: with several processes Accelerate tells only the sampler."""

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        data = kwargs["train_dataloader"].dataset
        if isinstance(data, CaptionDataset):
            data.set_epoch(int((state.epoch or 0) + 1e-6))  # a resumed run starts within the epoch


class CMCTrainer(Trainer):
    """Train a TGDTModel with the CMC loss; whatever `transformers.Trainer` can do still works.

    Args:
        model: TGDTModel, maybe under PEFT.
        args: [`CMCTrainingArguments`].
        data_collator: [`TGDTDataCollator`] of the processing class when omitted.
        train_dataset: Captioned photos as [`load_captions`] returns them: a `datasets` object with `image` (or
            `region_features` and `region_boxes`) and `captions` or `caption`. Or any data set whose items the collator
            takes.
        eval_dataset: Captioned photos to retrieve from, or a dict of such.
        processing_class: TGDTProcessor.
        **kwargs: Passed to `transformers.Trainer`.

    Example:
        >>> trainer = CMCTrainer(model, args, train_dataset=photos, processing_class=processor)  # doctest: +SKIP
        >>> trainer.train()  # doctest: +SKIP
    """

    args: CMCTrainingArguments
    model: Any
    # The hinge sums over a batch; micro-batches under accumulation are averaged as separate batches.
    loss_is_scaled_for_ga = False
    _stages: Any = None  # while training: gives the parameters' flags back
    _steps_per_epoch: int | None = None  # optimizer steps, once training has started on data of known length

    def __init__(
        self,
        model: Any = None,
        args: CMCTrainingArguments | None = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        **kwargs: Any,
    ) -> None:
        args = CMCTrainingArguments("tgdt_output") if args is None else args
        if not isinstance(args, CMCTrainingArguments):
            raise TypeError(f"args must be CMCTrainingArguments, found {type(args).__name__}.")
        check_inputs(train_dataset, processing_class, data_collator, kwargs)
        self.skip_report = SkipReport()
        if args.cache_vision_tokens and model is None:
            raise ValueError("cache_vision_tokens runs the backbone of `model`: pass it instead of model_init.")
        if args.cache_vision_tokens:
            both = (train_dataset, eval_dataset)
            train_dataset, eval_dataset = (
                with_cached_tokens(photos, model, processing_class, args, self.skip_report) for photos in both
            )
        train_dataset = training_examples(train_dataset, args, self.skip_report)
        if isinstance(train_dataset, torch.utils.data.IterableDataset):
            collate_on_every_process(args)
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator or training_collator(processing_class, model, args),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            **kwargs,
        )
        print_tables(self.callback_handler.callbacks)
        self.add_callback(_CaptionEpochs())
        if args.hard_negatives:
            self.add_callback(HardNegativeMining())
        self._components: dict[str, list[Tensor]] = defaultdict(list)
        self._frozen: list[nn.Module] = []
        if args.train_batch_size * (args.world_size if args.gather_across_devices else 1) < 2:
            logger.warning("One pair has no negatives, and its loss is 0: raise per_device_train_batch_size.")
        if args.gradient_accumulation_steps > 1:
            logger.warning(
                "gradient_accumulation_steps=%d does not add negatives: each micro-batch is ranked on its own. For a "
                "larger batch raise per_device_train_batch_size and set mini_batch_size.",
                args.gradient_accumulation_steps,
            )

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train as `transformers.Trainer.train` does, within the stage that the arguments name.

        Args:
            resume_from_checkpoint: A checkpoint, or `True` for the newest one that is complete.
            *args: Passed on.
            **kwargs: Passed on.

        Raises:
            ValueError: When `True` is given and there is no complete checkpoint, or when no parameter would train.
            FloatingPointError: When the loss is not finite; the message names the step.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_complete_checkpoint(str(self.args.output_dir))
            if resume_from_checkpoint is None:
                raise ValueError(f"No whole checkpoint in {self.args.output_dir}: train without resuming.")
        with ExitStack() as self._stages:
            if self.model_init is None:  # otherwise call_model_init prepares the model of every trial
                self._prepare(self.model)
            try:
                return super().train(resume_from_checkpoint, *args, **kwargs)
            finally:
                self._frozen = []
                self._report_skipped()

    def call_model_init(self, trial: Any = None) -> Any:
        """Make the model of a trial of a hyper-parameter search with `model_init`, and freeze what is to be frozen."""
        model = super().call_model_init(trial)
        if self._stages is not None:
            self._prepare(model)
        return model

    def _prepare(self, model: nn.Module) -> None:
        """Bring a new dual encoder's projections to the scale of its heads; freeze what the stage does not train."""
        if needs_scale(model):
            with torch.random.fork_rng():
                match_head_scale(model, self._prepare_inputs(self.data_collator(first_examples(self.train_dataset))))
        self._stages.enter_context(training_stage(model, self.args.train_stage, self.args.freeze))
        self._frozen = frozen_modules(model)

    def _report_skipped(self) -> None:
        """List unreadable pictures in `skipped.json` of the output directory, and the first few in the log."""
        if len(self.skip_report) and self.is_world_process_zero():
            folder = Path(str(self.args.output_dir))
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / "skipped.json", self.skip_report.items)
            logger.warning("%s", self.skip_report.summary())

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return the CMC loss of a batch; with `gather_across_devices` that of the batches of all processes.

        Args:
            model: The model as Accelerate wrapped it.
            inputs: What the collator made.
            return_outputs: Whether to return the embeddings too.
            num_items_in_batch: Not used: the loss compares the pairs of a batch with each other.

        Raises:
            FloatingPointError: When the loss is not finite.
        """
        for module in self._frozen:
            module.eval()
        inputs = {name: value for name, value in inputs.items() if name != "return_loss"}
        size = self._mini_batch_size(model)
        largest = max(len(value) for value in inputs.values() if isinstance(value, Tensor))
        if size is None or return_outputs or not torch.is_grad_enabled() or size >= largest:
            pairs = self._embed(model, inputs)
            loss = self._loss_of(pairs)
            return (loss, pairs.tensors()) if return_outputs else loss
        no_sync = partial(self.accelerator.no_sync, model)
        return cached_loss(partial(self._embed, model), split_inputs(inputs, size), self._loss_of, no_sync)

    def _mini_batch_size(self, model: nn.Module) -> int | None:
        """Return how many pairs are embedded at a time, or None, with a warning, where parts change the gradient."""
        size, layer = self.args.mini_batch_size, batch_dependent_layer(model)
        if size is not None and layer is not None:
            logger.warning_once(
                f"mini_batch_size is not used: {layer} normalises over the whole batch, so parts of it would give "
                "another gradient. Freeze it, or take a backbone without batch norm, to save the memory."
            )
            return None
        return size

    def _embed(self, model: nn.Module, inputs: dict[str, Any]) -> PairEmbeddings:
        # The wrapped model is called, not its methods: a distributed one synchronises gradients only in forward.
        names = {name: inputs[name] for name in ("image_ids", "caption_ids", "num_pairs") if name in inputs}
        inputs = {name: value for name, value in inputs.items() if name not in names}
        return PairEmbeddings.of(model(**inputs, return_loss=False, return_logits=False, return_dict=True), **names)

    def _loss_of(self, pairs: PairEmbeddings) -> Tensor:
        core: Any = self.accelerator.unwrap_model(self.model)
        if self.args.gather_across_devices:
            pairs = gather_pairs(pairs)
        loss_module = stage_loss(core, self.args.train_stage, self._margin_share())
        loss, components, _ = core.compute_loss(pairs, loss_module=loss_module)
        self._check_and_record(loss, components, pairs)
        return loss

    def _margin_share(self) -> float:
        """Return the part of the margins that is in force, which grows from 0 to 1 over the warm-up."""
        steps = self.args.margin_warmup_steps
        return min(1.0, (self.state.global_step + 1) / steps) if steps else 1.0

    def _check_and_record(self, loss: Tensor, components: dict[str, Tensor], pairs: PairEmbeddings) -> None:
        if not torch.isfinite(loss):
            values = {name: value.item() for name, value in components.items()}
            raise FloatingPointError(
                f"The loss is {loss.item()} at step {self.state.global_step} (terms: {values}). Lower the learning "
                "rate, check the inputs for NaN, or train in bf16 rather than fp16."
            )
        if not self.model.training:
            return
        for name, value in components.items():
            self._components[name].append(value)
        if self.state.global_step % max(1, self.state.logging_steps) == 0 and len(pairs.image_embeds) > 1:
            self._watch_collapse(pairs.image_embeds.detach().float())

    def _watch_collapse(self, embeds: Tensor) -> None:
        """Record the mean cosine between the images of a batch, and warn when they are nearly all the same."""
        count = len(embeds)
        # The squared sum of all embeddings holds every dot product; those of images with themselves are taken out.
        cosine = (embeds.sum(0).square().sum() - embeds.square().sum()) / (count * (count - 1))
        self._components["image_cosine"].append(cosine)
        if cosine > self.args.collapse_threshold:
            logger.warning(
                "Collapse at step %d: images of a batch have a mean cosine of %.3f. Lower the learning rate, warm up "
                "(warmup_steps, margin_warmup_steps), or start with hardest_negatives=False.",
                self.state.global_step,
                float(cosine),
            )

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log as `transformers.Trainer.log` does, with the means of the loss terms since the last call.

        The last entry of a training also says what the start and the end of it gave.
        """
        if "loss" in logs:
            for name, values in self._components.items():
                key = name if name == "image_cosine" else f"loss_{name}"
                logs[key] = float(torch.stack(values).mean())
            self._components.clear()
        if "train_runtime" in logs:
            logs.update(start_and_end(self.state, self.args))
        super().log(logs, *args, **kwargs)

    def _evaluate(self, trial: Any, ignore_keys_for_eval: Any, skip_scheduler: bool = False) -> dict[str, float]:
        """Evaluate. Before the first step (`skip_scheduler`) also keep the weights, in case none turn out better."""
        if skip_scheduler and self.state.log_history:
            return {}  # a resumed run was measured where it began
        metrics = super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler)
        if skip_scheduler and self.args.load_best_model_at_end:
            self._determine_best_metric(metrics, trial)
            self.state.best_model_checkpoint = str(Path(self._get_output_dir(trial), "checkpoint-0"))
            self._save_checkpoint(self.model, trial)
        return metrics

    def encode_options(self) -> EncodeOptions:
        """Return how the arguments want photos to be encoded: batches, workers, policy for broken pictures, bars."""
        policy: Any = self.args.on_error
        return replace(EncodeOptions.of_arguments(self.args), on_error=policy, report=self.skip_report)

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Measure retrieval on the photos and captions behind `dataloader`, each encoded once.

        The metrics are `<prefix>_<mode>_<metric>`, `<prefix>_rsum` of the last of `eval_modes`, and what
        `compute_metrics` adds. Predictions are the global embeddings of N photos and M captions, (N, D) and (M, D);
        label ids (M,) are the rows of the captions' photos.
        """
        core: Any = self.accelerator.unwrap_model(self.model)
        options = self.encode_options()
        embeddings = encode_dataset(self.model, self.processing_class, dataloader.dataset, options)
        results = retrieval_metrics(
            embeddings.to(core.device),
            score=ScoreConfig.of_model(core.config),
            modes=tuple(self.args.eval_modes),  # type: ignore[arg-type]
            candidates=self.args.eval_candidates,
            progress=options.progress,
        )
        values = {f"{mode}_{name}": value for mode, summary in results.items() for name, value in summary.items()}
        values["rsum"] = results[self.args.eval_modes[-1]]["rsum"]
        predictions: Any = (embeddings.image_embeds.numpy(), embeddings.text_embeds.numpy())
        label_ids: Any = embeddings.text_to_image.numpy()
        if self.compute_metrics is not None:
            values |= self.compute_metrics(EvalPrediction(predictions=predictions, label_ids=label_ids))
        prefix = f"{metric_key_prefix}_"  # compute_metrics may have put it there already
        metrics = {prefix + name.removeprefix(prefix): value for name, value in values.items()}
        if prediction_loss_only or self.args.prediction_loss_only:
            predictions = label_ids = None
        return EvalLoopOutput(predictions, label_ids, metrics=metrics, num_samples=len(dataloader.dataset))

    def hyperparameter_search(
        self,
        hp_space: Any = None,
        compute_objective: Any = None,
        n_trials: int = 20,
        direction: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Search as `transformers.Trainer.hyperparameter_search` does, by default for the largest rsum.

        Args:
            hp_space: As for it.
            compute_objective: Metrics to a number; that of `metric_for_best_model`, or rsum, when omitted.
            n_trials: As for it.
            direction: `"maximize"` or `"minimize"`; as `greater_is_better` says when omitted.
            *args: Passed on.
            **kwargs: Passed on.

        Returns:
            The best run.
        """
        compute_objective = compute_objective or itemgetter(metric_name(self.args))
        direction = direction or ("minimize" if self.args.greater_is_better is False else "maximize")
        return super().hyperparameter_search(hp_space, compute_objective, n_trials, direction, *args, **kwargs)

    def get_decay_parameter_names(self, model: Any) -> list[str]:
        """Return the parameters under weight decay: those of `transformers.Trainer`, but no learned temperature."""
        names = Trainer.get_decay_parameter_names(self, model)
        return [name for name in names if "logit_scales." not in name]

    @staticmethod
    def get_optimizer_cls_and_kwargs(args: Any, model: Any = None) -> tuple[Any, Any]:
        """Return the optimizer with one parameter group per learning rate and weight decay."""
        optimizer, kwargs = Trainer.get_optimizer_cls_and_kwargs(args, model)
        given = {
            f"{TOWERS['vision']}.": args.vision_learning_rate,
            f"{TOWERS['text']}.": args.text_learning_rate,
            "visual_projection.": args.projection_learning_rate,
            "visual_global_projection.": args.projection_learning_rate,
            "text_projection.": args.projection_learning_rate,
        }
        rates = {part: rate for part, rate in given.items() if rate is not None}
        if model is None or not rates:
            return optimizer, kwargs
        no_trainer: Any = None  # the method reads nothing of it
        decaying = set(CMCTrainer.get_decay_parameter_names(no_trainer, model))
        groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                rate = next((rate for part, rate in rates.items() if part in name), args.learning_rate)
                groups[rate, args.weight_decay if name in decaying else 0.0].append(parameter)
        kwargs["optimizer_dict"] = [
            {"params": parameters, "lr": rate, "weight_decay": decay} for (rate, decay), parameters in groups.items()
        ]
        return optimizer, kwargs

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        # save_pretrained writes some backbones under their legacy names, which load_state_dict does not know: a run
        # that resumes, or loads its best model, would silently go on with the weights that it has.
        if isinstance(self.model, PreTrainedModel):
            renamed = partial(self.model.save_pretrained, save_original_format=False)
            self.model.__dict__["save_pretrained"] = renamed
        try:
            super()._save(output_dir, state_dict)
        finally:
            self.model.__dict__.pop("save_pretrained", None)

    def set_initial_training_values(self, args: Any, dataloader: Any) -> Any:
        """Return what `transformers.Trainer` reads off the data, and keep the length of an epoch for the schedule."""
        values = super().set_initial_training_values(args, dataloader)
        self._steps_per_epoch = values[1] if has_length(dataloader) else None
        return values

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Return the authors' step schedule where `lr_step_epochs` is set, else the one of `lr_scheduler_type`."""
        if self.args.lr_step_epochs is None or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        of_arguments = max(1, round(num_training_steps / max(1.0, self.args.num_train_epochs)))
        schedule = partial(
            step_schedule,
            steps_per_epoch=self._steps_per_epoch or of_arguments,
            step_epochs=self.args.lr_step_epochs,
            warmup_steps=self.args.get_warmup_steps(num_training_steps),
        )
        target: Any = optimizer or self.optimizer
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(target, schedule)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write the card of the run into the output directory, see [`hub_cards.cards.model_card`].

        Args:
            *args: As for `transformers.Trainer.create_model_card`.
            **kwargs: As for it; `license`, `tags`, `language`, `finetuned_from`, `dataset_tags` replace front matter.
        """
        from .publishing.model_card import front_matter, write_trainer_card

        if self.is_world_process_zero():
            write_trainer_card(self, **front_matter(*args, **kwargs))

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        dataset: Any = self.train_dataset if train_dataset is None else train_dataset
        in_order = self.args.train_sampling_strategy == "sequential"
        if in_order or not self.args.unique_photos_per_batch or not hasattr(dataset, "image_ids"):
            return super()._get_train_sampler(train_dataset)
        joined = self.args.train_batch_size * self.args.world_size
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        groups = getattr(dataset, "group_ids", None) if self.args.look_alikes_per_batch else None
        return DistinctPhotoSampler(dataset.image_ids, joined, seed=seed, dataset=dataset, groups=groups)
