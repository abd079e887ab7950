"""The training itself: trl's SFTTrainer over encoded samples, as LoraConfig and TrainingArguments say."""

import dataclasses
import gc
import logging
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from peft import LoraConfig
from peft.optimizers import create_loraplus_optimizer
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from trainer.batching import SimilarLengths
from trainer.packing import SeparatingCollator, needs_a_mask
from trainer.tokens import Encoded
from tuning.errors import ConfigurationError, DatasetError, ResourceExhausted

logger = logging.getLogger(__name__)

# What the tokenizer, the labels and the checkpoint's path were made from, before trl is asked.
_APPLIED_BEFORE = {
    "assistant_only_loss",
    "chat_template_path",
    "completion_only_loss",
    "dataset_text_field",
    "eos_token",
    "pad_token",
    "resume_from_checkpoint",
    "truncation_mode",
}


@dataclass(frozen=True)
class Fitted:
    """What the training left: the model with its adapter, and what the run measured.

    `state` are the adapter's weights where the model's own are spread over processes.
    """

    model: Any
    steps: int
    metrics: Mapping[str, float]
    trainable_parameters: int
    arguments: SFTConfig
    state: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Recipe:
    """How the adapter is trained: the parsed sections, and where an earlier run is gone on with."""

    lora: LoraConfig
    arguments: SFTConfig
    collator: Mapping[str, Any] = field(default_factory=dict)
    loraplus_lr_ratio: float | None = None
    checkpoint: Path | None = None
    oom_retry: bool = True


def parse_arguments(
    section: Mapping[str, Any], defaults: Mapping[str, Any], results: Path, max_length: int, *, evaluates: bool
) -> SFTConfig:
    """TrainingArguments as trl understands them, over our `defaults`. Raises ConfigurationError with trl's sentence.

    The samples are cut to `max_length` tokens before trl sees them; for trl it is the length of a pack. With
    `evaluates`, held-out samples are at hand.
    """
    ours = {"output_dir": str(results), "max_length": max_length if section.get("packing") else None}
    given = {key: value for key, value in section.items() if key not in _APPLIED_BEFORE}
    evaluation = {"eval_strategy": "epoch" if evaluates else "no"}
    try:
        return SFTConfig(**{**defaults, **evaluation, **given, **ours})
    except (TypeError, ValueError, ImportError, KeyError) as error:
        raise ConfigurationError(f"TrainingArguments: {error}") from error


def parse_lora(section: Mapping[str, Any], targets: str | list[str]) -> LoraConfig:
    """LoraConfig as peft understands it, over our defaults. Raises ConfigurationError with peft's sentence."""
    hints = typing.get_type_hints(LoraConfig)
    given: dict[str, Any] = {}
    for key, value in section.items():
        if key == "loraplus_lr_ratio":
            continue
        # A method's own options are a mapping here, and a dataclass there.
        kinds = typing.get_args(hints[key]) or (hints[key],)
        options: list[Any] = [kind for kind in kinds if dataclasses.is_dataclass(kind)]
        given[key] = value
        if isinstance(value, Mapping) and options:
            try:
                given[key] = options[0](**value)
            except TypeError as error:
                raise ConfigurationError(f"LoraConfig.{key}: {error}") from error
    try:
        return LoraConfig(**{**given, "task_type": "CAUSAL_LM", "target_modules": targets or None})
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"LoraConfig: {error}") from error


class _Trainer(SFTTrainer):
    """trl's trainer with an order of samples that survives a restart."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.args.train_sampling_strategy != "group_by_length" or self.args.packing:
            return super()._get_train_sampler(train_dataset)
        arguments = self.args
        batch = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
        seed = arguments.seed if arguments.data_seed is None else arguments.data_seed
        return SimilarLengths([len(ids) for ids in self.train_dataset["input_ids"]], batch, seed)


def fit(
    model: Any,
    tokenizer: Any,
    train: Sequence[Encoded],
    held_out: Sequence[Encoded],
    recipe: Recipe,
    callbacks: Sequence[TrainerCallback] = (),
) -> Fitted:
    """Train an adapter on `train`; with `held_out` samples, evaluate it as configured and at the end.

    Out of memory in a step, it goes on from the last one with less at a time, if the recipe allows: the samples of each
    step stay the same. Raises ConfigurationError, DatasetError or ResourceExhausted with what went wrong.
    """
    resumed = recipe.checkpoint is not None
    while True:
        trainer = _make_trainer(model, tokenizer, train, held_out, recipe, callbacks)
        _say_what_comes(trainer, train)
        try:
            with _cause_of_memory(trainer):
                result = trainer.train(resume_from_checkpoint=str(recipe.checkpoint) if recipe.checkpoint else None)
                break
        except ResourceExhausted as error:
            smaller = smaller_steps(recipe.arguments) if recipe.oom_retry and trainer.args.world_size == 1 else None
            if smaller is None:
                raise
            logger.warning("%s; going on with %s", error, _describe_step(smaller))
            recipe = dataclasses.replace(recipe, arguments=smaller, checkpoint=_last_state(trainer, recipe.checkpoint))
            resumed = recipe.checkpoint is not None
            # What is wrapped already keeps its adapter, as far as it was trained.
            model = trainer.model
            del trainer
            gc.collect()
            torch.cuda.empty_cache()
    loss = _mean_loss(trainer.state.log_history) if resumed else float(result.training_loss)
    metrics = {"train_loss": loss}
    if held_out and not any(getattr(callback, "stop_signal", 0) for callback in callbacks):
        metrics["eval_loss"] = _last_evaluation(trainer)
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped) if trainer.is_fsdp_enabled else None
    if state is None:
        _check_learnt(trainer.model)
    return Fitted(trainer.model, trainer.state.global_step, metrics, _trainable(trainer.model), recipe.arguments, state)


def smaller_steps(arguments: SFTConfig) -> SFTConfig | None:
    """The same steps in smaller pieces: half the samples at a time and twice as often, then with checkpointing.

    None where nothing smaller is left.
    """
    batch = arguments.per_device_train_batch_size
    if batch > 1:
        # The largest part that divides it keeps the number of samples in a step.
        part = next(part for part in range(batch // 2, 0, -1) if batch % part == 0)
        accumulation = arguments.gradient_accumulation_steps * (batch // part)
        return _changed(arguments, per_device_train_batch_size=part, gradient_accumulation_steps=accumulation)
    if not arguments.activation_checkpointing:
        return _changed(arguments, activation_checkpointing=True)
    return None


def _changed(arguments: SFTConfig, **changes: Any) -> SFTConfig:
    fields = {item.name: getattr(arguments, item.name) for item in dataclasses.fields(arguments) if item.init}
    # These two names mean one thing, and the older one is derived.
    fields.pop("gradient_checkpointing", None)
    return SFTConfig(**{**fields, **changes})


def _describe_step(arguments: SFTConfig) -> str:
    checkpointing = ", with checkpointing" if arguments.activation_checkpointing else ""
    return (
        f"per_device_train_batch_size {arguments.per_device_train_batch_size}, "
        f"gradient_accumulation_steps {arguments.gradient_accumulation_steps}{checkpointing}"
    )


def _make_trainer(
    model: Any,
    tokenizer: Any,
    train: Sequence[Encoded],
    held_out: Sequence[Encoded],
    recipe: Recipe,
    callbacks: Sequence[TrainerCallback],
) -> SFTTrainer:
    try:
        trainer = _Trainer(
            model=model,
            args=recipe.arguments,
            train_dataset=_table(train),
            eval_dataset=_table(held_out) if held_out else None,
            processing_class=tokenizer,
            peft_config=None if hasattr(model, "peft_config") else recipe.lora,
            data_collator=_collator(recipe.collator, tokenizer),
            callbacks=list(callbacks),
        )
        if recipe.loraplus_lr_ratio is not None:
            trainer.optimizer = _loraplus(trainer, recipe.loraplus_lr_ratio)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"LoraConfig or TrainingArguments: {error}") from error
    if recipe.arguments.packing and needs_a_mask(trainer.model.config.model_type):
        if recipe.arguments.router_aux_loss_coef:
            raise ConfigurationError(
                "TrainingArguments.router_aux_loss_coef cannot be combined with packing for this model",
                hint="remove one of them",
            )
        trainer.data_collator = SeparatingCollator(trainer.data_collator, trainer.model.dtype)
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def _say_what_comes(trainer: SFTTrainer, train: Sequence[Encoded]) -> None:
    arguments = trainer.args
    total = trainer.set_initial_training_values(arguments, trainer.get_train_dataloader())[-1]
    batch = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    logger.info(
        "training steps=%d epochs=%g samples=%d tokens=%d batch=%d trainable_parameters=%d all_parameters=%d",
        total,
        arguments.num_train_epochs if arguments.max_steps < 1 else total / max(_steps_per_epoch(trainer), 1),
        len(train),
        sum(len(sample.input_ids) for sample in train),
        batch,
        _trainable(trainer.model),
        trainer.model.num_parameters(),
    )
    if arguments.packing:
        unpacked = -(-len(train) // batch)
        logger.info(
            "packing: %d samples in %d packs; an epoch takes %d steps instead of %d",
            len(train),
            len(trainer.train_dataset),
            _steps_per_epoch(trainer),
            unpacked,
        )


def _trainable(model: Any) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _steps_per_epoch(trainer: SFTTrainer) -> int:
    return -(-len(trainer.get_train_dataloader()) // trainer.args.gradient_accumulation_steps)


def _last_state(trainer: SFTTrainer, before: Path | None) -> Path | None:
    """Save the state after the last whole step and return its folder; where no step was done, what there was before."""
    step = trainer.state.global_step
    if step == 0 or (before is not None and before.name == f"checkpoint-{step}"):
        return before
    # The gradients of the step that failed take memory, and belong to nothing.
    trainer.model.zero_grad(set_to_none=True)
    trainer._save_checkpoint(trainer.model, trial=None)
    trainer.callback_handler.on_save(trainer.args, trainer.state, trainer.control)
    return Path(trainer.args.output_dir) / f"checkpoint-{step}"


def _mean_loss(history: Sequence[Mapping[str, Any]]) -> float:
    """The mean over all steps, of a run whose parts the library reports apart."""
    total, before = 0.0, 0
    for record in history:
        if "loss" in record:
            total += float(record["loss"]) * (record["step"] - before)
            before = record["step"]
    return total / before if before else 0.0


def _last_evaluation(trainer: SFTTrainer) -> float:
    """The loss on the held-out samples after the last step, evaluated now if that step was not."""
    for record in reversed(trainer.state.log_history):
        if "eval_loss" in record and record["step"] == trainer.state.global_step:
            return float(record["eval_loss"])
    with _cause_of_memory(trainer):
        return float(trainer.evaluate()["eval_loss"])


def _collator(section: Mapping[str, Any], tokenizer: Any) -> DataCollatorForLanguageModeling | None:
    if not section:
        return None
    try:
        return DataCollatorForLanguageModeling(**{"pad_token_id": tokenizer.pad_token_id, **section})
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"DataCollator: {error}") from error


def _loraplus(trainer: SFTTrainer, ratio: float) -> Any:
    """LoRA+ (Hayou et al., 2024): B learns `ratio` times faster than A."""
    optimizer, options = SFTTrainer.get_optimizer_cls_and_kwargs(trainer.args)
    return create_loraplus_optimizer(trainer.model, optimizer, loraplus_lr_ratio=ratio, **options)


def _table(samples: Sequence[Encoded]) -> Any:
    return datasets.Dataset.from_dict(
        {"input_ids": [s.input_ids for s in samples], "labels": [s.labels for s in samples]}
    )


@contextmanager
def _cause_of_memory(trainer: SFTTrainer) -> Iterator[None]:
    """Turn the many ways to say that memory ran out into ResourceExhausted."""
    try:
        yield
    except RuntimeError as error:
        text = str(error).lower()
        # "CUDA error: out of memory", a failing cuBLAS handle and the CPU's allocator are plain RuntimeErrors.
        known = ("out of memory", "can't allocate memory", "cublas_status_alloc_failed")
        if not isinstance(error, torch.OutOfMemoryError) and not any(words in text for words in known):
            raise
        arguments = trainer.args
        peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
        longest = max(map(len, trainer.train_dataset["input_ids"]))
        raise ResourceExhausted(
            f"out of memory in step {trainer.state.global_step + 1} with batch size "
            f"{arguments.per_device_train_batch_size} and at most {longest} tokens a sample (peak {peak} bytes)",
            hint="lower per_device_train_batch_size or max_length, set activation_checkpointing: true, or use qlora",
        ) from error


def _check_learnt(model: Any) -> None:
    """LoRA's B starts at zero: if it still is, nothing was learnt, whatever the loss says."""
    moved = False
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if not torch.isfinite(parameter).all():
            raise ConfigurationError(
                f"training diverged: {name} is not finite", hint="lower TrainingArguments.learning_rate"
            )
        moved = moved or ("lora_B" in name and bool(parameter.any()))
    if not moved and any("lora_B" in name for name, _ in model.named_parameters()):
        raise DatasetError("the adapter did not change in training", hint="raise learning_rate, epochs or max_steps")
