"""The training itself: trl's SFTTrainer over encoded samples, as LoraConfig and TrainingArguments say."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

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


def parse_arguments(section: Mapping[str, Any], results: Path, max_length: int) -> SFTConfig:
    """TrainingArguments as trl understands them, over our defaults. Raises ConfigurationError with trl's sentence.

    The samples are cut to `max_length` tokens before trl sees them; for trl it is the length of a pack.
    """
    cuda = torch.cuda.is_available()
    defaults: dict[str, Any] = {
        # trl's 2e-5 is for full fine-tuning; LoRA wants ten times that and more.
        "learning_rate": 2e-4,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.03,
        "logging_steps": 5,
        "save_strategy": "no",
        # trl checkpoints by default, which costs a third of the time, whether memory is short or not.
        "activation_checkpointing": bool(section.get("gradient_checkpointing")),
        "use_cpu": not cuda,
        "bf16": cuda and torch.cuda.is_bf16_supported(),
        "report_to": "none",
    }
    ours = {
        "output_dir": str(results),
        "disable_tqdm": True,
        "max_length": max_length if section.get("packing") else None,
    }
    given = {key: value for key, value in section.items() if value is not None and key != "gradient_checkpointing"}
    try:
        return SFTConfig(**{**defaults, **given, **ours})
    except (TypeError, ValueError, ImportError) as error:
        raise ConfigurationError(f"TrainingArguments: {error}") from error


def parse_lora(section: Mapping[str, Any]) -> LoraConfig:
    """LoraConfig as peft understands it, over our defaults. Raises ConfigurationError with peft's sentence."""
    defaults = {"target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    given = {key: value for key, value in section.items() if value is not None}
    try:
        return LoraConfig(**{**defaults, **given})
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"LoraConfig: {error}") from error


def fit(
    model: Any,
    tokenizer: Any,
    train: Sequence[Encoded],
    held_out: Sequence[Encoded],
    lora: LoraConfig,
    arguments: SFTConfig,
) -> Fitted:
    """Train an adapter on `train`; with `held_out` samples, evaluate it at the end.

    Raises ConfigurationError, DatasetError or ResourceExhausted with what went wrong.
    """
    try:
        trainer = SFTTrainer(
            model=model,
            args=arguments,
            train_dataset=_table(train),
            eval_dataset=_table(held_out) if held_out else None,
            processing_class=tokenizer,
            peft_config=lora,
            callbacks=[Progress()],
        )
    except ValueError as error:
        raise ConfigurationError(f"LoraConfig or TrainingArguments: {error}") from error
    trainer.remove_callback(transformers.PrinterCallback)
    trainable = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    total = trainer.set_initial_training_values(arguments, trainer.get_train_dataloader())[-1]
    logger.info("training samples=%d steps=%d trainable_parameters=%d", len(train), total, trainable)
    try:
        result = trainer.train()
        metrics = {"train_loss": float(result.training_loss)}
        if held_out:
            metrics["eval_loss"] = float(trainer.evaluate()["eval_loss"])
    except (torch.OutOfMemoryError, RuntimeError) as error:
        raise _cause(error, arguments) from error
    _check_learnt(trainer.model)
    return Fitted(trainer.model, trainer.state.global_step, metrics)


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
            hint="lower per_device_train_batch_size or max_length, set gradient_checkpointing: true, or use qlora",
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
