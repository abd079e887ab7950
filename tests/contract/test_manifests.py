"""What is rendered, against the schemas of Kubernetes, the restricted Pod Security Standard, and golden files."""

import re
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from tests.unit.kaito_tuning.test_workspace import document
from typer.testing import CliRunner

from kaito_tuning.cli import app
from kaito_tuning.job import Rendered, render
from kaito_tuning.options import Options
from kaito_tuning.reading import parse_workspace
from kaito_tuning.rules import URL_SCHEMES
from kaito_tuning.schema import custom_resource_definition, json_schema
from tuning.errors import ConfigurationError

# Mounted images (volumes of the kind image) came with 1.31; what is older knows all else.
OLDEST, NEWEST = "1.31", kubernetes_validate.latest_version()
CLAIM = {"persistentVolumeClaim": {"claimName": "c"}}
VARIANTS: dict[str, tuple[dict[str, Any], Options]] = {
    "urls": ({}, Options()),
    "image": ({"tuning__input": {"image": "r.example.com/d:1", "imagePullSecrets": ["pull"]}}, Options()),
    "volumes": ({"tuning__input": {"volumeSource": CLAIM}, "tuning__output": {"volumeSource": CLAIM}}, Options()),
    "nodes": ({"resource__count": 3}, Options(gpus=8)),
    "site": ({}, Options(deadline_seconds=60, ttl_seconds=0, queue="q", data_secret="t", weights_image="r/w:1")),
    "owned": ({"metadata": {"name": "w", "uid": "u"}}, Options(owned=True, weights_claim="c")),
    "hub": ({"tuning__preset": {"name": "org/m", "presetOptions": {"modelAccessSecret": "hub"}}}, Options()),
    "kaito": ({}, Options(kaito=True)),
}


def rendered(variant: str) -> Rendered:
    changes, options = VARIANTS[variant]
    return render(parse_workspace(document(**changes), source=variant), None, options)


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_manifest_fulfils_the_published_schema(variant: str, version: str) -> None:
    for manifest in rendered(variant).documents:
        kubernetes_validate.validate(manifest, version, strict=True)


def test_the_crd_fulfils_the_published_schema() -> None:
    kubernetes_validate.validate(custom_resource_definition(), NEWEST, strict=True)


def controller_documents(root: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((root / "deploy" / "controller.yaml").read_text()))


def test_the_controllers_manifests_fulfil_the_published_schemas(root: Path) -> None:
    for manifest in controller_documents(root):
        if manifest["kind"] != "ClusterKopfPeering":
            kubernetes_validate.validate(manifest, NEWEST, strict=True)


def test_the_controllers_deployment_is_restricted_and_starts_what_exists(root: Path) -> None:
    by_kind = {manifest["kind"]: manifest for manifest in controller_documents(root)}
    pod = by_kind["Deployment"]["spec"]["template"]["spec"]
    assert_restricted(pod)
    [container] = pod["containers"]
    assert container["image"] == Options().images.of("controller")
    offered = CliRunner().invoke(app, ["controller", "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"}).output
    for argument in container["args"]:
        assert argument.partition("=")[0] in re.sub(r"\x1b\[[0-9;]*m", "", offered)
    assert f"--peering={by_kind['ClusterKopfPeering']['metadata']['name']}" in container["args"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_pod_is_restricted(variant: str) -> None:
    assert_restricted(rendered(variant).job["spec"]["template"]["spec"])


def assert_restricted(pod: dict[str, Any]) -> None:
    """kubernetes.io, "Pod Security Standards", Restricted."""
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] != 0
    assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    allowed = {"configMap", "emptyDir", "secret", "persistentVolumeClaim", "projected", "ephemeral", "csi", "image"}
    assert all(set(volume) - {"name"} <= allowed for volume in pod["volumes"])
    for container in pod.get("initContainers", []) + pod["containers"]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["readOnlyRootFilesystem"] is True
        assert not {"privileged", "procMount", "runAsUser"} & set(context)
        assert all("hostPort" not in port for port in container.get("ports", []))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_mount_has_its_volume_and_every_volume_its_mount(variant: str) -> None:
    pod = rendered(variant).job["spec"]["template"]["spec"]
    mounted = {m["name"] for c in pod.get("initContainers", []) + pod["containers"] for m in c["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_the_documented_examples_render_as_they_did(root: Path) -> None:
    """After a wanted change: `kaito-tuning render deploy/examples/X.yaml > tests/golden/X.yaml`, and read the diff."""
    examples = sorted((root / "deploy" / "examples").glob("*.yaml"))
    assert examples
    for example in examples:
        workspace = parse_workspace(yaml.safe_load(example.read_text()), source=example.name)
        assert render(workspace, None).to_yaml() == (root / "tests" / "golden" / example.name).read_text()


@pytest.fixture(scope="module")
def structural() -> dict[str, Any]:
    """What the API server checks a Workspace with, its rules in CEL left out."""
    schema: dict[str, Any] = custom_resource_definition()["spec"]["versions"][1]["schema"]["openAPIV3Schema"]
    return _closed(schema)


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """With unknown fields refused, as strict field validation does."""
    copy = dict(schema)
    if "properties" in copy:
        copy["properties"] = {name: _closed(field) for name, field in copy["properties"].items()}
        copy["additionalProperties"] = False
    if "items" in copy:
        copy["items"] = _closed(copy["items"])
    return copy


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tuning__method": "QLoRA"},
        {"tuning__method": "dora"},
        {"tuning__method": None},
        {"resource__count": 0},
        {"resource__count": "1"},
        {"tuning__input": {"url": ["x"]}},
        {"tuning__input": {"image": "r/x:1", "imagePullSecrets": "p"}},
        {"tuning__preset": {"name": "phi-4", "accessMode": "secret"}},
        {"resource__labelSelector": {"matchLabels": {"a": 1}}},
        {"tuning": None},
    ],
)
def test_the_api_server_refuses_the_fields_that_we_refuse(structural: dict[str, Any], changes: dict[str, Any]) -> None:
    content = document(**changes)
    try:
        parse_workspace(content, source="w")
        ours = True
    except ConfigurationError:
        ours = False
    validator = jsonschema.Draft202012Validator(
        {**structural, "properties": {**structural["properties"], "metadata": {}}}
    )
    assert validator.is_valid(content) is ours
    if changes != {"tuning__method": "dora"}:
        # A method is checked by a rule here, by a pattern there.
        assert jsonschema.Draft202012Validator(json_schema()).is_valid(content) is ours


def test_each_rule_in_cel_has_its_twin_here(structural: dict[str, Any]) -> None:
    def rules(schema: dict[str, Any]) -> list[str]:
        found = [rule["message"] for rule in schema.get("x-kubernetes-validations", [])]
        for field in schema.get("properties", {}).values():
            found += rules(field)
        return found

    said = " ".join(rules(structural))
    old = document()
    for changes in (
        {"tuning__input": {}},
        {"tuning__output": {}},
        {"tuning__output": {"image": "r.example.com/a/b:1"}},
        {"tuning__preset": {"name": "phi-4"}},
        {"resource__count": 2},
    ):
        with pytest.raises(ConfigurationError) as caught:
            parse_workspace(document(**changes), source="w", old=old)
        words = caught.value.message.partition(": ")[2]
        field, _, sentence = words.rpartition(".")[2].partition(" ")
        assert f"{field} {sentence.partition(', and has')[0]}" in said


def test_the_schemes_of_the_rules_are_those_of_the_downloader() -> None:
    from data_downloader.sources import SCHEMES

    assert set(URL_SCHEMES) == set(SCHEMES) - {"file"}
