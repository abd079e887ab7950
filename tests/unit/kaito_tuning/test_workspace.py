from pathlib import Path
from typing import Any

import pytest
import yaml

from kaito_tuning.reading import parse_workspace, read_documents
from kaito_tuning.workspace import Workspace
from tuning.errors import ConfigurationError, InputNotFound


def document(**changes: Any) -> dict[str, Any]:
    """A good Workspace; a change `tuning__method="x"` sets a field, None removes it."""
    content: dict[str, Any] = {
        "apiVersion": "kaito.sh/v1beta1",
        "kind": "Workspace",
        "metadata": {"name": "w"},
        "resource": {"instanceType": "x"},
        "tuning": {
            "preset": {"name": "phi-3-mini-128k-instruct"},
            "method": "lora",
            "input": {"urls": ["https://h/x.jsonl"]},
            "output": {"image": "r.example.com/a/b:1", "imagePushSecret": "push"},
        },
    }
    for path, value in changes.items():
        *parents, last = path.split("__")
        target = content
        for parent in parents:
            target = target[parent]
        if value is None:
            target.pop(last)
        else:
            target[last] = value
    return content


def parse(**changes: Any) -> Workspace:
    return parse_workspace(document(**changes), source="w.yaml")


def refused(**changes: Any) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        parse(**changes)
    assert caught.value.message.startswith("w.yaml")
    return caught.value


def test_a_good_workspace_is_read() -> None:
    workspace = parse()
    assert workspace.metadata.namespace == "default"
    assert workspace.preset.hub_id == "microsoft/Phi-3-mini-128k-instruct"


@pytest.mark.parametrize("method", ["lora", "LoRA", "QLORA"])
def test_the_method_is_read_in_any_case(method: str) -> None:
    assert parse(tuning__method=method).method == method.lower()


def test_a_hub_id_stands_for_a_model_that_is_no_preset() -> None:
    preset = parse(tuning__preset={"name": "org/model"}).preset
    assert (preset.hub_id, preset.in_image) == ("org/model", False)


def test_the_original_api_version_and_what_a_cluster_adds_are_accepted() -> None:
    parse(apiVersion="kaito.sh/v1alpha1", metadata={"name": "w", "uid": "x", "labels": {}}, status={"conditions": []})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tuning__method": "dora"}, "tuning.method 'dora' is unknown"),
        ({"tuning__method": None}, "tuning.method is missing"),
        ({"tuning__preset": {"name": "phi-3-mini-128k"}}, "did you mean phi-3-mini-128k-instruct?"),
        ({"tuning__preset": {"nam": "x"}}, "tuning.preset.nam is unknown"),
        ({"tuning__input": {}}, "tuning.input must have exactly one of urls, image, volumeSource, and has none"),
        ({"tuning__input": {"urls": ["x"], "image": "a"}}, "has urls and image"),
        ({"tuning__input": {"image": "A/B:1:2"}}, "tuning.input.image is no image reference"),
        ({"tuning__input": {"url": ["x"]}}, "did you mean urls?"),
        ({"tuning__output": {"image": "r.example.com/A:1", "imagePushSecret": "p"}}, "must be lowercase"),
        ({"tuning__output": {"image": "r.example.com/a:1"}}, "tuning.output.imagePushSecret is missing"),
        ({"tuning__output": {}}, "tuning.output must have exactly one of"),
        ({"resource__count": 0}, "resource.count is wrong"),
        ({"resource__instancetype": "x"}, "did you mean instanceType?"),
        ({"metadata": {"name": "Not_A_Label"}}, "metadata.name 'Not_A_Label' is not a DNS label"),
        ({"apiVersion": "v1"}, "apiVersion is wrong"),
        ({"tuning__preset": {"name": "falcon-7b", "presetOptions": {"image": "A"}}}, "presetOptions.image"),
        ({"tuning": None}, "tuning is missing"),
    ],
)
def test_what_is_wrong_is_named_with_its_path(changes: dict[str, Any], said: str) -> None:
    error = refused(**changes)
    assert said in f"{error.message} ({error.hint})"


def test_all_problems_are_named_at_once() -> None:
    message = refused(tuning__method="dora", tuning__input={}, tuning__output={}, resource__count=0, kind=7).message
    assert "5 problems" in message


def write(tmp_path: Path, *documents: Any) -> Path:
    path = tmp_path / "w.yaml"
    path.write_text(yaml.safe_dump_all(documents))
    return path


def test_a_configmap_may_stand_beside_the_workspace(tmp_path: Path) -> None:
    configmap = {"kind": "ConfigMap", "metadata": {"name": "c"}}
    workspace, found = read_documents([write(tmp_path, document(), configmap)])
    assert (workspace["metadata"]["name"], found) == ("w", configmap)


@pytest.mark.parametrize(
    ("documents", "said"),
    [
        ([], "has no Workspace"),
        ([{"kind": "Job"}], "a document of the kind 'Job'"),
        ([document(), document()], "a document of the kind 'Workspace'"),
        (["text"], "a document of the kind None"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, documents: list[Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        read_documents([write(tmp_path, *documents)])


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputNotFound, match="cannot read"):
        read_documents([tmp_path / "no.yaml"])
