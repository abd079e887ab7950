"""The GPUs of a node, by its instance type."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml


@dataclass(frozen=True)
class Instance:
    """A node's GPUs: how many, of which kind, and the memory of each in GiB."""

    gpus: int
    gpu: str
    gib: int


@cache
def instances() -> Mapping[str, Instance]:
    """All known instance types by name."""
    text = resources.files("kaito_tuning").joinpath("instances.yaml").read_text()
    return {name: Instance(**fields) for name, fields in yaml.safe_load(text).items()}


def find_instance(name: str) -> Instance | None:
    """The instance type `name`, in any case; None where it is not known."""
    return {known.lower(): instance for known, instance in instances().items()}.get(name.lower())
