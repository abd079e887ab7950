"""The Workspace resource (kaito.sh v1alpha1 and v1beta1): parsed into a frozen model, every problem with its path."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from tuning.destination import LayoutDestination, parse_destination
from tuning.errors import ConfigurationError, InputNotFound, Problem, refuse
from tuning.image_reference import parse_image_reference
from tuning.presets import Preset, find_preset, presets
from tuning.suggestion import did_you_mean
from tuning.training_config import METHODS
from tuning.yaml_text import parse_yaml


class _Resource(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True, populate_by_name=True, strict=True)


class LabelSelector(_Resource):
    """A Kubernetes label selector."""

    match_labels: dict[str, str] = Field(default_factory=dict)
    match_expressions: list[dict[str, Any]] = Field(default_factory=list)


class ResourceSpec(_Resource):
    """The nodes that the Job may run on."""

    count: int = 1
    instance_type: str = ""
    label_selector: LabelSelector = Field(default_factory=LabelSelector)
    preferred_nodes: list[str] = Field(default_factory=list)


class PresetOptions(_Resource):
    """A trainer image of the user's own, with the base model inside."""

    image: str = ""
    image_pull_secrets: list[str] = Field(default_factory=list)


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


def read_workspace(path: Path) -> tuple[Workspace, Mapping[str, Any] | None]:
    """The Workspace in the file `path`, and the ConfigMap that stands beside it, if any.

    Raises InputNotFound without the file, ConfigurationError with all problems of the Workspace.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputNotFound(f"cannot read {path}: {error.strerror}") from error
    found: dict[str, Any] = {}
    for document in parse_yaml(text, path.name):
        kind = document.get("kind") if isinstance(document, dict) else None
        if kind not in ("Workspace", "ConfigMap") or kind in found:
            raise ConfigurationError(
                f"{path.name} has a document of the kind {kind!r}", hint="give one Workspace and at most one ConfigMap"
            )
        found[kind] = document
    if "Workspace" not in found:
        raise ConfigurationError(f"{path.name} has no Workspace", hint="it begins with kind: Workspace")
    return parse_workspace(found["Workspace"], source=path.name), found.get("ConfigMap")


def parse_workspace(document: Mapping[str, Any], *, source: str) -> Workspace:
    """Check `document` and freeze it. Raises ConfigurationError with all problems."""
    try:
        workspace = Workspace.model_validate(document)
    except ValidationError as error:
        refuse([_problem(detail) for detail in error.errors()], source=source)
        raise  # not reached: a ValidationError has details
    refuse(_problems(workspace), source=source)
    return workspace


def _problem(detail: Any) -> Problem:
    """A pydantic detail in our words."""
    path = ".".join(str(part) for part in detail["loc"])
    match detail["type"]:
        case "missing":
            return Problem(path, "is missing")
        case "extra_forbidden":
            return Problem(path, "is unknown", did_you_mean(str(detail["loc"][-1]), _field_names()))
        case "string_pattern_mismatch":
            return Problem(path, f"{detail['input']!r} is not a DNS label", "use lower case letters, digits and '-'")
        case _:
            return Problem(path, f"is wrong: {detail['msg'][0].lower()}{detail['msg'][1:]}")


def _field_names() -> set[str]:
    models: list[type[BaseModel]] = [Workspace, Metadata, ResourceSpec, LabelSelector, PresetSpec, PresetOptions]
    models += [TuningSpec, DataSource, DataDestination]
    return {field.alias or name for model in models for name, field in model.model_fields.items()}


def _problems(workspace: Workspace) -> list[Problem]:
    tuning = workspace.tuning
    problems = []
    if workspace.method not in METHODS:
        problems.append(Problem("tuning.method", f"{tuning.method!r} is unknown", f"use {' or '.join(METHODS)}"))
    if find_preset(tuning.preset.name) is None:
        hint = did_you_mean(tuning.preset.name, presets()) or f"the presets are {', '.join(presets())}"
        problems.append(Problem("tuning.preset.name", f"{tuning.preset.name!r} is unknown", hint))
    if workspace.resource.count != 1:
        problems.append(Problem("resource.count", f"{workspace.resource.count} is not supported", "use 1"))
    problems += _one_of(
        "tuning.input",
        {"urls": tuning.input.urls, "image": tuning.input.image, "volumeSource": tuning.input.volume_source},
    )
    problems += _one_of("tuning.output", {"image": tuning.output.image, "volumeSource": tuning.output.volume_source})
    if tuning.input.image:
        problems += _reference("tuning.input.image", tuning.input.image)
    if tuning.preset.preset_options.image:
        problems += _reference("tuning.preset.presetOptions.image", tuning.preset.preset_options.image)
    if tuning.output.image:
        problems += _destination(tuning.output)
    return problems


def _one_of(path: str, choices: Mapping[str, Any]) -> list[Problem]:
    given = [name for name, value in choices.items() if value]
    if len(given) == 1:
        return []
    found = "none" if not given else " and ".join(given)
    return [Problem(path, f"must have exactly one of {', '.join(choices)}, and has {found}")]


def _reference(path: str, text: str) -> list[Problem]:
    try:
        parse_image_reference(text)
    except ValueError as error:
        return [Problem(path, f"is no image reference: {error}")]
    return []


def _destination(output: DataDestination) -> list[Problem]:
    try:
        destination = parse_destination(output.image)
    except ValueError as error:
        return [Problem("tuning.output.image", f"is no destination: {error}")]
    if not isinstance(destination, LayoutDestination) and not output.image_push_secret:
        hint = "name a Secret made by `kubectl create secret docker-registry`"
        return [Problem("tuning.output.imagePushSecret", "is missing", hint)]
    return []
