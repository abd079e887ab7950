"""The Workspace as JSON Schema and as a CustomResourceDefinition, from the same model that checks it here.

Sources: kubernetes.io, "Extend the Kubernetes API with CustomResourceDefinitions" (structural schemas, validation
rules in CEL); json-schema.org.
"""

from typing import Any

from kaito_tuning.workspace import Workspace
from tuning.training_config import METHODS

GROUP, PLURAL = "kaito.sh", "workspaces"
VERSIONS = ("v1alpha1", "v1beta1")
STORED = "v1beta1"
_SAME = "cannot be changed; make a Workspace of another name for it"

Schema = dict[str, Any]


def json_schema() -> Schema:
    """For editors: the whole object, with apiVersion, kind and metadata."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Workspace.model_json_schema(by_alias=True)}


def custom_resource_definition() -> Schema:
    """The CRD: what the API server can refuse, it refuses with our words."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": "Workspace",
                "listKind": "WorkspaceList",
                "plural": PLURAL,
                "singular": "workspace",
                "shortNames": ["wk", "wks"],
            },
            "versions": [_version(name) for name in VERSIONS],
        },
    }


def _version(name: str) -> Schema:
    columns = [
        ("Instance", "string", ".resource.instanceType"),
        ("ResourceReady", "string", '.status.conditions[?(@.type=="ResourceReady")].status'),
        ("JobStarted", "string", '.status.conditions[?(@.type=="JobStarted")].status'),
        ("Succeeded", "string", '.status.conditions[?(@.type=="WorkspaceSucceeded")].status'),
        ("State", "string", ".status.state"),
        ("Age", "date", ".metadata.creationTimestamp"),
    ]
    # With `-o wide`: how it stands, in words.
    wide = ("Message", "string", '.status.conditions[?(@.type=="WorkspaceSucceeded")].message')
    return {
        "name": name,
        "served": True,
        "storage": name == STORED,
        "subresources": {"status": {}},
        "additionalPrinterColumns": [*map(_column, columns), {**_column(wide), "priority": 1}],
        "schema": {"openAPIV3Schema": _structural()},
    }


def _column(column: tuple[str, str, str]) -> Schema:
    title, kind, path = column
    return {"name": title, "type": kind, "jsonPath": path}


def _structural() -> Schema:
    """The model's schema in the form that the API server takes, with the rules that it can check itself."""
    whole = Workspace.model_json_schema(by_alias=True)
    sections = {name: _inline(whole["properties"][name], whole["$defs"]) for name in ("resource", "tuning")}
    resource, tuning = sections["resource"], sections["tuning"]
    for field in ("count", "instanceType", "labelSelector"):
        resource["properties"][field].setdefault("default", {} if field == "labelSelector" else "")
        resource["properties"][field]["x-kubernetes-validations"] = [_rule("self == oldSelf", field, _SAME)]
    names = "|".join("".join(f"[{letter}{letter.upper()}]" for letter in method) for method in METHODS)
    tuning["properties"]["method"] = {
        "type": "string",
        "pattern": f"^({names})$",
        "x-kubernetes-validations": [_rule("self.lowerAscii() == oldSelf.lowerAscii()", "method", _SAME)],
    }
    tuning["properties"]["preset"]["x-kubernetes-validations"] = [_rule("self == oldSelf", "preset", _SAME)]
    data, output = tuning["properties"]["input"], tuning["properties"]["output"]
    data["properties"]["name"]["x-kubernetes-validations"] = [_rule("self == oldSelf", "name", _SAME)]
    sources = [_given("urls", "self.urls.size() > 0"), _given("image"), "has(self.volumeSource)"]
    message = "must have exactly one of urls, image, volumeSource"
    data["x-kubernetes-validations"] = [_rule(_exactly_one(sources), "input", message)]
    pushed = f"!({_given('image')}) || self.image.startsWith('oci:') || ({_given('imagePushSecret')})"
    output["x-kubernetes-validations"] = [
        _rule(
            _exactly_one([_given("image"), "has(self.volumeSource)"]),
            "output",
            "must have exactly one of image, volumeSource",
        ),
        _rule(pushed, "imagePushSecret", "is missing: name a Secret made by `kubectl create secret docker-registry`"),
    ]
    for section, field in ((data, "urls"), (data, "imagePullSecrets")):
        section["properties"][field]["maxItems"] = 1024
    return {
        "type": "object",
        "required": ["resource", "tuning"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            **sections,
            "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        },
    }


def _inline(schema: Schema, definitions: Schema) -> Schema:
    """`schema` without references, titles and nulls, as a structural schema must be."""
    if "$ref" in schema:
        known = definitions[schema["$ref"].rpartition("/")[2]]
        return _inline({**known, **{key: value for key, value in schema.items() if key != "$ref"}}, definitions)
    if "anyOf" in schema:
        [chosen] = [choice for choice in schema["anyOf"] if choice.get("type") != "null"]
        return _inline(chosen, definitions)
    kept: Schema = {
        key: schema[key] for key in ("type", "enum", "pattern", "minimum", "required", "description") if key in schema
    }
    if schema.get("default") not in (None, ""):
        kept["default"] = schema["default"]
    if "properties" in schema:
        kept["properties"] = {name: _inline(field, definitions) for name, field in schema["properties"].items()}
    elif schema.get("type") == "object":
        values = schema.get("additionalProperties")
        if isinstance(values, dict):
            kept["additionalProperties"] = _inline(values, definitions)
        else:
            kept["x-kubernetes-preserve-unknown-fields"] = True
    if "items" in schema:
        kept["items"] = _inline(schema["items"], definitions)
    return kept


def _given(field: str, filled: str = "") -> str:
    return f"has(self.{field}) && {filled or f'self.{field} != {chr(39) * 2}'}"


def _exactly_one(conditions: list[str]) -> str:
    return " + ".join(f"(({condition}) ? 1 : 0)" for condition in conditions) + " == 1"


def _rule(rule: str, field: str, message: str) -> Schema:
    return {"rule": rule, "message": f"{field} {message}"}
