"""Upload a blob in pieces, for registries (or proxies before them) that take no large body at once.

Source: opencontainers/distribution-spec v1.1, "Pushing a blob in chunks".
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Protocol
from urllib.parse import urljoin, urlsplit

import requests

from pusher.blob import Blob
from tuning.errors import TransientError

CHUNK_BYTES = 16 << 20
_RESUMES = 20
_RANGE = re.compile(r"^(?:bytes=)?0-(\d+)$")


class Request(Protocol):
    """Sends one request and returns its answer if the status is accepted; raises the cause else."""

    def __call__(
        self,
        verb: str,
        url: str,
        *,
        accept: tuple[int, ...],
        headers: Mapping[str, str] | None = None,
        data: Any = None,
    ) -> requests.Response: ...


def upload_in_chunks(blob: Blob, location: str, minimum_bytes: int, request: Request) -> None:
    """Send `blob` to the upload session at `location`, going on at the registry's offset where a piece is lost.

    Raises TransientError where the session is gone; the caller starts another one.
    """
    size = max(CHUNK_BYTES, minimum_bytes)
    reader, offset, resumes = _Reader(blob), 0, 0
    while offset < blob.size_bytes:
        chunk = reader.read(offset, size)
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Range": f"{offset}-{offset + len(chunk) - 1}",
        }
        try:
            response = request("PATCH", location, accept=(202, 204), headers=headers, data=chunk)
            location = _next(response, location)
            received = _received(response)
            # Without an answer of its own a registry has taken the piece.
            offset = received if received is not None else offset + len(chunk)
        except TransientError:
            resumes += 1
            if resumes > _RESUMES:
                raise
            response = request("GET", location, accept=(204,))
            location = _next(response, location)
            offset = _received(response) or 0
    separator = "&" if urlsplit(location).query else "?"
    request("PUT", f"{location}{separator}digest={blob.digest}", accept=(201, 204))


def _next(response: requests.Response, location: str) -> str:
    return urljoin(response.url, response.headers.get("Location", location))


def _received(response: requests.Response) -> int | None:
    """How many bytes the registry has, from its `Range: 0-N`."""
    match = _RANGE.match(response.headers.get("Range", ""))
    if match is None:
        return None
    last = int(match[1])
    # `0-0` is both nothing and one byte; no piece of ours is one byte long but the last.
    return last + 1 if last else 0


class _Reader:
    """Reads pieces of a blob, forwards in one pass; going back costs another one."""

    def __init__(self, blob: Blob) -> None:
        self._blob = blob
        self._blocks: Iterator[bytes] = iter(())
        self._buffer = b""
        self._position = blob.size_bytes + 1

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset` on."""
        if offset < self._position:
            self._blocks, self._buffer, self._position = self._blob.blocks(), b"", 0
        self._take(offset - self._position)
        return self._take(size)

    def _take(self, size: int) -> bytes:
        parts = []
        while size and (block := self._buffer or next(self._blocks, b"")):
            part, self._buffer = block[:size], block[size:]
            parts.append(part)
            size -= len(part)
            self._position += len(part)
        return b"".join(parts)
