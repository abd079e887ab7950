"""A stand-in for kubectl in the README's commands: it takes what a cluster would take, and remembers what it has.

kubectl.py FOLDER ARGUMENT…
"""

import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

# What no published schema describes.
CUSTOM = {"Workspace", "ClusterKopfPeering"}


def main(folder: Path, arguments: list[str]) -> None:
    """Apply, create, or look at something that is there."""
    folder.mkdir(exist_ok=True)
    match arguments:
        case ["apply", *files]:
            for name in files[1::2]:
                text = sys.stdin.read() if name == "-" else Path(name).read_text()
                for document in yaml.safe_load_all(text):
                    apply(folder, document)
        case ["create", "secret", "docker-registry", name, *options]:
            given = {option.partition("=")[0] for option in options}
            if given != {"--docker-server", "--docker-username", "--docker-password"}:
                sys.exit(f"error: {given}")
            remember(folder, f"Secret/{name}")
        case ["logs", "--follow", target, "-c", container]:
            look(folder, target.replace("job/", "Job/"))
            look(folder, f"Container/{container}")
        case ["describe", "pods", "-l", selector]:
            look(folder, f"Label/{selector}")
        case ["describe", "workspace", name]:
            look(folder, f"Workspace/{name}")
        case _:
            sys.exit(f"error: unknown command {arguments}")


def apply(folder: Path, document: dict[str, Any]) -> None:
    """Check a manifest as an API server does, and its secrets as a kubelet does."""
    if document["kind"] not in CUSTOM:
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
    template = document.get("spec", {}).get("template", {})
    for container in template.get("spec", {}).get("containers", []):
        remember(folder, f"Container/{container['name']}")
    for key, value in template.get("metadata", {}).get("labels", {}).items():
        remember(folder, f"Label/{key}={value}")
    for volume in template.get("spec", {}).get("volumes", []):
        if "secret" in volume:
            look(folder, f"Secret/{volume['secret']['secretName']}")
        if "configMap" in volume:
            look(folder, f"ConfigMap/{volume['configMap']['name']}")
    remember(folder, f"{document['kind']}/{document['metadata']['name']}")


def remember(folder: Path, name: str) -> None:
    """It is there from now on."""
    with (folder / "applied").open("a") as stream:
        stream.write(f"{name}\n")


def look(folder: Path, name: str) -> None:
    """An error where it is not there."""
    if name not in (folder / "applied").read_text().split():
        sys.exit(f'Error from server (NotFound): "{name}" not found')


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
