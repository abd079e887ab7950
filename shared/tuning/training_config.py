"""The ConfigMap's training configuration: six sections, checked without any of the libraries that receive them.

A key that no library takes is an error with the nearest right one: a typo must never train with a default. The accepted
keys are generated from the pinned libraries (images/trainer/generate_accepted_keys.py).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from tuning.errors import ConfigurationError, Problem, refuse
from tuning.suggestion import did_you_mean
from tuning.volumes import normalise_output_dir
from tuning.yaml_text import parse_yaml

CONFIG_KEY = "training_config.yaml"
ROOT = "training_config"
METHODS = ("lora", "qlora")


@dataclass(frozen=True)
class TrainingConfig:
    """The six sections as the user wrote them; an absent section is empty. `digest` identifies the text."""

    model: Mapping[str, Any]
    quantization: Mapping[str, Any]
    lora: Mapping[str, Any]
    arguments: Mapping[str, Any]
    collator: Mapping[str, Any]
    dataset: Mapping[str, Any]
    digest: str

    @property
    def quantized(self) -> bool:
        """Whether the base model is loaded in 4 or 8 bits."""
        return bool(self.quantization.get("load_in_4bit") or self.quantization.get("load_in_8bit"))

    @property
    def method(self) -> str:
        """`qlora` where the base model is quantized, else `lora`."""
        return "qlora" if self.quantized else "lora"


SECTIONS = {
    "ModelConfig": "model",
    "QuantizationConfig": "quantization",
    "LoraConfig": "lora",
    "TrainingArguments": "arguments",
    "DataCollator": "collator",
    "DatasetConfig": "dataset",
}


@cache
def accepted_keys() -> Mapping[str, frozenset[str]]:
    """The keys that each section accepts."""
    text = resources.files("tuning").joinpath("accepted_keys.json").read_text()
    return {section: frozenset(keys) for section, keys in json.loads(text).items()}


def parse_training_config(text: str, *, source: str, method: str = "") -> TrainingConfig:
    """Parse the content of `training_config.yaml`.

    Raises ConfigurationError with all problems: unknown sections and keys, sections that are no mapping, values that
    contradict each other or the `method` of the Workspace (`lora`, `qlora`, or empty if unknown). `source` names the
    text in errors.
    """
    documents = parse_yaml(text, source)
    root = documents[0] if len(documents) == 1 else None
    if not isinstance(root, dict) or ROOT not in root:
        raise ConfigurationError(
            f"{source} has no top-level key {ROOT}", hint=f"put the sections {', '.join(SECTIONS)} below {ROOT}:"
        )
    problems = [Problem(str(key), "is unknown", f"only {ROOT} may stand at the top") for key in root if key != ROOT]
    sections = root[ROOT] if root[ROOT] is not None else {}
    if not isinstance(sections, dict):
        raise ConfigurationError(f"{source}: {ROOT} must be a mapping of sections, not {_kind(sections)}")
    known: dict[str, Mapping[str, Any]] = {}
    for heading, section in sections.items():
        if heading not in SECTIONS:
            hint = did_you_mean(str(heading), SECTIONS) or f"the sections are {', '.join(SECTIONS)}"
            problems.append(Problem(str(heading), "is an unknown section", hint))
        elif section is not None and not isinstance(section, dict):
            problems.append(Problem(heading, f"must be a mapping of keys, not {_kind(section)}"))
        else:
            problems += _unknown_keys(heading, section or {})
            known[heading] = section or {}
    config = TrainingConfig(
        **{name: known.get(heading, {}) for heading, name in SECTIONS.items()},
        digest="sha256:" + hashlib.sha256(text.encode()).hexdigest(),
    )
    problems += _contradictions(config, method)
    refuse(problems, source=source)
    return config


def _unknown_keys(heading: str, section: Mapping[Any, Any]) -> list[Problem]:
    known = accepted_keys()[heading]
    return [
        Problem(f"{heading}.{key}", "is unknown", did_you_mean(str(key), known) or f"see `{heading}` in the user guide")
        for key in section
        if key not in known
    ]


def _contradictions(config: TrainingConfig, method: str) -> list[Problem]:
    problems = []
    four, eight = config.quantization.get("load_in_4bit"), config.quantization.get("load_in_8bit")
    for key, value in (("load_in_4bit", four), ("load_in_8bit", eight)):
        if value not in (None, True, False) or (isinstance(value, int) and not isinstance(value, bool)):
            problems.append(Problem(f"QuantizationConfig.{key}", f"must be true or false, not {value!r}"))
    if four is True and eight is True:
        problems.append(Problem("QuantizationConfig", "has load_in_4bit and load_in_8bit both true", "choose one"))
    if method == "lora" and (four is True or eight is True):
        key = "load_in_4bit" if four is True else "load_in_8bit"
        problems.append(
            Problem(f"QuantizationConfig.{key}", "must not be true with method lora", "use method qlora, or remove it")
        )
    if method == "qlora" and four is not True and eight is not True:
        problems.append(
            Problem("QuantizationConfig", "must set load_in_4bit or load_in_8bit to true with method qlora")
        )
    output_dir = config.arguments.get("output_dir")
    if output_dir is not None and not isinstance(output_dir, str):
        problems.append(Problem("TrainingArguments.output_dir", f"must be a path, not {_kind(output_dir)}"))
    else:
        try:
            normalise_output_dir(output_dir)
        except ValueError as error:
            problems.append(Problem("TrainingArguments.output_dir", str(error)))
    split = config.dataset.get("train_test_split")
    if split is not None and (isinstance(split, bool) or not isinstance(split, int | float) or not 0 < split <= 1):
        problems.append(
            Problem("DatasetConfig.train_test_split", f"must be greater than 0 and at most 1, not {split!r}")
        )
    rank = config.lora.get("r")
    if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int) or rank < 1):
        problems.append(Problem("LoraConfig.r", f"must be a whole number of at least 1, not {rank!r}"))
    return problems


def _kind(value: object) -> str:
    names = {
        str: "a text",
        int: "a number",
        float: "a number",
        bool: "true or false",
        list: "a list",
        dict: "a mapping",
    }
    return names.get(type(value), "nothing")
