"""The supported base models."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml

_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$", re.ASCII)


@dataclass(frozen=True)
class Preset:
    """A base model: the name in a Workspace, its id on the hub, and the GPUs that one replica takes.

    A model that is no preset of ours is named by its hub id; no trainer image holds it, so it comes from the hub.
    """

    name: str
    hub_id: str
    gpus: int
    in_image: bool = True


@cache
def presets() -> Mapping[str, Preset]:
    """All presets by name."""
    table = yaml.safe_load(resources.files("kaito_tuning").joinpath("presets.yaml").read_text())
    return {name: Preset(name=name, **fields) for name, fields in table.items()}


def find_preset(name: str) -> Preset | None:
    """The preset `name`, or the model with the hub id `name`; None where it is neither."""
    if _HUB_ID.match(name):
        return Preset(name=name, hub_id=name, gpus=1, in_image=False)
    return presets().get(name)
