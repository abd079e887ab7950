"""Which layers LoRA adapts, and whether the model has them; told without its weights."""

import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any

from tuning.errors import ConfigurationError
from tuning.presets import Preset

ALL_LINEAR = "all-linear"

logger = logging.getLogger(__name__)


def choose_targets(section: Mapping[str, Any], preset: Preset | None) -> str | list[str]:
    """LoraConfig's `target_modules`, else the preset's, else all linear layers."""
    chosen = section.get("target_modules")
    if chosen:
        return str(chosen) if isinstance(chosen, str) else [str(name) for name in chosen]
    if section.get("target_parameters"):
        return []
    targets = preset.targets if preset else ALL_LINEAR
    return targets if isinstance(targets, str) else list(targets)


def check_targets(targets: str | list[str], section: Mapping[str, Any], model: Any) -> None:
    """Check that each name in `targets`, and in what else LoraConfig names, matches a module of `model`.

    Peft is content with one match and leaves the other names out without a word. Raises ConfigurationError that lists
    what the model has.
    """
    modules = [name for name, _ in model.named_modules() if name]
    wrong = [] if targets == ALL_LINEAR else _unmatched("target_modules", targets, modules)
    wrong += _unmatched("modules_to_save", section.get("modules_to_save") or [], modules)
    for key in ("rank_pattern", "alpha_pattern"):
        wrong += [
            f"{key}: {pattern}"
            for pattern in section.get(key) or {}
            if not any(re.match(rf"(.*\.)?({pattern})$", name) for name in modules)
        ]
    parameters = [name for name, _ in model.named_parameters()]
    wrong += _unmatched("target_parameters", section.get("target_parameters") or [], parameters)
    if wrong:
        raise ConfigurationError(
            f"LoraConfig names layers that the base model does not have: {', '.join(wrong)}",
            hint=f"it has {', '.join(linear_layers(model))}; or choose {ALL_LINEAR}",
        )


def linear_layers(model: Any) -> list[str]:
    """The last names of the layers that LoRA can adapt, each once, as target_modules takes them."""
    import torch

    head = model.get_output_embeddings()
    return sorted(
        {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            # Some old models keep their weights the other way round, in a class of their own.
            if (isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D") and module is not head
        }
    )


def _unmatched(key: str, names: str | Iterable[str], modules: list[str]) -> list[str]:
    if isinstance(names, str):
        try:
            matches = any(re.fullmatch(names, module) for module in modules)
        except re.error as error:
            raise ConfigurationError(
                f"LoraConfig.{key}: {names!r} is not a regular expression: {error}",
                hint="write several names as a YAML list",
            ) from error
        return [] if matches else [f"{key}: {names!r} (a text is a regular expression of the whole name)"]
    return [
        f"{key}: {name}"
        for name in names
        if not any(module == name or module.endswith(f".{name}") for module in modules)
    ]
