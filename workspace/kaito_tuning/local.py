"""Run the very same pod on this machine: the order of its containers, their logs, signals, and the verdict.

Environment, arguments, mounts and order come from the rendered Job, not from a second source. How a container is run is
the backend's matter: `processes` or `engine`.
"""

import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from kaito_tuning.pod import Manifest
from tuning.errors import CAUSES, JobReaction

GRACE_SECONDS = 30.0

# What a backend makes of a container: its name, the command to run, and that command's environment.
Started = tuple[str, list[str], Mapping[str, str]]


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

    `weights` stands for the base model, `docker_config` for the push secret, `certificates` for the CA's ConfigMap.
    """

    work: Path
    weights: Path | None = None
    docker_config: Path | None = None
    certificates: Path | None = None


def run_pod(
    pod: Manifest, start: Callable[[Manifest], Started], work: Path, kill: Callable[[], None], output: TextIO
) -> Verdict:
    """Run the containers of `pod` once, their log lines prefixed by their names.

    Init containers run one after the other; then the others together, until all have ended. SIGTERM or SIGINT is
    handed to them, as a deletion of the pod would; `kill` ends what the backend left after the grace period.
    """
    processes = _Processes(output, kill)
    with _signals_handed_to(processes):
        ended: list[Ended] = []
        for container in pod.get("initContainers", []):
            ended += processes.run([start(container)], work)
            if ended[-1].exit_code:
                return Verdict(ended)
        return Verdict(ended + processes.run([start(container) for container in pod["containers"]], work))


class _Processes:
    """The containers that run now."""

    def __init__(self, output: TextIO, kill: Callable[[], None]) -> None:
        self._output = output
        self._kill_rest = kill
        self._running: list[subprocess.Popen[str]] = []
        self._stopped = False

    def run(self, commands: Sequence[Started], work: Path) -> list[Ended]:
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
        self._kill_rest()

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
