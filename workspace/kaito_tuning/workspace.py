"""The Workspace resource (kaito.sh v1alpha1 and v1beta1) as a frozen model; a wrong field has its path named."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from tuning.errors import Problem
from tuning.presets import Preset, find_preset
from tuning.suggestion import did_you_mean


class _Resource(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True, populate_by_name=True, strict=True)


class LabelSelector(_Resource):
    """A Kubernetes label selector."""

    match_labels: dict[str, str] = Field(default_factory=dict)
    match_expressions: list[dict[str, Any]] = Field(default_factory=list)


class ResourceSpec(_Resource):
    """The nodes that the Job may run on."""

    count: int = Field(default=1, ge=1)
    instance_type: str = ""
    label_selector: LabelSelector = Field(default_factory=LabelSelector)
    preferred_nodes: list[str] = Field(default_factory=list)


class PresetOptions(_Resource):
    """A trainer image of the user's own with the base model inside, and the secret for a model on the hub."""

    image: str = ""
    image_pull_secrets: list[str] = Field(default_factory=list)
    model_access_secret: str = ""


class PresetSpec(_Resource):
    """The base model."""

    name: str
    access_mode: Literal["public", "private"] = "public"
    preset_options: PresetOptions = Field(default_factory=PresetOptions)


class DataSource(_Resource):
    """Where the dataset comes from: exactly one of urls, image and volume source."""

    name: str = ""
    urls: list[str] = Field(default_factory=list)
    image: str = ""
    image_pull_secrets: list[str] = Field(default_factory=list)
    volume_source: dict[str, Any] | None = None


class DataDestination(_Resource):
    """Where the adapter goes: exactly one of image and volume source."""

    image: str = ""
    image_push_secret: str = ""
    volume_source: dict[str, Any] | None = None


class TuningSpec(_Resource):
    """What is tuned, how, with what, and where it goes."""

    preset: PresetSpec
    method: str
    config: str = ""
    input: DataSource
    output: DataDestination


class Metadata(BaseModel):
    """The object's metadata; what else Kubernetes keeps in it is left alone."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    name: str = Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")
    namespace: str = "default"
    uid: str = ""


class Workspace(_Resource):
    """A Workspace with a tuning section."""

    api_version: Literal["kaito.sh/v1alpha1", "kaito.sh/v1beta1"]
    kind: Literal["Workspace"]
    metadata: Metadata
    resource: ResourceSpec
    tuning: TuningSpec
    status: dict[str, Any] = Field(default_factory=dict)

    @property
    def method(self) -> str:
        """`lora` or `qlora`."""
        return self.tuning.method.lower()

    @property
    def preset(self) -> Preset:
        """The base model."""
        preset = find_preset(self.tuning.preset.name)
        if preset is None:
            raise ValueError(f"{self.tuning.preset.name} was not checked")
        return preset


def freeze(document: Mapping[str, Any]) -> tuple[Workspace | None, list[Problem]]:
    """The Workspace, and what is wrong with its fields; what is wrong is left out, so that the rest can be read."""
    try:
        return Workspace.model_validate(document), []
    except ValidationError as error:
        details = error.errors()
    rest: Any = copy.deepcopy(dict(document))
    for detail in details:
        _remove(rest, detail["loc"])
    # What no rule looks at has a stand-in, so that the rules see the rest.
    rest |= {"apiVersion": "kaito.sh/v1beta1", "kind": "Workspace"}
    if isinstance(rest.setdefault("metadata", {}), dict):
        rest["metadata"].setdefault("name", "unnamed")
    try:
        workspace = Workspace.model_validate(rest)
    except ValidationError:
        workspace = None
    return workspace, [_problem(detail) for detail in details]


def _remove(content: Any, path: Sequence[str | int]) -> None:
    for part in path[:-1]:
        try:
            content = content[part]
        except (KeyError, IndexError, TypeError):
            return
    if isinstance(content, dict):
        content.pop(path[-1], None)


def _problem(detail: Any) -> Problem:
    """A pydantic detail in our words."""
    path = ".".join(str(part) for part in detail["loc"])
    match detail["type"]:
        case "missing":
            return Problem(path, "is missing")
        case "extra_forbidden":
            return Problem(path, "is unknown", did_you_mean(str(detail["loc"][-1]), field_names()))
        case "string_pattern_mismatch":
            return Problem(path, f"{detail['input']!r} is not a DNS label", "use lower case letters, digits and '-'")
        case _:
            return Problem(path, f"is wrong: {detail['msg'][0].lower()}{detail['msg'][1:]}")


def field_names() -> set[str]:
    """The names of all fields of a Workspace, on every level."""
    models: list[type[BaseModel]] = [Workspace, Metadata, ResourceSpec, LabelSelector, PresetSpec, PresetOptions]
    models += [TuningSpec, DataSource, DataDestination]
    return {field.alias or name for model in models for name, field in model.model_fields.items()}
