"""How the trainer tells the pusher that it ended: completed, failed, or dead without a word.

The trainer takes the lease, removes what an earlier attempt left, and at its end writes one sentinel, whole. The
pusher polls: a sentinel is believed; a free lease without a sentinel, looked at once more, means that the trainer died.
Both know the attempt by its run id (the pod's uid): an outcome of another attempt is as good as none. Without a run id,
as when one container is debugged alone, any outcome counts.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tuning.errors import TrainingFailed
from tuning.files import sha256_of, write_json
from tuning.lease import LeaseState, lease_state
from tuning.volumes import COMPLETED_SENTINEL, FAILED_SENTINEL


@dataclass(frozen=True)
class AdapterFile:
    """One file of the adapter: its name in the results folder, its size and its digest (hex)."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Completed:
    """Training ended well. `files` is all that belongs to the adapter."""

    run_id: str
    files: tuple[AdapterFile, ...]
    base_model: str
    steps: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    dataset_digest: str = ""
    method: str = ""


@dataclass(frozen=True)
class Failed:
    """Training ended with a cause."""

    run_id: str
    exit_code: int
    cause: str
    message: str
    hint: str = ""


@dataclass(frozen=True)
class Died:
    """The trainer is gone and left no word: killed, out of memory, or its node went away."""

    reason: str = "the trainer died without a word"


Outcome = Completed | Failed | Died


def forget_outcome(results: Path) -> None:
    """Remove the sentinels of an earlier attempt; done before anything else is written."""
    for name in (COMPLETED_SENTINEL, FAILED_SENTINEL):
        (results / name).unlink(missing_ok=True)


def announce(results: Path, outcome: Completed | Failed) -> None:
    """Write the sentinel of `outcome`, whole. By rank 0 only, after everything that it names is on disk."""
    name = COMPLETED_SENTINEL if isinstance(outcome, Completed) else FAILED_SENTINEL
    write_json(results / name, asdict(outcome))


def describe_files(results: Path, names: list[str]) -> tuple[AdapterFile, ...]:
    """Sizes and digests of the files `names` in `results`, in the order of their names."""
    return tuple(
        AdapterFile(name, (results / name).stat().st_size, sha256_of(results / name)) for name in sorted(names)
    )


def read_outcome(results: Path, run_id: str = "") -> Completed | Failed | None:
    """The announced outcome of the attempt `run_id`, or None while there is none.

    Raises TrainingFailed for a sentinel that is not ours to read.
    """
    # A failure wins: where both stand, something went wrong after the adapter was announced.
    for name, parse in ((FAILED_SENTINEL, _parse_failed), (COMPLETED_SENTINEL, _parse_completed)):
        path = results / name
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            continue
        try:
            outcome = parse(json.loads(text))
        except (ValueError, KeyError, TypeError) as error:
            raise TrainingFailed(
                f"{path} is not a sentinel of this trainer: {error}",
                hint="use the trainer and the pusher of one release",
            ) from error
        if not run_id or outcome.run_id == run_id:
            return outcome
    return None


def await_outcome(
    results: Path,
    run_id: str = "",
    *,
    poll_seconds: float = 1.0,
    start_timeout_seconds: float = float("inf"),
    sleep: Callable[[float], None] = time.sleep,
) -> Outcome:
    """Return how training ended, also when the trainer died without a word or never gave a sign of life.

    Looks every `poll_seconds`; returns within one poll of the end. Without any sign of the trainer it gives up after
    `start_timeout_seconds`.
    """
    start = time.monotonic()
    seen = False
    while (outcome := read_outcome(results, run_id)) is None:
        state = lease_state(results, run_id)
        if state is LeaseState.FREE:
            # The outcome is written before the lease falls: look once more, then believe.
            return read_outcome(results, run_id) or Died()
        seen = seen or state is LeaseState.HELD
        if seen and state is LeaseState.ABSENT:
            return Died(f"the trainer's lease was removed from {results}")
        if not seen and time.monotonic() - start > start_timeout_seconds:
            return Died(f"the trainer gave no sign of life in {start_timeout_seconds:.0f} s")
        sleep(poll_seconds)
    return outcome


def verify_files(results: Path, completed: Completed) -> None:
    """Check that the adapter is what the trainer announced.

    Raises TrainingFailed naming the first file that is missing, or differs in size or digest.
    """
    for file in completed.files:
        path = results / file.name
        if not path.is_file():
            raise TrainingFailed(f"{path} is announced by the trainer but missing", hint=_CHANGED_HINT)
        size = path.stat().st_size
        if size != file.size_bytes:
            raise TrainingFailed(
                f"{path} has {size} bytes, the trainer announced {file.size_bytes}", hint=_CHANGED_HINT
            )
        if (actual := sha256_of(path)) != file.sha256:
            raise TrainingFailed(f"{path} has sha256 {actual}, the trainer announced {file.sha256}", hint=_CHANGED_HINT)


_CHANGED_HINT = "something changed the results volume after training; tune again"


def _parse_completed(content: Mapping[str, Any]) -> Completed:
    return Completed(
        run_id=str(content["run_id"]),
        files=tuple(
            AdapterFile(str(file["name"]), int(file["size_bytes"]), str(file["sha256"])) for file in content["files"]
        ),
        base_model=str(content["base_model"]),
        steps=int(content["steps"]),
        metrics={str(key): float(value) for key, value in content["metrics"].items()},
        dataset_digest=str(content["dataset_digest"]),
        method=str(content["method"]),
    )


def _parse_failed(content: Mapping[str, Any]) -> Failed:
    return Failed(
        run_id=str(content["run_id"]),
        exit_code=int(content["exit_code"]),
        cause=str(content["cause"]),
        message=str(content["message"]),
        hint=str(content["hint"]),
    )
