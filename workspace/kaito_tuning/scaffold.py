"""Write a first Workspace, with its ConfigMap and comments, for what the user has."""

import json
from importlib import resources

from kaito_tuning.reading import parse_workspace
from tuning.destination import LayoutDestination, parse_destination
from tuning.errors import ConfigurationError
from tuning.presets import find_preset
from tuning.yaml_text import parse_yaml


def scaffold(name: str, preset: str, method: str, data: str, output: str, secret: str) -> str:
    """The text of a file that `kaito-tuning render` takes.

    `data` is a URL, several of them separated by spaces, or the reference of an image; `output` a reference.
    Raises ConfigurationError with all problems of what was given.
    """
    if "://" not in data and data.startswith((".", "/", "~")):
        raise ConfigurationError(
            f"--data {data} is a file of this machine, which a cluster cannot read",
            hint="give its URL, an image with it in /data, or write input.volumeSource into the Workspace",
        )
    urls = data.split()
    given = (
        ["    urls:", *(f"      - {json.dumps(url)}" for url in urls)]
        if "://" in data
        else [f"    image: {json.dumps(data)}"]
    )
    lines = [
        f"# Tune {preset} with {method}.",
        "# First: kaito-tuning plan FILE. Then: kaito-tuning render FILE | kubectl apply -f -",
        "apiVersion: kaito.sh/v1beta1",
        "kind: Workspace",
        "metadata:",
        f"  name: {json.dumps(name)}",
        "resource:",
        "  # The node's type tells how many GPUs a node has; `plan` needs it for the memory.",
        f"  instanceType: {_instance(preset)}",
        "  labelSelector:",
        "    matchLabels: {}",
        "tuning:",
        "  preset:",
        f"    name: {json.dumps(preset)}",
        f"  method: {method}",
        f"  config: {name}-params",
        "  input:",
        *given,
        "  output:",
        f"    image: {json.dumps(output)}",
    ]
    if secret:
        lines += [
            "    # kubectl create secret docker-registry, in the same namespace",
            f"    imagePushSecret: {json.dumps(secret)}",
        ]
    workspace = "\n".join(lines) + "\n"
    parse_workspace(parse_yaml(workspace, "the Workspace")[0], source="the answers")
    return f"{workspace}---\n{_configmap(name, method.lower())}"


def needs_secret(output: str) -> bool:
    """Whether a push to `output` takes a Secret; an OCI layout does not."""
    try:
        return not isinstance(parse_destination(output), LayoutDestination)
    except ValueError:
        return True


def _instance(preset: str) -> str:
    found = find_preset(preset)
    return {1: "Standard_NC24ads_A100_v4", 2: "Standard_NC48ads_A100_v4"}.get(found.gpus if found else 1, '""')


def _configmap(name: str, method: str) -> str:
    """The method's default ConfigMap, its comments kept, under the Workspace's name."""
    text = resources.files("kaito_tuning").joinpath("defaults", f"{method}-params.yaml").read_text()
    # Its first line says whose default it is.
    text = "# The training configuration; `kaito-tuning explain KEY` says what a key does.\n" + text.partition("\n")[2]
    return text.replace(f"name: {method}-params-template", f"name: {name}-params")
