"""Each rule with its message: what the original's webhook refuses where it makes sense, and what it lets through."""

from typing import Any

import pytest

from kaito_tuning.reading import parse_workspace
from tests.unit.kaito_tuning.test_workspace import document
from tuning.errors import ConfigurationError


def refusal(*, local: bool = False, old: dict[str, Any] | None = None, **changes: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        parse_workspace(document(**changes), source="w.yaml", old=old, local=local)
    return f"{caught.value.message} ({caught.value.hint})"


def urls(*values: str) -> dict[str, Any]:
    return {"tuning__input": {"urls": list(values)}}


OUTPUT = {"image": "r.example.com/a/b:1", "imagePushSecret": "push"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (urls("ftp://h/x"), "tuning.input.urls.0 ftp://h/x begins with ftp (use one of http, https"),
        (urls("h/x.jsonl"), "begins with no scheme"),
        (urls("https:///x"), "names no host"),
        (urls("https://h/a b"), "has white space in it"),
        (urls("https://h/x https://h/y"), "write each URL as an item of its own"),
        (urls("https://h/x", "https://h:port/x"), "urls.1 <unreadable URL> is no URL"),
        (urls("https://user:pa55word@h/x"), "urls.0 https://h/x has a secret in it"),
        (urls("https://h/x?token=pa55word"), "put it into a Secret and render with --data-secret"),
        (urls("https://h/x?a=1&API_KEY=pa55word"), "has a secret in it"),
        (urls("http://localhost/x"), "is an address of the node itself"),
        (urls("http://a.localhost/x"), "is an address of the node itself"),
        (urls("http://127.0.0.1:8000/x"), "give an address that the cluster can reach"),
        (urls("http://[::1]/x"), "is an address of the node itself"),
        (urls("http://169.254.169.254/latest/meta-data"), "is an address of the node itself"),
        (urls("http://metadata.google.internal/x"), "is an address of the node itself"),
        (urls("https://PULLREGISTRY/x"), "still has the placeholder 'PULLREGISTRY'"),
        ({"tuning__output": {**OUTPUT, "image": "PUSHREGISTRY/adapter:0.0.1"}}, "placeholder 'PUSHREGISTRY'"),
        ({"tuning__output": {**OUTPUT, "image": "AZURE_ACR_NAME.azurecr.io/a:1"}}, "placeholder 'AZURE_ACR_NAME'"),
        ({"tuning__output": {**OUTPUT, "imagePushSecret": "IMAGE_PUSH_SECRET_HERE"}}, "replace it with your own value"),
        ({"tuning__output": {**OUTPUT, "image": "<registry>/a:1"}}, "placeholder '<registry>'"),
        ({"tuning__output": {**OUTPUT, "image": "${REGISTRY}/a:1"}}, "placeholder '${'"),
        ({"tuning__output": {**OUTPUT, "imagePushSecret": "Push_Secret"}}, "cannot be the name of an object"),
        ({"tuning__output": {"imagePushSecret": "p", "volumeSource": {"emptyDir": {}}}}, "has no image to push"),
        ({"tuning__output": {**OUTPUT, "volumeSource": {"emptyDir": {}}}}, "and has image and volumeSource"),
        (
            {"tuning__output": {**OUTPUT, "image": "r.example.com/a/b@sha256:" + "0" * 64}},
            "must not name a digest: it is known only after the push",
        ),
        ({"tuning__config": "Mine!"}, "tuning.config 'Mine!' cannot be the name of an object"),
        ({"tuning__input": {"image": "r/x:1", "imagePullSecrets": ["a", "B"]}}, "imagePullSecrets.1 'B' cannot be"),
        ({"tuning__preset": {"name": "phi-4", "accessMode": "private"}}, "accessMode private needs an image of yours"),
        ({"tuning__preset": {"name": "gpt-oss-20b"}, "tuning__method": "qlora"}, "does not work with gpt-oss-20b"),
        ({"resource__labelSelector": {"matchLabels": {"a b": "c"}}}, "'a b' is no label"),
        ({"resource__labelSelector": {"matchLabels": {"a": "-"}}}, "matchLabels.a '-' is no value of a label"),
        ({"resource__labelSelector": {"matchExpressions": [{"operator": "In"}]}}, "matchExpressions.0.key is missing"),
        (
            {"resource__labelSelector": {"matchExpressions": [{"key": "a", "operator": "Is", "values": ["b"]}]}},
            "matchExpressions.0.operator 'Is' is unknown",
        ),
        (
            {"resource__labelSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}},
            "matchExpressions.0.values are missing with In",
        ),
        (
            {"resource__labelSelector": {"matchExpressions": [{"key": "a", "operator": "Exists", "value": 1}]}},
            "matchExpressions.0.value is unknown",
        ),
    ],
)
def test_a_rule_that_is_broken_is_named(changes: dict[str, Any], said: str) -> None:
    message = refusal(**changes)
    assert said in message
    assert "pa55word" not in message


def test_a_problem_of_a_field_does_not_hide_those_of_the_rules() -> None:
    message = refusal(tuning__inputs={}, resource__count="two", tuning__method="dora", **urls("ftp://h/x"))
    for path in ("tuning.inputs is unknown", "resource.count is wrong", "tuning.method 'dora'", "begins with ftp"):
        assert path in message


@pytest.mark.parametrize(
    "url", ["hf://datasets/o/n/x.jsonl", "s3://b/k", "https://h/x?sig=abc&se=1", "http://10.0.0.1/x"]
)
def test_what_the_downloader_fetches_is_accepted(url: str) -> None:
    parse_workspace(document(**urls(url)), source="w.yaml")


def test_on_this_machine_its_own_addresses_may_be_used() -> None:
    parse_workspace(document(**urls("http://127.0.0.1:8000/x")), source="w.yaml", local=True)


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"metadata": {"name": "other"}}, "metadata.name"),
        ({"tuning__preset": {"name": "phi-4"}}, "tuning.preset"),
        ({"tuning__method": "qlora"}, "tuning.method"),
        ({"tuning__input": {"urls": ["https://h/x.jsonl"], "name": "n"}}, "tuning.input.name"),
        ({"resource__count": 2}, "resource.count"),
        ({"resource__instanceType": "y"}, "resource.instanceType"),
        ({"resource__labelSelector": {"matchLabels": {"a": "b"}}}, "resource.labelSelector"),
    ],
)
def test_an_update_may_not_make_another_workspace_of_it(changes: dict[str, Any], path: str) -> None:
    message = refusal(old=document(), **changes)
    assert f"{path} cannot be changed (make a Workspace of another name for it)" in message


def test_an_update_may_mend_what_was_wrong() -> None:
    changes = {"tuning__input": {"urls": ["https://h/y"]}, "tuning__method": "LoRA", "tuning__config": "c"}
    parse_workspace(document(**changes), source="w.yaml", old=document(tuning__output={}))
