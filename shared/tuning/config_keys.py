"""The keys that the sections of the training configuration accept, and which values each takes.

`accepted_keys.json` is generated from the pinned libraries (images/trainer/generate_accepted_keys.py), so that a
configuration is checked in milliseconds without any of them.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from tuning.errors import Problem
from tuning.suggestion import did_you_mean


@dataclass(frozen=True)
class Key:
    """One key: the kinds of value it takes (empty: any), the names it may have (empty: any), the library's default."""

    kinds: frozenset[str]
    choices: tuple[str, ...]
    default: Any


@cache
def accepted_keys() -> Mapping[str, Mapping[str, Key]]:
    """The keys of each section by name."""
    sections = json.loads(resources.files("tuning").joinpath("accepted_keys.json").read_text())
    return {
        section: {
            name: Key(frozenset(key.get("kinds", ())), tuple(key.get("choices", ())), key.get("default"))
            for name, key in keys.items()
        }
        for section, keys in sections.items()
    }


def check_value(path: str, key: Key, value: Any) -> tuple[Any, Problem | None]:
    """The value that `key` gets from what YAML says, and what is wrong with it, if anything.

    1e3 is a whole number, and `no` (which YAML 1.1 reads as false) is a name where the key takes the name `no`.
    """
    if value is False and "no" in key.choices and "bool" not in key.kinds:
        return "no", None
    if isinstance(value, float) and value.is_integer() and "int" in key.kinds and "float" not in key.kinds:
        value = int(value)
    if key.kinds and _kind(value) not in key.kinds and not (_kind(value) == "int" and "float" in key.kinds):
        hint = "write it without quotes" if isinstance(value, str) and _is_number(value) else ""
        return value, Problem(path, f"must be {_list(key.kinds)}, not {describe_value(value)}", hint)
    if isinstance(value, float) and not math.isfinite(value):
        return value, Problem(path, f"must be a finite number, not {value}")
    if key.choices and isinstance(value, str) and value not in key.choices:
        hint = did_you_mean(value, key.choices) or f"it is one of {', '.join(key.choices)}"
        return value, Problem(path, f"has no such choice: {value!r}", hint)
    return value, None


def describe_value(value: object) -> str:
    """What a value is, in words: `the text 'x'`, `a list`."""
    if isinstance(value, str):
        return f"the text {value!r}" if len(value) <= 40 else "a text"
    if isinstance(value, bool | int | float):
        return f"{str(value).lower() if isinstance(value, bool) else value}"
    return _WORDS.get(_kind(value), type(value).__name__)


_WORDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "list": "a list",
    "dict": "a mapping",
    "null": "nothing",
}


def _kind(value: object) -> str:
    for kind, python_type in (("bool", bool), ("int", int), ("float", float), ("str", str)):
        if isinstance(value, python_type):
            return kind
    return "null" if value is None else "dict" if isinstance(value, Mapping) else "list"


def _list(kinds: frozenset[str]) -> str:
    words = [word for kind, word in _WORDS.items() if kind in kinds and kind != "null"]
    return " or ".join(words) or "nothing"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text.lower() in ("true", "false")
    return True
