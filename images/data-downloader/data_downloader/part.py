"""The bytes of one source so far: a part file, the spans that are still missing, and what is needed to go on later.

Knows nothing of connections. Every method may be called from any thread.
"""

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tuning.errors import ResourceExhausted
from tuning.files import write_json

_BLOCK_BYTES = 1 << 20
_PROBED_BYTES = 1 << 16
# What of a server's answer is needed after the transfer.
_KEPT_HEADERS = (
    "Content-Disposition", "Content-Encoding", "Content-MD5", "Content-Type", "Digest", "ETag", "Last-Modified",
    "Repr-Digest", "x-amz-checksum-sha256", "x-goog-hash",
)  # fmt: skip


@dataclass(frozen=True)
class Head:
    """What the server said of the file: its size (None: not told), its strong ETag, and headers that are kept."""

    size_bytes: int | None
    etag: str
    headers: Mapping[str, str]
    linked: Mapping[str, str] = field(default_factory=dict)

    @property
    def resumable(self) -> bool:
        """Whether a missing part can be asked for without mixing two versions of the file."""
        return bool(self.etag) and self.size_bytes is not None


def head_of(headers: Mapping[str, str], linked: Mapping[str, str], size_bytes: int | None) -> Head:
    """The Head of an answer with the whole file."""
    etag = headers.get("ETag", "")
    kept = {name: headers[name] for name in _KEPT_HEADERS if name in headers}
    promised = {name: linked[name] for name in ("X-Linked-Etag", "X-Repo-Commit") if name in linked}
    return Head(size_bytes, etag if etag.startswith('"') else "", kept, promised)


@dataclass
class Span:
    """Bytes from `position` up to `end` (None: to the end of the body) that one worker fetches."""

    position: int
    end: int | None
    generation: int
    taken: bool = False

    @property
    def missing(self) -> int:
        """How many bytes are still to come; 0 where that is not known."""
        return 0 if self.end is None else self.end - self.position


class Part:
    """A part file and its state beside it. A new version of the source is a new generation; older spans are void."""

    def __init__(self, folder: Path, key: str) -> None:
        self.path = folder / f"{key}.part"
        self.head: Head | None = None
        self.received = 0
        self._state = folder / f"{key}.state"
        self._lock = threading.Lock()
        self._generation = 0
        self._spans: list[Span] = []
        self._hashed = 0
        self._digest = hashlib.sha256()
        self._load()
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)

    def close(self) -> None:
        """Give the file up; the state stays."""
        os.close(self._descriptor)

    def restart(self, span: Span, head: Head | None = None) -> None:
        """Forget all bytes: `span` becomes all of the file, and every other one is void.

        With `head` a new body starts; without it, the next request tells what there is.
        """
        with self._lock:
            os.ftruncate(self._descriptor, 0)
            self.head = head
            self._generation += 1
            self._hashed, self._digest = 0, hashlib.sha256()
            self.received = 0
            span.position, span.end = 0, head.size_bytes if head else None
            span.generation, span.taken = self._generation, True
            self._spans = [span]

    def take(self) -> Span | None:
        """A span that nobody works on, now taken; one of the whole file where nothing was begun."""
        with self._lock:
            if not self._spans:
                self._spans = [Span(0, None, self._generation)]
            span = next((span for span in self._spans if not span.taken), None)
            if span:
                span.taken = True
            return span

    def release(self, span: Span) -> None:
        """Give a span back for somebody else to take."""
        with self._lock:
            span.taken = False

    def is_current(self, span: Span) -> bool:
        """Whether `span` belongs to the version of the file that is being fetched."""
        return span.generation == self._generation

    def is_done(self, span: Span) -> bool:
        """Whether nothing of `span` is missing, or it is void."""
        with self._lock:
            return not self.is_current(span) or (span.end is not None and span.position >= span.end)

    @property
    def whole(self) -> bool:
        """Whether every byte is there."""
        with self._lock:
            return bool(self._spans) and all(span.end is not None and span.position >= span.end for span in self._spans)

    @property
    def taken(self) -> int:
        """How many spans are being worked on."""
        with self._lock:
            return sum(span.taken and span.missing > 0 for span in self._spans)

    def write(self, span: Span, block: bytes) -> bool:
        """Put `block` at the span's position, as far as the span reaches. False where the span is void or full."""
        with self._lock:
            if not self.is_current(span):
                return False
            if span.end is not None:
                block = block[: span.end - span.position]
            self._write(block, span.position)
            if self._hashed == span.position:
                self._digest.update(block)
                self._hashed += len(block)
            span.position += len(block)
            self.received += len(block)
            return span.end is None or span.position < span.end

    def _write(self, block: bytes, position: int) -> None:
        try:
            while block:
                written = os.pwrite(self._descriptor, block, position)
                block, position = block[written:], position + written
        except OSError as error:
            raise ResourceExhausted(
                f"cannot write to {self.path.parent}: {error.strerror}", hint="give the data volume more space"
            ) from error

    def end_here(self, span: Span) -> None:
        """The body, whose length was not told, has ended: this is all of the file."""
        with self._lock:
            if self.is_current(span):
                span.end = span.position

    def widest(self) -> tuple[Span, int, int] | None:
        """The span with the most bytes missing, with the middle of what is missing and its end."""
        with self._lock:
            span = max((s for s in self._spans if s.taken and s.end is not None), key=lambda s: s.missing, default=None)
            if span is None or span.end is None:
                return None
            return span, span.position + span.missing // 2, span.end

    def split(self, span: Span, middle: int, end: int) -> Span | None:
        """Cut `span` at `middle`; the upper half, taken, or None where the span has changed since it was looked at."""
        with self._lock:
            if not self.is_current(span) or span.end != end or span.position >= middle:
                return None
            span.end = middle
            upper = Span(middle, end, self._generation, taken=True)
            self._spans.append(upper)
            return upper

    def finish_digest(self) -> str:
        """The SHA-256 of the whole file, in hex; what did not pass in order is read again from the page cache."""
        while block := os.pread(self._descriptor, _BLOCK_BYTES, self._hashed):
            self._digest.update(block)
            self._hashed += len(block)
        return self._digest.hexdigest()

    def save(self) -> None:
        """Make what is there survive this process: first the bytes, then the state that vouches for them."""
        with self._lock:
            if self.head is None or not self.head.resumable:
                return
            state = {
                "head": asdict(self.head),
                "spans": [[span.position, span.end] for span in sorted(self._spans, key=lambda s: s.position)],
            }
        os.fdatasync(self._descriptor)
        write_json(self._state, state)

    def leave(self) -> None:
        """The download has failed: save what a later one can go on with, remove what it cannot."""
        if self.head is not None and self.head.resumable and self.received:
            self.save()
        else:
            self.remove()

    def sync(self) -> None:
        """Make the bytes durable."""
        os.fsync(self._descriptor)

    def remove(self) -> None:
        """Remove the part and its state."""
        self.path.unlink(missing_ok=True)
        self._state.unlink(missing_ok=True)

    def _load(self) -> None:
        """Take up what an earlier process left, if it can be gone on with."""
        try:
            state: dict[str, Any] = json.loads(self._state.read_bytes())
            head = Head(**state["head"])
            spans = [Span(int(position), int(end), 0) for position, end in state["spans"]]
            size = self.path.stat().st_size
        except (OSError, ValueError, KeyError, TypeError):
            return
        if head.resumable and spans and all(span.position <= size for span in spans):
            if all(span.missing == 0 for span in spans):
                # Fetch the end again: the request tells whether the source is still the same.
                spans[-1].position = max(0, (spans[-1].end or 0) - _PROBED_BYTES)
            self.head, self._spans = head, spans
            self.received = (head.size_bytes or 0) - sum(span.missing for span in spans)
