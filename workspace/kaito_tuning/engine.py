"""The pod as containers of a Docker engine on this machine: real images, mounts, users and limits.

Volumes are folders of the work folder, so that they can be looked at. The network is this machine's own, so that what
listens here can be reached. What only a kubelet does (retries, probes, scheduling) is left out.
"""

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from kaito_tuning.job import Rendered
from kaito_tuning.local import Local, Started, Verdict, run_pod
from kaito_tuning.local_volumes import Volumes
from kaito_tuning.pod import Manifest
from tuning import volumes as paths
from tuning.errors import ConfigurationError

_GPU = "nvidia.com/gpu"


def run_in_containers(
    rendered: Rendered, local: Local, environ: Mapping[str, str], *, keep: bool = False, output: TextIO | None = None
) -> Verdict:
    """Run the pod of `rendered` once; its containers are removed at the end unless `keep`.

    Raises ConfigurationError where no engine answers.
    """
    output = output or sys.stderr
    _require_engine()
    volumes = Volumes(rendered, local)
    run_id = uuid.uuid4().hex
    prefix = f"{rendered.job['metadata']['name']}-{run_id[:8]}"
    for volume in volumes.pod["volumes"]:
        if "emptyDir" in volume:
            _give(volumes.folders[volume["name"]], volumes.pod["securityContext"]["fsGroup"])
    if _wants_gpu(volumes.pod) and not shutil.which("nvidia-smi"):
        print("this machine has no GPU driver: the trainer runs without", file=output)

    def start(container: Manifest) -> Started:
        name = f"{prefix}-{container['name']}"
        return container["name"], _command(container, name, volumes, run_id, environ), environ

    with _removed(prefix, keep=keep):
        return run_pod(volumes.pod, start, volumes.work, lambda: _remove(prefix), output)


def _require_engine() -> None:
    if shutil.which("docker") is None:
        raise ConfigurationError("the command docker is not installed", hint="use --backend process")
    done = subprocess.run(["docker", "version"], capture_output=True, text=True, check=False)  # noqa: S607
    if done.returncode:
        raise ConfigurationError(
            f"no Docker engine answers: {done.stderr.strip().splitlines()[-1]}", hint="start it, or set DOCKER_HOST"
        )


def _give(folder: Path, group: int) -> None:
    """As a kubelet gives an emptyDir: writable by the pod's group, which new files belong to."""
    folder.chmod(0o2777)
    if os.geteuid() == 0:
        os.chown(folder, -1, group)


def _wants_gpu(pod: Manifest) -> bool:
    return any(_GPU in container["resources"].get("limits", {}) for container in pod["containers"])


def _command(container: Manifest, name: str, volumes: Volumes, run_id: str, environ: Mapping[str, str]) -> list[str]:
    """The `docker run` that is this container."""
    line = ["docker", "run", "--name", name, "--network", "host", *_security(volumes.pod, container)]
    for volume in container["volumeMounts"]:
        line += ["--mount", _mount(volume, volumes)]
    message = volumes.termination_message(container["name"])
    message.touch()
    message.chmod(0o666)
    line += ["--mount", f"type=bind,source={message},target={paths.TERMINATION_MESSAGE}"]
    for variable in container["env"]:
        if "secretKeyRef" not in variable.get("valueFrom", {}):
            line += ["--env", f"{variable['name']}={variable.get('value', run_id)}"]
        elif variable["name"] in environ:
            # Its value stays out of the command line.
            line += ["--env", variable["name"]]
    limits = container["resources"].get("limits", {})
    if "memory" in limits:
        line += ["--memory", _bytes(limits["memory"]), "--memory-swap", _bytes(limits["memory"])]
    if _GPU in limits and shutil.which("nvidia-smi"):
        line += ["--gpus", str(limits[_GPU])]
    entry, *rest = container.get("command", [None])
    if entry:
        line += ["--entrypoint", entry]
    return [*line, container["image"], *rest, *container.get("args", [])]


def _security(pod: Manifest, container: Manifest) -> list[str]:
    user, context = pod["securityContext"], container["securityContext"]
    line = ["--user", f"{user['runAsUser']}:{user['runAsGroup']}", "--group-add", str(user["fsGroup"])]
    if context.get("readOnlyRootFilesystem"):
        line.append("--read-only")
    for capability in context["capabilities"]["drop"]:
        line += ["--cap-drop", capability]
    return line if context["allowPrivilegeEscalation"] else [*line, "--security-opt", "no-new-privileges"]


def _mount(mount: Manifest, volumes: Volumes) -> str:
    [volume] = [volume for volume in volumes.pod["volumes"] if volume["name"] == mount["name"]]
    if volume.get("emptyDir", {}).get("medium") == "Memory":
        return f"type=tmpfs,target={mount['mountPath']},tmpfs-mode=1777"
    folder = volumes.folders[mount["name"]]
    read_only = ",readonly" if mount.get("readOnly") else ""
    return f"type=bind,source={folder},target={mount['mountPath']}{read_only}"


def _bytes(quantity: str) -> str:
    """A quantity of Kubernetes as Docker writes it: 512Mi is 512m."""
    return quantity.removesuffix("i").lower()


@contextmanager
def _removed(prefix: str, *, keep: bool) -> Iterator[None]:
    try:
        yield
    finally:
        if not keep:
            _remove(prefix)


def _remove(prefix: str) -> None:
    """Remove the containers of this run, and end those that still run."""
    listed = ["docker", "ps", "--all", "--quiet", "--filter", f"name=^{prefix}-"]
    found = subprocess.run(listed, capture_output=True, text=True, check=False).stdout.split()  # noqa: S603
    if found:
        subprocess.run(["docker", "rm", "--force", *found], capture_output=True, check=False)  # noqa: S603, S607
