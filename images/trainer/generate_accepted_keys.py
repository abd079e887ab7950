"""Write shared/tuning/accepted_keys.json: which keys, and which values, the pinned libraries accept in each section.

Run it after an upgrade of a library: `.venv/bin/python images/trainer/generate_accepted_keys.py`. A test compares.
"""

import dataclasses
import enum
import inspect
import json
import re
import types
import typing
from pathlib import Path
from typing import Any

from peft import LoraConfig
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel
from trl import SFTConfig
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from tuning.older_names import OLDER_NAMES

TARGET = Path(__file__).parents[2] / "shared" / "tuning" / "accepted_keys.json"

_TEXT = {"kinds": ["null", "str"]}
_SWITCH = {"kinds": ["bool", "null"]}
# Our own keys, and what from_pretrained does not say of its own.
OURS: dict[str, dict[str, dict[str, Any]]] = {
    "ModelConfig": {
        "chat_template": _TEXT,
        "attn_implementation": _TEXT,
        "cache_dir": _TEXT,
        "device_map": {"kinds": ["dict", "int", "null", "str"]},
        "dtype": {
            "kinds": ["null", "str"],
            "choices": ["auto", "bfloat16", "float16", "float32", "torch.bfloat16", "torch.float16", "torch.float32"],
        },
        "force_download": _SWITCH,
        "local_files_only": _SWITCH,
        "max_memory": {"kinds": ["dict", "null"]},
        "pretrained_model_name_or_path": _TEXT,
        "revision": _TEXT,
        "subfolder": {"kinds": ["str"]},
        "trust_remote_code": _SWITCH,
        "use_safetensors": _SWITCH,
        "variant": _TEXT,
    },
    "QuantizationConfig": {
        "bnb_4bit_compute_dtype": {"kinds": ["null", "str"], "choices": ["bfloat16", "float16", "float32"]},
        "bnb_4bit_quant_type": {"kinds": ["str"], "choices": ["fp4", "nf4"], "default": "nf4"},
        "bnb_4bit_quant_storage": _TEXT,
        "llm_int8_skip_modules": {"kinds": ["list", "null"]},
    },
    # LoRA+ (Hayou et al., 2024): B learns so many times faster than A.
    "LoraConfig": {"loraplus_lr_ratio": {"kinds": ["float", "null"]}},
    # Their annotations say str only, their documentation also true.
    "TrainingArguments": {
        "fsdp": {"kinds": ["bool", "null", "str"]},
        "resume_from_checkpoint": {"kinds": ["bool", "null", "str"]},
    },
    "DatasetConfig": {
        "context_column": _TEXT,
        "dataset_extension": _TEXT,
        "dataset_path": _TEXT,
        "messages_column": _TEXT,
        "on_bad_rows": {"kinds": ["str"], "choices": ["fail", "skip"], "default": "fail"},
        "response_column": _TEXT,
        "shuffle_dataset": {"kinds": ["bool"], "default": True},
        "shuffle_seed": {"kinds": ["int"], "default": 42},
        "train_test_split": {"kinds": ["float"], "default": 1},
    },
}


def accepted_keys() -> dict[str, dict[str, dict[str, Any]]]:
    """The sorted keys of each section, each with what is known of its values."""
    sections = {
        "ModelConfig": _from_pretrained_keys(),
        "QuantizationConfig": _parameters(BitsAndBytesConfig),
        "LoraConfig": _fields(LoraConfig),
        "TrainingArguments": _fields(SFTConfig),
        "DataCollator": _fields(DataCollatorForLanguageModeling),
        "DatasetConfig": {},
    }
    return {
        section: {
            name: key
            for name, key in sorted({**keys, **OURS.get(section, {})}.items())
            if name not in OLDER_NAMES[section]
        }
        for section, keys in sections.items()
    }


def _fields(dataclass: Any) -> dict[str, dict[str, Any]]:
    hints = typing.get_type_hints(dataclass)
    return {
        field.name: _describe(hints[field.name], field.default) for field in dataclasses.fields(dataclass) if field.init
    }


def _parameters(receiver: Any) -> dict[str, dict[str, Any]]:
    parameters = inspect.signature(receiver).parameters.values()
    return {
        p.name: _describe(type(p.default) if p.default not in (None, p.empty) else Any, p.default)
        for p in parameters
        if p.kind is not p.VAR_KEYWORD and p.name != "self"
    }


def _from_pretrained_keys() -> dict[str, dict[str, Any]]:
    """`from_pretrained` takes **kwargs: its keys are those that it, or the Auto class before it, takes out of them."""
    keys = set(inspect.signature(PreTrainedModel.from_pretrained).parameters) - {"model_args", "kwargs"}
    for function in (PreTrainedModel.from_pretrained, AutoModelForCausalLM.from_pretrained):
        source = inspect.getsource(function)
        keys |= set(re.findall(r"kwargs\.(?:pop|get)\(\s*\"(\w+)\"", source))
    return {key: {} for key in keys if not key.startswith("_") and key != "quantization_config"}


def _describe(hint: Any, default: Any) -> dict[str, Any]:
    kinds: set[str] = set()
    choices: set[str] = set()
    for part in _parts(hint):
        if part is Any:
            return {}
        if typing.get_origin(part) is typing.Literal:
            values = typing.get_args(part)
            kinds |= {type(value).__name__ for value in values}
            # A pattern among the names, such as pissa_niter_[…], means that others are accepted.
            names = {value for value in values if isinstance(value, str)}
            choices |= names if not any("[" in name for name in names) else set()
        elif isinstance(part, type) and issubclass(part, enum.Enum):
            kinds.add("str")
            choices |= {str(member.value) for member in part}
        else:
            kinds.add(_KINDS.get(typing.get_origin(part) or part, "dict"))
    described: dict[str, Any] = {"kinds": sorted(kinds)}
    if choices:
        described["choices"] = sorted(choices)
    if isinstance(default, enum.Enum):
        default = default.value
    if isinstance(default, bool | int | float | str):
        described["default"] = default
    return described


_KINDS = {
    bool: "bool",
    int: "int",
    float: "float",
    str: "str",
    list: "list",
    tuple: "list",
    dict: "dict",
    type(None): "null",
}


def _parts(hint: Any) -> list[Any]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [part for inner in typing.get_args(hint) for part in _parts(inner)]
    return [hint]


if __name__ == "__main__":
    TARGET.write_text(json.dumps(accepted_keys(), indent=2) + "\n")
