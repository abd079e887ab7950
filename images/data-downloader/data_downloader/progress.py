"""How far the download is, for someone who watches a log, or a terminal."""

import logging
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

logger = logging.getLogger(__name__)

_FIRST_LINE_SECONDS = 2.0
_WINDOW_SECONDS = 10.0
_BAR_CELLS = 24


@dataclass(frozen=True)
class Standing:
    """What has come: files, bytes, and the bytes of all files (None while that is not known)."""

    files_done: int
    files: int
    received_bytes: int
    total_bytes: int | None


class Progress:
    """Says the standing every `interval_seconds`: as a log line, or as a live bar where a terminal shows it."""

    def __init__(self, standing: Callable[[], Standing], interval_seconds: float, stream: TextIO | None = None) -> None:
        self._standing = standing
        self._interval_seconds = interval_seconds
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        now = time.monotonic()
        self._next = now + min(_FIRST_LINE_SECONDS, interval_seconds)
        self._seen: deque[tuple[float, int]] = deque([(now, 0)])

    def look(self) -> None:
        """To be called often; says something when it is time."""
        now = time.monotonic()
        if now < self._next and not self._live:
            return
        standing = self._standing()
        self._seen.append((now, standing.received_bytes))
        while self._seen[0][0] < now - _WINDOW_SECONDS and len(self._seen) > 2:
            self._seen.popleft()
        if self._live:
            self._stream.write("\r\x1b[K" + self._bar(standing))
            self._stream.flush()
        else:
            self._next = now + self._interval_seconds
            logger.info("progress %s", self._line(standing))

    def end(self) -> None:
        """Leave the terminal clean."""
        if self._live:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def _line(self, standing: Standing) -> str:
        rate = self._rate()
        parts = [f"files={standing.files_done}/{standing.files}"]
        if standing.total_bytes:
            share = 100 * standing.received_bytes / standing.total_bytes
            parts.append(f"{share:.0f}% bytes={readable(standing.received_bytes)}/{readable(standing.total_bytes)}")
        else:
            parts.append(f"bytes={readable(standing.received_bytes)}")
        parts.append(f"rate={readable(rate)}/s")
        if standing.total_bytes and rate > 0:
            parts.append(f"remaining={(standing.total_bytes - standing.received_bytes) / rate:.0f}s")
        elif rate == 0:
            parts.append(f"stalled={self._seen[-1][0] - self._seen[0][0]:.0f}s")
        return " ".join(parts)

    def _bar(self, standing: Standing) -> str:
        share = standing.received_bytes / standing.total_bytes if standing.total_bytes else 0.0
        cells = round(share * _BAR_CELLS)
        return f"[{'#' * cells}{'.' * (_BAR_CELLS - cells)}] {self._line(standing)}"

    def _rate(self) -> float:
        (first, before), (last, after) = self._seen[0], self._seen[-1]
        return max(0.0, (after - before) / (last - first)) if last > first else 0.0


def readable(size: float) -> str:
    """A number of bytes for people: 1.4 GiB."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
