"""A few threads that share all files: first each file gets one, then those that are free help with slow large ones."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from data_downloader.part import Part, Span
from data_downloader.sources import Source
from tuning.errors import TransientError

_LOOK_SECONDS = 0.1
_SAVE_SECONDS = 2.0


class Fetching(Protocol):
    """The way of one source into its part, as a crew sees it."""

    source: Source
    part: Part

    def fetch(self, span: Span) -> None:
        """Fetch all of a span, or give it back."""

    def wants_help(self) -> bool:
        """Whether one more worker would make it faster."""

    def help(self) -> None:
        """Work on a part of what another worker has taken."""

    @property
    def can_be_taken(self) -> bool:
        """Whether a span that was given back may be tried again now."""

    def cut_stalled(self, now: float) -> None:
        """Break connections that bring nothing."""

    def cut_all(self) -> None:
        """Break all connections."""


class _Abandoned(BaseException):
    """The download is over; a worker that waits need not wait any longer."""


class Crew:
    """`finish` is called once for each file, by the worker that brought its last byte."""

    def __init__(self, files: Sequence[Fetching], workers: int, finish: Callable[[Fetching], None]) -> None:
        self._files = files
        self._workers = workers
        self._finish = finish
        self._started: set[int] = set()
        self._finished: set[int] = set()
        self._done = 0
        self._change = threading.Condition()
        self._over = threading.Event()
        self._error: BaseException | None = None

    def pause(self, seconds: float) -> None:
        """Wait in a worker; ends the worker if the download is over before."""
        if self._over.wait(seconds):
            raise _Abandoned

    def run(self, look: Callable[[], None], deadline_seconds: float | None = None) -> None:
        """Bring all files; meanwhile call `look` ten times a second. Raises the first error of any worker.

        However it ends, what has come is on disk, with the state to go on from.
        """
        start = saved = time.monotonic()
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(self._workers)]
        for thread in threads:
            thread.start()
        try:
            while not self._over.wait(_LOOK_SECONDS):
                now = time.monotonic()
                for file in self._files:
                    file.cut_stalled(now)
                if deadline_seconds is not None and now - start > deadline_seconds:
                    self._end(
                        TransientError(
                            f"the download took longer than {deadline_seconds:.0f} s",
                            hint="raise DOWNLOAD_DEADLINE_SECONDS, or look for what makes the source slow",
                        )
                    )
                if now - saved > _SAVE_SECONDS:
                    self._save()
                    saved = time.monotonic()
                look()
        finally:
            self._end(None)
            for file in self._files:
                file.cut_all()
            for thread in threads:
                thread.join()
            if self._done < len(self._files):
                for file in self._files:
                    file.part.leave()
        if self._error:
            raise self._error

    def _save(self) -> None:
        for number, file in enumerate(self._files):
            if number in self._started and number not in self._finished:
                file.part.save()

    def _end(self, error: BaseException | None) -> None:
        with self._change:
            self._error = self._error or error
            self._over.set()
            self._change.notify_all()

    def _work(self) -> None:
        try:
            while (task := self._next()) is not None:
                number, span = task
                file = self._files[number]
                if span is not None:
                    file.fetch(span)
                elif not file.part.whole:
                    file.help()
                self._finish_once(number)
        except _Abandoned:
            return
        except BaseException as error:  # noqa: BLE001 - handed to the main thread, which raises it
            self._end(error)

    def _finish_once(self, number: int) -> None:
        file = self._files[number]
        with self._change:
            self._change.notify_all()
            if number in self._finished or self._over.is_set() or not file.part.whole:
                return
            self._finished.add(number)
        self._finish(file)
        with self._change:
            self._done += 1
            if self._done == len(self._files):
                self._over.set()
                self._change.notify_all()

    def _next(self) -> tuple[int, Span | None] | None:
        """What to do now: a file and the span to fetch, or None for the span to help; None when all is done."""
        with self._change:
            while not self._over.is_set():
                for number, file in enumerate(self._files):
                    if number not in self._started:
                        self._started.add(number)
                        return number, file.part.take()
                open_files = [(n, f) for n, f in enumerate(self._files) if n not in self._finished]
                for number, file in open_files:
                    if file.can_be_taken and not file.part.whole and (span := file.part.take()):
                        return number, span
                for number, file in sorted(open_files, key=lambda pair: -_missing(pair[1])):
                    if file.wants_help():
                        return number, None
                self._change.wait(_LOOK_SECONDS)
            return None


def _missing(file: Fetching) -> int:
    widest = file.part.widest()
    return widest[0].missing if widest else 0
