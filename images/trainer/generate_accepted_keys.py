"""Write shared/tuning/accepted_keys.json: which keys the pinned libraries accept in each section of the ConfigMap.

Run it after an upgrade of a library: `.venv/bin/python images/trainer/generate_accepted_keys.py`. A test compares.
"""

import dataclasses
import inspect
import json
import re
from pathlib import Path
from typing import Any

from peft import LoraConfig
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel
from trl import SFTConfig
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

TARGET = Path(__file__).parents[2] / "shared" / "tuning" / "accepted_keys.json"

# Our own keys: what the documentation promises beside the libraries' own.
OURS = {
    "ModelConfig": ["chat_template"],
    "DataCollator": ["mlm", "mlm_probability"],
    "DatasetConfig": [
        "context_column",
        "dataset_extension",
        "dataset_path",
        "messages_column",
        "response_column",
        "shuffle_dataset",
        "shuffle_seed",
        "train_test_split",
    ],
}


def accepted_keys() -> dict[str, list[str]]:
    """The sorted keys of each section."""
    sections = {
        "ModelConfig": _from_pretrained_keys(),
        "QuantizationConfig": _parameters(BitsAndBytesConfig),
        "LoraConfig": [field.name for field in dataclasses.fields(LoraConfig) if field.init],
        "TrainingArguments": [field.name for field in dataclasses.fields(SFTConfig) if field.init],
        "DataCollator": [field.name for field in dataclasses.fields(DataCollatorForLanguageModeling) if field.init],
        "DatasetConfig": [],
    }
    return {section: sorted({*keys, *OURS.get(section, [])}) for section, keys in sections.items()}


def _parameters(receiver: Any) -> list[str]:
    parameters = inspect.signature(receiver).parameters.values()
    return [p.name for p in parameters if p.kind is not p.VAR_KEYWORD and p.name != "self"]


def _from_pretrained_keys() -> list[str]:
    """`from_pretrained` takes **kwargs: its keys are those that it, or the Auto class before it, takes out of them."""
    keys = set(_parameters(PreTrainedModel.from_pretrained)) - {"model_args"}
    for function in (PreTrainedModel.from_pretrained, AutoModelForCausalLM.from_pretrained):
        source = inspect.getsource(function)
        keys |= set(re.findall(r"kwargs\.(?:pop|get)\(\s*\"(\w+)\"", source))
    return [key for key in keys if not key.startswith("_") and key != "quantization_config"]


if __name__ == "__main__":
    TARGET.write_text(json.dumps(accepted_keys(), indent=2) + "\n")
