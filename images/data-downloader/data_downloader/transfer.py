"""Fetch one source into its part: resume, retry, and let others help where the connection is the limit."""

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import urllib3

from data_downloader.content_check import HEAD_BYTES, refuse_page
from data_downloader.part import Head, Part, Span, head_of
from data_downloader.sources import Source
from data_downloader.web import Answer, Web
from tuning.errors import DatasetError, TransientError, TuningError
from tuning.retry import retry

LEAST_READ_BYTES = 1 << 13
_FIRST_READ_BYTES = 1 << 16
_MOST_READ_BYTES = 1 << 19
# A read this short costs more in calls than in bytes; one this long hides a stall and is lost if the line breaks.
_SHORT_READ_SECONDS = 0.05
_LONG_READ_SECONDS = 0.5

# Another connection pays only for a large file on a slow line, and where enough is left to share.
_LEAST_SHARED_FILE_BYTES = 8 << 20
_LEAST_SHARED_SPAN_BYTES = 1 << 20
_FAST_BYTES_PER_SECOND = 150e6
_LEAST_MEASURED_SECONDS = 0.25

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class _Stream:
    """A body that is being read, for the watchdog."""

    raw: Any
    reading_since: float
    stalled: bool = False


class Transfer:
    """The way of one source into its part. `url` is where its bytes are; `reserve` is told the announced size."""

    def __init__(
        self,
        source: Source,
        url: str,
        part: Part,
        web: Web,
        *,
        attempts: int,
        idle_timeout_seconds: float,
        pause: Callable[[float], None],
        reserve: Callable[["Transfer", int], None],
    ) -> None:
        self.source = source
        self.part = part
        self._url = url
        self._web = web
        self._attempts = attempts
        self._idle_timeout_seconds = idle_timeout_seconds
        self._pause = pause
        self._reserve = reserve
        self._streams: set[_Stream] = set()
        self._lock = threading.Lock()
        # Whether the server continues where it is asked to: not known before the first 206.
        self._ranges: bool | None = None
        self._most_streams = 1 << 10
        self._helping = 0
        self._releases = 0
        self._tries = 0
        self._first_read = _FIRST_READ_BYTES
        self._since: tuple[float, int] = (0.0, 0)

    def fetch(self, span: Span) -> None:
        """Fetch all of `span`, or give it back where it fails while others go on.

        Raises a cause where the source refuses, or where the attempts are used up without progress.
        """
        try:
            while span.taken and not self.part.is_done(span):
                retry(lambda: self._advance(span), attempts=self._attempts, sleep=self._pause)
        except TransientError as error:
            error.message = f"{error.message}, after {self._tries} attempts"
            raise

    def help(self) -> None:
        """Share the widest span of this file over one more connection, if it is worth it and the server agrees."""
        with self._lock:
            found = self.part.widest()
            if found is None or not self.wants_help():
                return
            self._helping += 1
        span, middle, end = found
        upper: Span | None = None
        try:
            head = self.part.head
            if head is None:
                return
            with self._web.get(self.source, self._url, _range(middle, end, head)) as answer:
                if not self._continues(answer, head, middle):
                    self._ranges = False
                    return
                self._ranges = True
                upper = self.part.split(span, middle, end)
                if upper:
                    self._copy(answer, upper)
        except TuningError as error:
            # Whatever it is, the file can be had over fewer connections; if not, its own worker will say so.
            logger.debug("no help url=%s reason=%s", self.source.shown, error)
            if upper is None or error.__cause__ is None:
                self._most_streams = max(1, self.part.taken - 1)
        finally:
            with self._lock:
                self._helping -= 1
            if upper:
                self.part.release(upper)

    def wants_help(self) -> bool:
        """Whether one more connection would make this file come faster."""
        head = self.part.head
        if head is None or not head.resumable or self._ranges is False or (self._ranges is None and self._helping):
            return False
        widest = self.part.widest()
        if widest is None or widest[0].missing < _LEAST_SHARED_SPAN_BYTES or self.part.taken >= self._most_streams:
            return False
        seconds, received = time.monotonic() - self._since[0], self.part.received - self._since[1]
        if (head.size_bytes or 0) < _LEAST_SHARED_FILE_BYTES or seconds < _LEAST_MEASURED_SECONDS:
            return False
        return received / seconds < _FAST_BYTES_PER_SECOND

    @property
    def can_be_taken(self) -> bool:
        """Whether a span that was given back may be tried again now."""
        return self.part.taken < self._most_streams

    def cut_stalled(self, now: float) -> None:
        """Break every connection that has not brought the least block within the idle timeout."""
        with self._lock:
            for stream in self._streams:
                if now - stream.reading_since > self._idle_timeout_seconds:
                    stream.stalled = True
                    _shut_down(stream.raw)

    def cut_all(self) -> None:
        """Break every connection, so that the workers end."""
        with self._lock:
            for stream in self._streams:
                _shut_down(stream.raw)

    def _advance(self, span: Span) -> None:
        """One request for what is missing of `span`. Raises TransientError where that counts as a failed attempt."""
        before = span.position
        self._tries += 1
        try:
            self._request(span)
        except TransientError as error:
            current = self.part.is_current(span)
            if span.position > before and current:
                self._releases = 0
            elif self._first_read > LEAST_READ_BYTES:
                self._first_read = LEAST_READ_BYTES
            head = self.part.head
            if current and head is not None and not head.resumable:
                self.part.restart(span)
                raise
            if self.part.taken > 1 and self._releases < self._attempts * 8:
                # Others go on; what this one lacks is taken up by the next free worker.
                self._releases += 1
                if error.__cause__ is None:  # a status, not a broken line: the server wants fewer
                    self._most_streams = max(1, self.part.taken - 1)
                self._pause(0.2)
                self.part.release(span)
            elif not (self._ranges and current and span.position > before):
                # Where there was progress that can be built on, the attempts count anew.
                raise

    def _request(self, span: Span) -> None:
        head = self.part.head
        resuming = head is not None and head.resumable and (span.position > 0 or span.end != head.size_bytes)
        headers = _range(span.position, span.end, head) if resuming and head and span.end else {}
        with self._web.get(self.source, self._url, headers) as answer:
            if headers and answer.status == 206 and head:
                if not self._continues(answer, head, span.position):
                    self.part.restart(span)
                    raise TransientError(f"{self.source.shown} changed while it was downloaded")
                self._ranges = True
            elif headers and answer.status in {412, 416}:
                self.part.restart(span)
                raise TransientError(f"{self.source.shown} changed while it was downloaded")
            elif answer.status != 200:
                raise DatasetError(f"{self.source.shown} answered {answer.status} to a request for the whole file")
            else:
                if headers:
                    self._ranges = False
                self._begin(answer, span)
            self._copy(answer, span)

    def _begin(self, answer: Answer, span: Span) -> None:
        size = answer.raw.length_remaining
        head = head_of(answer.headers, answer.linked, size)
        expected = self.source.size_bytes
        if size is not None and expected is not None and size != expected and "Content-Encoding" not in head.headers:
            raise DatasetError(
                f"{self.source.shown} has {size} bytes, {expected} were expected",
                hint="the file has changed; correct #size=",
            )
        if size:
            self._reserve(self, size)
        self._since = (time.monotonic(), 0)
        self.part.restart(span, head)

    def _continues(self, answer: Answer, head: Head, start: int) -> bool:
        """Whether an answer brings the same file from `start` on; False where it changed or the range is ignored."""
        match = _CONTENT_RANGE.match(answer.headers.get("Content-Range", ""))
        if answer.status != 206:
            return False
        if match is None or int(match[1]) != start:
            raise DatasetError(
                f"{self.source.shown} answered with a wrong Content-Range {answer.headers.get('Content-Range', '')!r}",
                hint="the server is broken; ask for the file elsewhere",
            )
        same_size = match[3] == "*" or int(match[3]) == head.size_bytes
        return same_size and answer.headers.get("ETag", head.etag) == head.etag

    def _copy(self, answer: Answer, span: Span) -> None:
        """Read the body into `span` until one of them ends."""
        if not self._since[0]:
            self._since = (time.monotonic(), self.part.received)
        with self._watched(answer.raw) as stream:
            size = self._first_read
            while True:
                missing = span.missing
                stream.reading_since = start = time.monotonic()
                block = answer.raw.read(min(size, missing) if missing else size, decode_content=False)
                seconds = time.monotonic() - start
                if not block or stream.stalled:
                    break
                if span.position == 0:
                    refuse_page(block[:HEAD_BYTES], self.source.shown, self.source.url)
                if not self.part.write(span, block):
                    return
                self._releases = 0
                if seconds < _SHORT_READ_SECONDS:
                    size = min(2 * size, _MOST_READ_BYTES)
                elif seconds > _LONG_READ_SECONDS:
                    size = max(size // 2, LEAST_READ_BYTES)
            if stream.stalled:
                raise TransientError(
                    f"{self.source.shown} brought less than {size} bytes in {self._idle_timeout_seconds:.0f} s"
                )
            if span.end is None:
                self.part.end_here(span)
            elif not self.part.is_done(span):
                raise TransientError(f"{self.source.shown} ended {span.missing} bytes too early")

    @contextmanager
    def _watched(self, raw: Any) -> Iterator[_Stream]:
        stream = _Stream(raw, time.monotonic())
        with self._lock:
            self._streams.add(stream)
        try:
            yield stream
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            # A socket that was shut down while it was read fails in any of these ways.
            if stream.stalled:
                raise TransientError(
                    f"{self.source.shown} brought too little in {self._idle_timeout_seconds:.0f} s"
                ) from error
            raise
        finally:
            with self._lock:
                self._streams.discard(stream)


def _range(start: int, end: int | None, head: Head) -> dict[str, str]:
    last = "" if end is None or end == head.size_bytes else str(end - 1)
    return {"Range": f"bytes={start}-{last}", "If-Range": head.etag}


def _shut_down(raw: Any) -> None:
    try:
        raw.shutdown()
    except (ValueError, RuntimeError, OSError):
        # It has ended by itself in the meantime.
        return
