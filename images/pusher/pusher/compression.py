"""Compress a layer while it is read. Weights hardly shrink, so this is for slow lines only, and off by default."""

import hashlib
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Protocol

from pusher.blob import Blob

NONE, GZIP = "none", "gzip"
# Level 1: higher ones take many times as long for a percent of such data.
_LEVEL = 1
_WINDOW_BITS_OF_GZIP = 31


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


def compress(layer: Blob, method: str) -> Blob:
    """`layer` as it is stored with `method`: none, gzip or zstd. Its content is compressed anew at each reading.

    The compressors run in one thread and put no time into their headers, so that equal layers have equal digests.
    """
    if method == NONE:
        return layer
    start = _gzip if method == GZIP else _zstd

    def blocks() -> Iterator[bytes]:
        compressor = start()
        for block in layer.blocks():
            if packed := compressor.compress(block):
                yield packed
        yield compressor.flush()

    digest, size = hashlib.sha256(), 0
    for block in blocks():
        digest.update(block)
        size += len(block)
    return replace(
        layer,
        media_type=f"{layer.media_type}+{method}",
        digest=f"sha256:{digest.hexdigest()}",
        size_bytes=size,
        blocks=blocks,
        diff_id=layer.diff_id,
    )


def _gzip() -> _Compressor:
    # zlib writes a header whose time is zero.
    return zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW_BITS_OF_GZIP)


def _zstd() -> _Compressor:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    make: Callable[..., Any] = zstd.ZstdCompressor
    compressor: _Compressor = make(level=_LEVEL)
    return compressor
