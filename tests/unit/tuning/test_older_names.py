import json
from typing import Any

import pytest

from tuning.config_keys import accepted_keys
from tuning.errors import ConfigurationError
from tuning.older_names import OLDER_NAMES, Obsolete, Renamed
from tuning.training_config import TrainingConfig, parse_training_config

RENAMED = [
    (section, old, meaning)
    for section, names in OLDER_NAMES.items()
    for old, meaning in names.items()
    if isinstance(meaning, Renamed)
]
OBSOLETE = [
    (section, old, meaning)
    for section, names in OLDER_NAMES.items()
    for old, meaning in names.items()
    if isinstance(meaning, Obsolete)
]
# A value that each old key had, and what it means today; others keep their value.
VALUES: dict[str, tuple[Any, Any]] = {
    "adafactor": (True, "adafactor"),
    "bnb_4bit_compute_type": ("float16", "float16"),
    "evaluate_during_training": (True, "steps"),
    "evaluation_strategy": ("epoch", "epoch"),
    "gradient_checkpointing": (True, True),
    "gradient_checkpointing_kwargs": ({"use_reentrant": False}, {"use_reentrant": False}),
    "group_by_length": (True, "group_by_length"),
    "load_in_4bit": (True, True),
    "load_in_8bit": (True, True),
    "no_cuda": (True, True),
    "max_seq_len": (256, 256),
    "max_seq_length": (256, 256),
    "per_gpu_eval_batch_size": (2, 2),
    "per_gpu_train_batch_size": (2, 2),
    "torch_dtype": ("bfloat16", "bfloat16"),
    "use_flash_attention_2": (True, "flash_attention_2"),
    "use_liger": (True, True),
    "warmup_ratio": (0.1, 0.1),
}


def parse(section: str, **keys: Any) -> TrainingConfig:
    content = {section: keys, **({"DatasetConfig": {"train_test_split": 0.9}} if section != "DatasetConfig" else {})}
    return parse_training_config(json.dumps({"training_config": content}), source="x")


@pytest.mark.parametrize(
    ("section", "old", "meaning"), RENAMED, ids=lambda value: value if isinstance(value, str) else ""
)
def test_an_older_name_is_translated_with_one_warning(section: str, old: str, meaning: Renamed) -> None:
    home = meaning.section or section
    assert old not in accepted_keys()[section]
    assert meaning.key in accepted_keys()[home]
    given, today = VALUES.get(old, ("x", "x"))
    config = parse(section, **{old: given})
    translated = {
        "ModelConfig": config.model,
        "QuantizationConfig": config.quantization,
        "TrainingArguments": config.arguments,
    }[home]
    assert translated == {meaning.key: today}
    assert config.warnings == (f"{section}.{old} is read under its name of today, {home}.{meaning.key}",)


@pytest.mark.parametrize(
    ("section", "old", "meaning"), OBSOLETE, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_key_without_effect_is_said_and_left_out(section: str, old: str, meaning: Obsolete) -> None:
    assert old not in accepted_keys()[section]
    config = parse(section, **{old: "something"})
    assert config.model == config.lora == config.collator == config.arguments == {}
    assert config.warnings == (f"{section}.{old} has no effect: {meaning.reason}",)
    for refused in meaning.refused:
        with pytest.raises(ConfigurationError, match=f"{section}.{old} is no longer possible"):
            parse(section, **{old: refused})


def test_values_that_mean_the_default_set_nothing() -> None:
    keys = {"group_by_length": False, "warmup_ratio": 0.0, "adafactor": False, "evaluate_during_training": False}
    assert parse("TrainingArguments", **keys).arguments == {"train_sampling_strategy": "random", "eval_strategy": "no"}
    assert parse("ModelConfig", use_flash_attention_2=False).model == {}


def test_both_names_at_once_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="max_seq_length is the older name of TrainingArguments.max_length"):
        parse("TrainingArguments", max_seq_length=1, max_length=2)


def test_a_value_in_its_old_section_moves_to_the_new_one_and_is_checked_there() -> None:
    with pytest.raises(ConfigurationError, match="QuantizationConfig.load_in_4bit must be true or false"):
        parse("ModelConfig", load_in_4bit="yes please")
