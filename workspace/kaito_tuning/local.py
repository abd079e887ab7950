"""Run the very same pod on this machine as processes: a rendered Job, its paths mapped into a work folder.

Environment, arguments, mounts and order come from the Job, not from a second source. What a kubelet does around it
(images, security contexts, retries) is left out.
"""

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TextIO

from kaito_tuning.job import Rendered
from kaito_tuning.pod import DATA_DOWNLOADER, DOCKER_CONFIG_VOLUME, PUSHER, TRAINER, Manifest
from tuning import environment
from tuning.errors import CAUSES, ConfigurationError, InputNotFound, JobReaction
from tuning.image_reference import parse_image_reference

GRACE_SECONDS = 30.0

# The import name of an app mirrors the name of its image.
_MODULES = {name: name.replace("-", "_") for name in (DATA_DOWNLOADER, TRAINER, PUSHER)}


@dataclass(frozen=True)
class Ended:
    """How a container ended: its exit code, the sentence of its termination message, and how long it ran."""

    container: str
    exit_code: int
    message: str
    seconds: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """How the pod ended: every container that ran, in order. Failed by the first that failed."""

    ended: Sequence[Ended]

    @property
    def exit_code(self) -> int:
        """0, or the exit code of the container that failed first in the order of the pod."""
        return next((ended.exit_code for ended in self.ended if ended.exit_code), 0)

    @property
    def reaction(self) -> str:
        """What the Job controller does with such a pod, by the Job's podFailurePolicy."""
        if not self.exit_code:
            return "succeeds"
        final = {cause.exit_code for cause in CAUSES if cause.reaction is JobReaction.FAIL_JOB}
        codes = {ended.exit_code for ended in self.ended}
        return "fails at once, another try could not help" if codes & final else "counts a failure, and tries again"


@dataclass(frozen=True)
class Local:
    """What takes the place of the cluster: a work folder for the volumes, and this machine's own folders.

    `weights` stands for the base model in the trainer's image, `docker_config` for the push secret.
    """

    work: Path
    weights: Path | None = None
    docker_config: Path | None = None


def run_as_processes(
    rendered: Rendered, local: Local, environ: Mapping[str, str], output: TextIO | None = None
) -> Verdict:
    """Run the pod of `rendered` once, its log lines prefixed by the container's name, to standard error by default.

    Init containers run one after the other; then the others together, until all have ended. SIGTERM or SIGINT is
    handed to them, as a deletion of the pod would. Raises ConfigurationError for what no process can stand for.
    """
    pod = rendered.job["spec"]["template"]["spec"]
    paths = _Paths(pod, rendered, local)
    run_id = uuid.uuid4().hex
    processes = _Processes(output or sys.stderr)
    with _signals_handed_to(processes):
        ended = []
        for container in pod.get("initContainers", []):
            command, variables = _command(container), paths.environment(container, run_id, environ)
            ended += processes.run([(container["name"], command, variables)], paths.work)
            if ended[-1].exit_code:
                return Verdict(ended)
        main = [
            (container["name"], _command(container), paths.environment(container, run_id, environ))
            for container in pod["containers"]
        ]
        return Verdict(ended + processes.run(main, paths.work))


def _command(container: Manifest) -> list[str]:
    name = parse_image_reference(container["image"]).repository.rpartition("/")[2]
    app = next((app for app in _MODULES if name == app or name.startswith(f"{app}-")), None)
    if "command" in container or app is None:
        raise ConfigurationError(
            f"the container {container['name']} runs the image {container['image']}, which no process can stand for",
            hint="give the dataset as urls or as a volumeSource with a hostPath",
        )
    return [sys.executable, "-m", _MODULES[app], *container.get("args", [])]


class _Paths:
    """Where the pod's paths are on this machine."""

    def __init__(self, pod: Manifest, rendered: Rendered, local: Local) -> None:
        self.work = local.work.absolute()
        self.work.mkdir(parents=True, exist_ok=True)
        (self.work / "termination").mkdir(exist_ok=True)
        self._local = local
        self._volumes = {volume["name"]: self._folder(volume, rendered) for volume in pod["volumes"]}

    def _folder(self, volume: Manifest, rendered: Rendered) -> Path:
        if "hostPath" in volume:
            return Path(volume["hostPath"]["path"])
        folder = self.work / str(volume["name"])
        if "configMap" in volume:
            if rendered.configmap is None:
                raise ConfigurationError(
                    f"the ConfigMap {volume['configMap']['name']} is not at hand",
                    hint="write it into the Workspace's file, as a second document",
                )
            folder.mkdir(exist_ok=True)
            for key, text in rendered.configmap["data"].items():
                (folder / key).write_text(text)
        elif volume["name"] == DOCKER_CONFIG_VOLUME:
            if self._local.docker_config is None or not (self._local.docker_config / "config.json").is_file():
                raise InputNotFound(
                    f"the push secret {volume['secret']['secretName']} is not at hand",
                    hint="give --docker-config, a folder with a config.json",
                )
            return self._local.docker_config.absolute()
        elif "emptyDir" in volume:
            # As the kubelet would: every pod starts with an empty one.
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        else:
            raise ConfigurationError(
                f"the volume {volume['name']} cannot be used on this machine", hint="use a hostPath"
            )
        return folder

    def environment(self, container: Manifest, run_id: str, environ: Mapping[str, str]) -> dict[str, str]:
        """The container's variables with its paths mapped, over what a process needs of this machine's own."""
        mapped = {mount["mountPath"]: self._volumes[mount["name"]] for mount in container["volumeMounts"]}
        # A process has this machine's /tmp and /dev/shm already.
        mapped = {path: folder for path, folder in mapped.items() if path not in {"/tmp", "/dev/shm"}}  # noqa: S108
        # Of this machine only what is no setting of an app: those come from the Job alone.
        known = {value.name for value in vars(environment).values() if isinstance(value, environment.Variable)}
        variables = {name: value for name, value in environ.items() if name not in known or name.startswith("LOG_")}
        for variable in container["env"]:
            text = variable.get("value", run_id)
            variables[variable["name"]] = _map_paths(text, mapped)
        if self._local.weights is not None:
            variables[environment.MODEL_WEIGHTS_PATH.name] = str(self._local.weights.absolute())
        message = self.work / "termination" / container["name"]
        message.unlink(missing_ok=True)
        return {**variables, environment.TERMINATION_MESSAGE_PATH.name: str(message), "PYTHONUNBUFFERED": "1"}


def _map_paths(text: str, mapped: Mapping[str, Path]) -> str:
    """`text` with a path of the container replaced, where it is one, also behind the `oci:` of a destination."""
    scheme, path = ("oci:", text.removeprefix("oci:")) if text.startswith("oci:") else ("", text)
    for mount, folder in mapped.items():
        if PurePosixPath(path).is_relative_to(mount):
            return scheme + str(folder) + path.removeprefix(mount)
    return text


class _Processes:
    """The containers that run now."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._running: list[subprocess.Popen[str]] = []
        self._stopped = False

    def run(self, commands: Sequence[tuple[str, list[str], Mapping[str, str]]], work: Path) -> list[Ended]:
        """Run `commands` together until all have ended; how they ended, in their order."""
        if self._stopped:
            return [Ended(name, 128 + signal.SIGTERM, "") for name, _, _ in commands]
        readers = []
        start = time.monotonic()
        for name, command, variables in commands:
            process = subprocess.Popen(  # noqa: S603 - our own modules, no shell
                command,
                env=dict(variables),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                # Ctrl-C reaches this process alone, which then ends them in order.
                start_new_session=True,
            )
            self._running.append(process)
            reader = threading.Thread(target=self._copy, args=(name, process), daemon=True)
            reader.start()
            readers.append(reader)
        with ThreadPoolExecutor(len(commands)) as threads:
            waits = list(threads.map(lambda process: (process.wait(), time.monotonic() - start), self._running))
        for reader in readers:
            reader.join()
        self._running = []
        return [
            # As a container runtime counts: 128 + the signal.
            Ended(name, code if code >= 0 else 128 - code, _sentence(work / "termination" / name), round(seconds, 1))
            for (name, _, _), (code, seconds) in zip(commands, waits, strict=True)
        ]

    def stop(self) -> None:
        """End what runs: SIGTERM, a grace period, SIGKILL."""
        self._stopped = True
        for process in self._running:
            process.terminate()
        timer = threading.Timer(GRACE_SECONDS, self._kill)
        timer.daemon = True
        timer.start()

    def _kill(self) -> None:
        for process in self._running:
            process.kill()

    def _copy(self, name: str, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None  # noqa: S101 - it was opened as a pipe
        with process.stdout as said:
            for line in said:
                self._output.write(f"[{name}] {line.rstrip()}\n")
                self._output.flush()


@contextmanager
def _signals_handed_to(processes: _Processes) -> Iterator[None]:
    """While inside, SIGTERM and SIGINT stop `processes` instead of this one."""
    before = {number: signal.signal(number, lambda *_: processes.stop()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _sentence(path: Path) -> str:
    """The message and the hint of a termination message; empty where the container left none."""
    try:
        content = json.loads(path.read_text())
        return "\n".join(content[key] for key in ("message", "hint") if content.get(key))
    except (OSError, ValueError):
        return ""
