"""Ends a run whose steps have stopped: a hung data loader, a lost GPU, a rank that waits for a dead one."""

import faulthandler
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback

from tuning.errors import TransientError

logger = logging.getLogger(__name__)


class Watchdog(TrainerCallback):
    """Calls `end` with the cause when no step ends for `timeout_seconds`. `end` must end the process."""

    def __init__(self, timeout_seconds: float, end: Callable[[TransientError], None]) -> None:
        self._timeout = timeout_seconds
        self._end = end
        self._beat = time.monotonic()
        self._step = 0
        self._over = threading.Event()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch while the block runs."""
        self._beat = time.monotonic()
        thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A step has ended."""
        self._beat = time.monotonic()
        self._step = state.global_step

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A step of an evaluation has ended."""
        self._beat = time.monotonic()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A checkpoint has been written."""
        self._beat = time.monotonic()

    def _watch(self) -> None:
        while not self._over.wait(min(self._timeout / 4, 5.0)):
            if time.monotonic() - self._beat > self._timeout:
                faulthandler.dump_traceback(all_threads=True)
                self._end(
                    TransientError(
                        f"no step has ended for {self._timeout:.0f} s, the last one was {self._step}",
                        hint="the traceback above shows what hangs; STEP_TIMEOUT_SECONDS allows for longer steps",
                    )
                )
                return
