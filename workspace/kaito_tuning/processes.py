"""The pod as processes of this machine: no container engine, paths mapped into the work folder.

What a kubelet does around a container (images, security contexts, limits) is left out.
"""

import sys
import uuid
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TextIO

from kaito_tuning.job import Rendered
from kaito_tuning.local import Local, Started, Verdict, run_pod
from kaito_tuning.local_volumes import Volumes
from kaito_tuning.pod import DATA_DOWNLOADER, PUSHER, TRAINER, Manifest
from tuning import environment
from tuning.errors import ConfigurationError
from tuning.image_reference import parse_image_reference

# The import name of an app mirrors the name of its image.
_MODULES = {name: name.replace("-", "_") for name in (DATA_DOWNLOADER, TRAINER, PUSHER)}


def run_as_processes(
    rendered: Rendered, local: Local, environ: Mapping[str, str], output: TextIO | None = None
) -> Verdict:
    """Run the pod of `rendered` once, logging to standard error by default.

    Raises ConfigurationError for what no process can stand for.
    """
    volumes = Volumes(rendered, local)
    run_id = uuid.uuid4().hex

    def start(container: Manifest) -> Started:
        return container["name"], _command(container), _environment(container, volumes, local, run_id, environ)

    return run_pod(volumes.pod, start, volumes.work, lambda: None, output or sys.stderr)


def _command(container: Manifest) -> list[str]:
    name = parse_image_reference(container["image"]).repository.rpartition("/")[2]
    app = next((app for app in _MODULES if name == app or name.startswith(f"{app}-")), None)
    if "command" in container or app is None:
        raise ConfigurationError(
            f"the container {container['name']} runs the image {container['image']}, which no process can stand for",
            hint="use --backend docker, or give the dataset as urls or as a volumeSource with a hostPath",
        )
    return [sys.executable, "-m", _MODULES[app], *container.get("args", [])]


def _environment(
    container: Manifest, volumes: Volumes, local: Local, run_id: str, environ: Mapping[str, str]
) -> dict[str, str]:
    """The container's variables with its paths mapped, over what a process needs of this machine's own."""
    # A process has this machine's /tmp and /dev/shm already.
    mapped = {
        mount["mountPath"]: volumes.folders[mount["name"]]
        for mount in container["volumeMounts"]
        if mount["mountPath"] not in {"/tmp", "/dev/shm"}  # noqa: S108
    }
    # Of this machine only what is no setting of an app: those come from the Job alone.
    known = {value.name for value in vars(environment).values() if isinstance(value, environment.Variable)}
    variables = {name: value for name, value in environ.items() if name not in known or name.startswith("LOG_")}
    for variable in container["env"]:
        # A variable from a Secret is this machine's own, if it has it.
        if "secretKeyRef" not in variable.get("valueFrom", {}):
            variables[variable["name"]] = _map_paths(variable.get("value", run_id), mapped)
    if local.weights is not None:
        variables[environment.MODEL_WEIGHTS_PATH.name] = str(local.weights.absolute())
    message = volumes.termination_message(container["name"])
    return {**variables, environment.TERMINATION_MESSAGE_PATH.name: str(message), "PYTHONUNBUFFERED": "1"}


def _map_paths(text: str, mapped: Mapping[str, Path]) -> str:
    """`text` with a path of the container replaced, where it is one, also behind the `oci:` of a destination."""
    scheme, path = ("oci:", text.removeprefix("oci:")) if text.startswith("oci:") else ("", text)
    for mount, folder in mapped.items():
        if PurePosixPath(path).is_relative_to(mount):
            return scheme + str(folder) + path.removeprefix(mount)
    return text
