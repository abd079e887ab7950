"""What a key of the training configuration does: its meaning, the values it takes, its default, and whose it is."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from tuning.config_keys import Key, accepted_keys
from tuning.errors import ConfigurationError
from tuning.suggestion import did_you_mean

_LIBRARIES = {
    "ModelConfig": "transformers, AutoModelForCausalLM.from_pretrained",
    "QuantizationConfig": "transformers, BitsAndBytesConfig",
    "LoraConfig": "peft, LoraConfig",
    "TrainingArguments": "trl, SFTConfig",
    "DataCollator": "transformers, DataCollatorForLanguageModeling",
    "DatasetConfig": "kaito-tuning",
}


@dataclass(frozen=True)
class Explanation:
    """One key, in words."""

    path: str
    meaning: str
    kinds: tuple[str, ...]
    choices: tuple[str, ...]
    default: Any
    source: str


def explain(name: str) -> list[Explanation]:
    """The keys called `name`, or `Section.name`; a section's own name gives all of its keys.

    Raises ConfigurationError, with the nearest name, where there is none.
    """
    section, _, key = name.rpartition(".")
    sections = accepted_keys()
    if name in sections:
        return [_explanation(name, found) for found in sections[name]]
    found = [
        _explanation(heading, key) for heading, keys in sections.items() if key in keys and section in ("", heading)
    ]
    if not found:
        known = {known for keys in sections.values() for known in keys} | set(sections)
        hint = did_you_mean(key, known) or f"the sections are {', '.join(sections)}"
        raise ConfigurationError(f"no key of the training configuration is called {name}", hint=hint)
    return found


def _explanation(section: str, name: str) -> Explanation:
    key: Key = accepted_keys()[section][name]
    meaning = _meanings().get(section, {}).get(name, "see the library's own documentation")
    return Explanation(
        f"{section}.{name}", meaning, tuple(sorted(key.kinds)), key.choices, key.default, _LIBRARIES[section]
    )


@cache
def _meanings() -> Mapping[str, Mapping[str, str]]:
    text = resources.files("kaito_tuning").joinpath("meanings.yaml").read_text()
    content: Mapping[str, Mapping[str, str]] = yaml.safe_load(text)
    return content
