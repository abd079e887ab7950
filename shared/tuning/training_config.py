"""The ConfigMap's training configuration: six sections, checked without any of the libraries that receive them.

A key that no library takes is an error with the nearest right one: a typo must never train with a default. Names of
older releases are translated, with a warning each.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tuning.config_keys import accepted_keys, check_value, describe_value
from tuning.config_rules import find_contradictions
from tuning.errors import ConfigurationError, Problem, refuse
from tuning.older_names import OLDER_NAMES, translate
from tuning.suggestion import did_you_mean
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
    # What was translated from the names of older releases, a sentence each.
    warnings: tuple[str, ...] = ()

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


def parse_training_config(text: str, *, source: str, method: str = "") -> TrainingConfig:
    """Parse the content of `training_config.yaml`.

    Raises ConfigurationError with all problems: unknown sections and keys, values of a wrong kind, values that
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
        raise ConfigurationError(f"{source}: {ROOT} must be a mapping of sections, not {describe_value(sections)}")
    found: dict[str, Mapping[str, Any]] = {}
    for heading, section in sections.items():
        if heading not in SECTIONS:
            hint = did_you_mean(str(heading), SECTIONS) or f"the sections are {', '.join(SECTIONS)}"
            problems.append(Problem(str(heading), "is an unknown section", hint))
        elif section is not None and not isinstance(section, dict):
            problems.append(Problem(heading, f"must be a mapping of keys, not {describe_value(section)}"))
        else:
            found[heading] = {str(key): value for key, value in (section or {}).items()}
    translated, warnings, untranslated = translate(found)
    problems += untranslated
    checked: dict[str, Mapping[str, Any]] = {}
    for heading, section in translated.items():
        checked[heading], wrong = _check_section(heading, section)
        problems += wrong
    config = TrainingConfig(
        **{name: checked.get(heading, {}) for heading, name in SECTIONS.items()},
        digest="sha256:" + hashlib.sha256(text.encode()).hexdigest(),
        warnings=tuple(warnings),
    )
    problems += find_contradictions(config, method)
    refuse(problems, source=source)
    return config


def _check_section(heading: str, section: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """The section as the libraries get it, and its problems. A null where a key takes none leaves the default."""
    known = accepted_keys()[heading]
    values: dict[str, Any] = {}
    problems = []
    for name, value in section.items():
        path = f"{heading}.{name}"
        key = known.get(name)
        if key is None:
            everything = [*known, *OLDER_NAMES[heading]]
            elsewhere = [other for other in SECTIONS if name in accepted_keys()[other]]
            hint = did_you_mean(name, everything) or f"see `{heading}` in the user guide"
            problems.append(Problem(path, "is unknown", f"it belongs to {elsewhere[0]}" if elsewhere else hint))
        elif value is not None or "null" in key.kinds or not key.kinds:
            values[name], problem = check_value(path, key, value)
            problems += [problem] if problem else []
    return values, problems
