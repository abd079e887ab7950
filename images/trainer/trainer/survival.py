"""What lets a run outlive its pod: complete checkpoints, in time, and one more when the pod is told to go."""

import json
import logging
import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback

from trainer.checkpoints import MARKER
from tuning.errors import TransientError
from tuning.files import sync_folder, write_json

logger = logging.getLogger(__name__)


class Checkpoints(TrainerCallback):
    """Saves in time, marks what is complete, and ends the run after a checkpoint once `stopped` says so.

    `identity` tells whether a checkpoint belongs to this run: digests of its configuration and its data.
    """

    def __init__(self, identity: Mapping[str, str], every_seconds: float | None) -> None:
        self._identity = dict(identity)
        self._every = every_seconds
        self._last = time.monotonic()
        self.stop_signal = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask for a checkpoint when it is time, or when the pod must go."""
        self._agree()
        due = self._every is not None and time.monotonic() - self._last > self._every
        if due or self.stop_signal:
            control.should_save = True
        if self.stop_signal:
            control.should_training_stop = True

    def _agree(self) -> None:
        """All processes stop after the same step, whichever of them got the signal."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
            signals = torch.tensor(self.stop_signal, device=device)
            torch.distributed.all_reduce(signals, torch.distributed.ReduceOp.MAX)
            self.stop_signal = int(signals)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Mark the checkpoint as complete: last, and only when all of it is on disk."""
        self._last = time.monotonic()
        if state.is_world_process_zero:
            mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}", self._identity)

    @contextmanager
    def outliving_signals(self) -> Iterator[None]:
        """Inside, SIGTERM does not end the process but asks for a checkpoint; then TransientError is raised."""

        def note(number: int, _frame: FrameType | None) -> None:
            self.stop_signal = number
            logger.warning("%s: saving a checkpoint after this step", signal.Signals(number).name)

        before = signal.signal(signal.SIGTERM, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)
        if self.stop_signal:
            raise TransientError(
                "preempted: the pod was told to stop, and a checkpoint was saved",
                hint="the Job's next pod goes on from it if the results volume outlives the pod",
            )


def mark_complete(folder: Path, identity: Mapping[str, str]) -> None:
    """Write the marker of the checkpoint in `folder`."""
    for path in folder.iterdir():
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
    write_json(folder / MARKER, dict(identity))
    logger.info("checkpoint saved folder=%s", folder.name)


def retire_checkpoints(results: Path, *, keep: bool) -> None:
    """The run is over: its checkpoints are removed, or, where the user asked for them, no longer gone on from."""
    for folder in results.glob("checkpoint-*"):
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
        elif (marker := folder / MARKER).is_file():
            write_json(marker, {**json.loads(marker.read_bytes()), "finished": True})
    sync_folder(results)
