"""The training itself: trl's SFTTrainer over encoded samples, as LoraConfig and TrainingArguments say."""

import dataclasses
import logging
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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

from trainer.progress import Progress
from trainer.tokens import Encoded
from tuning.errors import ConfigurationError, DatasetError, ResourceExhausted

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fitted:
    """The model with its trained adapter, and what the run measured."""

    model: Any
    steps: int
    metrics: Mapping[str, float]
    trainable_parameters: int


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


def parse_arguments(section: Mapping[str, Any], results: Path, max_length: int, *, evaluates: bool) -> SFTConfig:
    """TrainingArguments as trl understands them, over our defaults. Raises ConfigurationError with trl's sentence.

    The samples are cut to `max_length` tokens before trl sees them; for trl it is the length of a pack. With
    `evaluates`, held-out samples are at hand.
    """
    cuda = torch.cuda.is_available() and not section.get("use_cpu")
    defaults: dict[str, Any] = {
        # trl's 2e-5 is for full fine-tuning; LoRA wants ten times that and more.
        "learning_rate": 2e-4,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.03,
        "logging_steps": 5,
        "save_strategy": "no",
        "eval_strategy": "epoch" if evaluates else "no",
        # trl checkpoints by default, which costs a third of the time, whether memory is short or not.
        "activation_checkpointing": False,
        "use_cpu": not cuda,
        "bf16": cuda and torch.cuda.is_bf16_supported() and not section.get("fp16"),
        "report_to": "none",
        "disable_tqdm": True,
    }
    ours = {"output_dir": str(results), "max_length": max_length if section.get("packing") else None}
    given = {key: value for key, value in section.items() if key not in _APPLIED_BEFORE}
    try:
        return SFTConfig(**{**defaults, **given, **ours})
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
        options: list[Any] = [
            part for part in typing.get_args(hints[key]) or [hints[key]] if dataclasses.is_dataclass(part)
        ]
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


@dataclass(frozen=True)
class Recipe:
    """How the adapter is trained: the parsed sections, and where an earlier run is gone on with."""

    lora: LoraConfig
    arguments: SFTConfig
    collator: Mapping[str, Any]
    loraplus_lr_ratio: float | None = None
    checkpoint: Path | None = None


def fit(
    model: Any,
    tokenizer: Any,
    train: Sequence[Encoded],
    held_out: Sequence[Encoded],
    recipe: Recipe,
    callbacks: Sequence[TrainerCallback],
) -> Fitted:
    """Train an adapter on `train`; with `held_out` samples, evaluate it as configured and at the end.

    Raises ConfigurationError, DatasetError or ResourceExhausted with what went wrong.
    """
    arguments = recipe.arguments
    try:
        trainer = SFTTrainer(
            model=model,
            args=arguments,
            train_dataset=_table(train),
            eval_dataset=_table(held_out) if held_out else None,
            processing_class=tokenizer,
            peft_config=recipe.lora,
            data_collator=_collator(recipe.collator, tokenizer),
            callbacks=[Progress(), *callbacks],
        )
        if recipe.loraplus_lr_ratio is not None:
            trainer.optimizer = _loraplus(trainer, recipe.loraplus_lr_ratio)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"LoraConfig or TrainingArguments: {error}") from error
    trainer.remove_callback(transformers.PrinterCallback)
    trainable = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    total = trainer.set_initial_training_values(arguments, trainer.get_train_dataloader())[-1]
    logger.info(
        "training steps=%d epochs=%g samples=%d tokens=%d batch=%d trainable_parameters=%d all_parameters=%d",
        total,
        arguments.num_train_epochs if arguments.max_steps < 1 else total / max(_steps_per_epoch(trainer), 1),
        len(train),
        sum(len(sample.input_ids) for sample in train),
        arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size,
        trainable,
        trainer.model.num_parameters(),
    )
    try:
        result = trainer.train(resume_from_checkpoint=str(recipe.checkpoint) if recipe.checkpoint else None)
        metrics = {"train_loss": float(result.training_loss)}
        if held_out:
            metrics["eval_loss"] = _last_evaluation(trainer)
    except (torch.OutOfMemoryError, RuntimeError) as error:
        raise _cause(error, arguments) from error
    _check_learnt(trainer.model)
    return Fitted(trainer.model, trainer.state.global_step, metrics, trainable)


def _steps_per_epoch(trainer: SFTTrainer) -> int:
    return -(-len(trainer.get_train_dataloader()) // trainer.args.gradient_accumulation_steps)


def _last_evaluation(trainer: SFTTrainer) -> float:
    """The loss on the held-out samples after the last step, evaluated now if that step was not."""
    for record in reversed(trainer.state.log_history):
        if "eval_loss" in record and record["step"] == trainer.state.global_step:
            return float(record["eval_loss"])
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


def _cause(error: Exception, arguments: SFTConfig) -> Exception:
    text = str(error).lower()
    # "CUDA error: out of memory" and a failing CPU allocator are plain RuntimeErrors.
    if isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "can't allocate memory" in text:
        peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
        return ResourceExhausted(
            f"out of memory in a step with batch size {arguments.per_device_train_batch_size} (peak {peak} bytes)",
            hint="lower per_device_train_batch_size or max_length, set activation_checkpointing: true, or use qlora",
        )
    return error


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
