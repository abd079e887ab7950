"""The supported base models: what a Workspace may name, and what the trainer knows about it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

import yaml

_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$", re.ASCII)


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder: widths in elements, `vocabulary` and `context` in tokens."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int


@dataclass(frozen=True)
class Preset:
    """A base model: the name in a Workspace, its id on the hub, and the GPUs that one replica takes.

    A model that is no preset of ours is named by its hub id; no trainer image holds it, so it comes from the hub, and
    nothing is known of its shape.
    """

    name: str
    hub_id: str
    gpus: int = 1
    in_image: bool = True
    architecture: str = ""
    parameters: int = 0
    tied: bool = False
    experts: int = 0
    shape: Shape | None = None
    template: str = ""
    targets: str | tuple[str, ...] = "all-linear"
    methods: tuple[str, ...] = ("lora", "qlora")


@cache
def presets() -> Mapping[str, Preset]:
    """All presets by name."""
    table = yaml.safe_load(resources.files("tuning").joinpath("presets.yaml").read_text())
    return {name: _preset(name, fields) for name, fields in table.items()}


def _preset(name: str, fields: Mapping[str, Any]) -> Preset:
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
    values["shape"] = Shape(*fields["shape"])
    return Preset(name=name, **values)


def find_preset(name: str) -> Preset | None:
    """The preset `name`, or the model with the hub id `name`; None where it is neither."""
    if _HUB_ID.match(name):
        known = next((preset for preset in presets().values() if preset.hub_id == name), None)
        return replace(known or Preset(name=name, hub_id=name), name=name, in_image=False)
    return presets().get(name)
