"""What a Workspace must fulfil beyond the kinds of its fields; each rule says what is wrong, where, and what to write.

The rules of the original's admission webhook, where they make sense, and the mistakes that it lets through.
"""

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from kaito_tuning.workspace import DataDestination, LabelSelector, Workspace
from tuning.destination import LayoutDestination, parse_destination
from tuning.errors import Problem
from tuning.image_reference import parse_image_reference
from tuning.presets import find_preset, presets
from tuning.redaction import printable_url
from tuning.suggestion import did_you_mean
from tuning.training_config import METHODS

# What the data-downloader fetches (a contract test compares); file: is for debugging on one's own machine.
URL_SCHEMES = ("http", "https", "hf", "oci", "s3", "gs", "az")
_METADATA_HOSTS = {"metadata.google.internal", "metadata.google", "metadata", "instance-data.ec2.internal"}
_SECRET_FIELDS = {"token", "access_token", "api_key", "apikey", "key", "password", "secret", "auth"}
_PLACEHOLDER = re.compile(
    r"_HERE\b|\b(?:PULL|PUSH|INPUT|OUTPUT|YOUR)_?REGISTRY\b|\bAZURE_ACR_NAME\b|<[^<>]+>|\{\{|\$\{|\$\(|\bYOUR[_-]|"
    r"\bCHANGE_?ME\b|\bREPLACE_?ME\b",
    re.IGNORECASE,
)
_SUBDOMAIN = re.compile(r"^(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
_LABEL_KEY = re.compile(r"^(?:[a-z0-9.-]{1,253}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$")
_LABEL_VALUE = re.compile(r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$")
_OPERATORS = {"In": True, "NotIn": True, "Exists": False, "DoesNotExist": False, "Gt": True, "Lt": True}


def problems_of(workspace: Workspace, *, local: bool = False) -> list[Problem]:
    """All problems of a Workspace whose fields have the right kinds. `local`: loopback addresses may be used."""
    return list(_placeholders(workspace)) or [
        *_tuning(workspace),
        *_selector("resource.labelSelector", workspace.resource.label_selector),
        *_input(workspace, local=local),
        *_output(workspace.tuning.output),
        *_names(workspace),
    ]


def problems_of_update(old: Workspace, new: Workspace) -> list[Problem]:
    """What an update changes that may not change, as it would be another Workspace."""
    before, after = old.tuning, new.tuning
    fields = {
        "metadata.name": (old.metadata.name, new.metadata.name),
        "tuning.preset": (before.preset, after.preset),
        "tuning.method": (old.method, new.method),
        "tuning.input.name": (before.input.name, after.input.name),
        "resource.count": (old.resource.count, new.resource.count),
        "resource.instanceType": (old.resource.instance_type, new.resource.instance_type),
        "resource.labelSelector": (old.resource.label_selector, new.resource.label_selector),
    }
    return [
        Problem(path, "cannot be changed", "make a Workspace of another name for it")
        for path, (was, now) in fields.items()
        if was != now
    ]


def _placeholders(workspace: Workspace) -> Iterator[Problem]:
    """Values that a template left to be filled in; what else is wrong follows from them."""
    for path, text in _texts(workspace.model_dump(by_alias=True, include={"resource", "tuning"})):
        if found := _PLACEHOLDER.search(text):
            yield Problem(path, f"still has the placeholder {found.group()!r}", "replace it with your own value")


def _texts(content: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(content, str):
        yield path, content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from _texts(value, f"{path}.{key}" if path else str(key))
    elif isinstance(content, list):
        for position, value in enumerate(content):
            yield from _texts(value, f"{path}.{position}")


def _tuning(workspace: Workspace) -> Iterator[Problem]:
    tuning = workspace.tuning
    if workspace.method not in METHODS:
        yield Problem("tuning.method", f"{tuning.method!r} is unknown", f"use {' or '.join(METHODS)}")
    preset = find_preset(tuning.preset.name)
    if preset is None:
        hint = did_you_mean(tuning.preset.name, presets()) or f"the presets are {', '.join(presets())}"
        yield Problem("tuning.preset.name", f"{tuning.preset.name!r} is unknown", hint)
    elif workspace.method in METHODS and workspace.method not in preset.methods:
        hint = f"use {' or '.join(preset.methods)}"
        yield Problem("tuning.method", f"{workspace.method!r} does not work with {preset.name}", hint)
    options = tuning.preset.preset_options
    if options.image:
        yield from _reference("tuning.preset.presetOptions.image", options.image)
    elif tuning.preset.access_mode == "private":
        yield Problem("tuning.preset.presetOptions.image", "is missing", "accessMode private needs an image of yours")


def _input(workspace: Workspace, *, local: bool) -> Iterator[Problem]:
    data = workspace.tuning.input
    choices = {"urls": data.urls, "image": data.image, "volumeSource": data.volume_source}
    yield from _one_of("tuning.input", choices)
    if data.image:
        yield from _reference("tuning.input.image", data.image)
    for position, url in enumerate(data.urls):
        if problem := _url_problem(url, local=local):
            yield Problem(f"tuning.input.urls.{position}", *problem)


def _url_problem(url: str, *, local: bool) -> tuple[str, str] | None:
    """What is wrong with a URL, and the hint; None for a good one."""
    shown = printable_url(url)
    if re.search(r"\s", url.strip()):
        return f"{shown} has white space in it", "write each URL as an item of its own, with %20 for a space"
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        return f"{shown} is no URL", "write https://host/path"
    if parts.scheme not in URL_SCHEMES:
        return f"{shown} begins with {parts.scheme or 'no scheme'}", f"use one of {', '.join(URL_SCHEMES)}"
    if not host:
        return f"{shown} names no host", "write https://host/path"
    fields = {name.lower() for name, value in parse_qsl(parts.query) if value}
    if parts.password or _SECRET_FIELDS & fields:
        return (
            f"{shown} has a secret in it, which everybody who may read the Workspace would see",
            "put it into a Secret and render with --data-secret",
        )
    if not local and _is_local(host):
        return f"{shown} is an address of the node itself", "give an address that the cluster can reach"
    return None


def _is_local(host: str) -> bool:
    """Loopback, link-local (where clouds serve the node's credentials) and the metadata services by name."""
    if host == "localhost" or host.endswith(".localhost") or host in _METADATA_HOSTS:
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_link_local or address.is_unspecified


def _output(output: DataDestination) -> Iterator[Problem]:
    yield from _one_of("tuning.output", {"image": output.image, "volumeSource": output.volume_source})
    if not output.image:
        if output.image_push_secret:
            yield Problem("tuning.output.imagePushSecret", "has no image to push", "name tuning.output.image")
        return
    try:
        destination = parse_destination(output.image)
    except ValueError as error:
        yield Problem("tuning.output.image", f"is no destination: {error}")
        return
    if isinstance(destination, LayoutDestination):
        return
    if not output.image_push_secret:
        hint = "name a Secret made by `kubectl create secret docker-registry`"
        yield Problem("tuning.output.imagePushSecret", "is missing", hint)


def _names(workspace: Workspace) -> Iterator[Problem]:
    """Names of other objects, which the API server would only miss once the pod is there."""
    tuning = workspace.tuning
    names = {
        "tuning.config": tuning.config,
        "tuning.output.imagePushSecret": tuning.output.image_push_secret,
        "tuning.preset.presetOptions.modelAccessSecret": tuning.preset.preset_options.model_access_secret,
    }
    lists = {
        "tuning.input.imagePullSecrets": tuning.input.image_pull_secrets,
        "tuning.preset.presetOptions.imagePullSecrets": tuning.preset.preset_options.image_pull_secrets,
    }
    names |= {f"{path}.{position}": name for path, listed in lists.items() for position, name in enumerate(listed)}
    for path, name in names.items():
        if name and not _SUBDOMAIN.match(name):
            hint = "use lower case letters, digits, '-' and '.'"
            yield Problem(path, f"{name!r} cannot be the name of an object", hint)


def _selector(path: str, selector: LabelSelector) -> Iterator[Problem]:
    for key, value in selector.match_labels.items():
        if not _LABEL_KEY.match(key):
            yield Problem(f"{path}.matchLabels", f"{key!r} is no label", "use prefix/name")
        if not _LABEL_VALUE.match(value):
            yield Problem(f"{path}.matchLabels.{key}", f"{value!r} is no value of a label", "at most 63 letters")
    for position, expression in enumerate(selector.match_expressions):
        where = f"{path}.matchExpressions.{position}"
        operator, values = expression.get("operator"), expression.get("values") or []
        if unknown := set(expression) - {"key", "operator", "values"}:
            yield Problem(f"{where}.{min(unknown)}", "is unknown", "an expression has key, operator and values")
        elif not isinstance(expression.get("key"), str):
            yield Problem(f"{where}.key", "is missing")
        elif operator not in _OPERATORS:
            yield Problem(f"{where}.operator", f"{operator!r} is unknown", f"use one of {', '.join(_OPERATORS)}")
        elif bool(values) is not _OPERATORS[operator]:
            yield Problem(f"{where}.values", f"{'are missing' if not values else 'must not stand'} with {operator}")


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
