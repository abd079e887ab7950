"""What the values of a training configuration may be, and which of them contradict each other."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from tuning.errors import Problem
from tuning.volumes import normalise_output_dir


class _Sections(Protocol):
    """The sections that the rules look at, as in TrainingConfig."""

    @property
    def model(self) -> Mapping[str, Any]: ...
    @property
    def quantization(self) -> Mapping[str, Any]: ...
    @property
    def lora(self) -> Mapping[str, Any]: ...
    @property
    def arguments(self) -> Mapping[str, Any]: ...
    @property
    def collator(self) -> Mapping[str, Any]: ...
    @property
    def dataset(self) -> Mapping[str, Any]: ...


def find_contradictions(config: _Sections, method: str) -> list[Problem]:
    """What is wrong although every key is known: values out of range, and values that exclude each other.

    `method` is the Workspace's (`lora`, `qlora`, or empty if unknown).
    """
    return [
        *_ranges(config),
        *_quantization(config.quantization, method),
        *_adapter(config.lora),
        *_training(config),
        *_columns(config.dataset),
    ]


_AT_LEAST_ONE = ("at least 1", lambda value: value >= 1)
_POSITIVE = ("greater than 0", lambda value: value > 0)
_NOT_NEGATIVE = ("at least 0", lambda value: value >= 0)
_SHARE = ("at least 0 and below 1", lambda value: 0 <= value < 1)

_RANGES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "LoraConfig.r": _AT_LEAST_ONE,
    "LoraConfig.lora_alpha": _AT_LEAST_ONE,
    "LoraConfig.lora_dropout": _SHARE,
    "LoraConfig.loraplus_lr_ratio": _AT_LEAST_ONE,
    "TrainingArguments.per_device_train_batch_size": _AT_LEAST_ONE,
    "TrainingArguments.per_device_eval_batch_size": _AT_LEAST_ONE,
    "TrainingArguments.gradient_accumulation_steps": _AT_LEAST_ONE,
    "TrainingArguments.max_length": _AT_LEAST_ONE,
    "TrainingArguments.num_train_epochs": _POSITIVE,
    "TrainingArguments.max_steps": ("at least 1, or -1 for all epochs", lambda value: value >= 1 or value == -1),
    "TrainingArguments.learning_rate": _POSITIVE,
    "TrainingArguments.warmup_steps": _NOT_NEGATIVE,
    "TrainingArguments.weight_decay": _NOT_NEGATIVE,
    "TrainingArguments.max_grad_norm": _NOT_NEGATIVE,
    "TrainingArguments.label_smoothing_factor": _SHARE,
    "TrainingArguments.logging_steps": _POSITIVE,
    "TrainingArguments.save_steps": _POSITIVE,
    "TrainingArguments.eval_steps": _POSITIVE,
    "TrainingArguments.save_total_limit": _AT_LEAST_ONE,
    "TrainingArguments.dataloader_num_workers": _NOT_NEGATIVE,
    "DatasetConfig.train_test_split": ("greater than 0 and at most 1", lambda value: 0 < value <= 1),
}


def _ranges(config: _Sections) -> Iterable[Problem]:
    sections = {"LoraConfig": config.lora, "TrainingArguments": config.arguments, "DatasetConfig": config.dataset}
    for path, (words, holds) in _RANGES.items():
        heading, name = path.split(".")
        value = sections[heading].get(name)
        # What is no number has been told already.
        if isinstance(value, int | float) and not isinstance(value, bool) and not holds(value):
            yield Problem(path, f"must be {words}, not {value}")


def _quantization(section: Mapping[str, Any], method: str) -> Iterable[Problem]:
    four, eight = section.get("load_in_4bit") is True, section.get("load_in_8bit") is True
    if four and eight:
        yield Problem("QuantizationConfig", "has load_in_4bit and load_in_8bit both true", "choose one")
    if method == "lora" and (four or eight):
        key = "load_in_4bit" if four else "load_in_8bit"
        yield Problem(
            f"QuantizationConfig.{key}", "must not be true with method lora", "use method qlora, or remove it"
        )
    if method == "qlora" and not four and not eight:
        yield Problem("QuantizationConfig", "must set load_in_4bit or load_in_8bit to true with method qlora")


def _adapter(section: Mapping[str, Any]) -> Iterable[Problem]:
    for key, only in (("peft_type", "LORA"), ("task_type", "CAUSAL_LM")):
        if section.get(key) not in (None, only):
            yield Problem(f"LoraConfig.{key}", f"must be {only}, not {section[key]!r}", "or leave it out")
    if section.get("inference_mode") is True:
        yield Problem("LoraConfig.inference_mode", "must not be true: nothing would be trained", "remove it")
    if section.get("target_modules") == []:
        yield Problem("LoraConfig.target_modules", "is empty: nothing would be trained", "name layers, or all-linear")


def _training(config: _Sections) -> Iterable[Problem]:
    arguments = config.arguments
    output_dir = arguments.get("output_dir")
    try:
        normalise_output_dir(output_dir if isinstance(output_dir, str) else None)
    except ValueError as error:
        yield Problem("TrainingArguments.output_dir", str(error))
    for key, instead in (
        ("dataset_kwargs", "remove it: samples are prepared before the library sees them"),
        ("model_init_kwargs", "use ModelConfig"),
    ):
        if arguments.get(key):
            yield Problem(f"TrainingArguments.{key}", "cannot be carried out", instead)
    if arguments.get("trust_remote_code") is True:
        yield Problem("TrainingArguments.trust_remote_code", "is read in another section", "use ModelConfig")
    if arguments.get("bf16") is True and arguments.get("fp16") is True:
        yield Problem("TrainingArguments", "has bf16 and fp16 both true", "choose one")
    if arguments.get("eval_strategy", "no") != "no" and config.dataset.get("train_test_split", 1) == 1:
        yield Problem(
            "TrainingArguments.eval_strategy",
            "asks for evaluations, but no row is held out",
            "set DatasetConfig.train_test_split below 1",
        )
    if arguments.get("packing") is True and config.collator:
        yield Problem("DataCollator", "cannot be combined with packing", "remove the section, or packing")
    if arguments.get("chat_template_path") and config.model.get("chat_template"):
        yield Problem("TrainingArguments.chat_template_path", "and ModelConfig.chat_template are both set", "keep one")


def _columns(section: Mapping[str, Any]) -> Iterable[Problem]:
    if section.get("messages_column") and section.get("context_column"):
        yield Problem(
            "DatasetConfig", "has messages_column and context_column both set", "a row is one or the other: keep one"
        )
    if section.get("context_column") and not section.get("response_column"):
        yield Problem("DatasetConfig.context_column", "needs response_column", "name the column with the answer")
