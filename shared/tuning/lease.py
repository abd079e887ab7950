"""The trainer's sign of life: a file whose POSIX record lock it holds as long as it lives.

The kernel drops the lock however the trainer dies, SIGKILL and OOM kill included, and the lock is visible to every
container that shares the volume. A record lock (fcntl.lockf) belongs to the process, so a stray data-loader child
cannot keep it; but it is lost as soon as *any* descriptor of the file is closed in that process. Hence this module
owns the only one: nothing else in the trainer may open the file.
"""

import fcntl
import os
import tempfile
from enum import Enum
from pathlib import Path

from tuning.errors import TransientError
from tuning.volumes import LEASE


class LeaseState(Enum):
    """What a look at the lease shows."""

    ABSENT = "absent"
    HELD = "held"
    FREE = "free"


class Lease:
    """A held lease. It ends with the process; `release` is for tests and for an orderly end."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the lease up, so that it is seen as free."""
        os.close(self._descriptor)


def take_lease(results: Path, run_id: str) -> Lease:
    """Take the lease of the folder `results` for the attempt `run_id`.

    The file is locked as a draft and then renamed: no one can see it unlocked while the trainer lives. Raises
    TransientError while another living trainer holds it.
    """
    if lease_state(results) is LeaseState.HELD:
        raise TransientError(
            f"{results} is in use: another trainer holds {LEASE}",
            hint="wait until it has ended, or give this run an output_dir of its own",
        )
    descriptor, draft = tempfile.mkstemp(dir=results, prefix=f".{LEASE}.")
    fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.write(descriptor, run_id.encode())
    os.fchmod(descriptor, 0o644)
    Path(draft).rename(results / LEASE)
    return Lease(descriptor)


def lease_state(results: Path, run_id: str = "") -> LeaseState:
    """Whether the trainer of `results` lives. With a `run_id`, another attempt's lease counts as absent."""
    try:
        descriptor = os.open(results / LEASE, os.O_RDONLY)
    except FileNotFoundError:
        return LeaseState.ABSENT
    try:
        if run_id and os.read(descriptor, 4096).decode(errors="replace") != run_id:
            return LeaseState.ABSENT
        try:
            # A shared lock needs read access only; closing the descriptor drops it again.
            fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # EAGAIN or EACCES, at the system's choice (POSIX fcntl)
            return LeaseState.HELD
        return LeaseState.FREE
    finally:
        os.close(descriptor)
