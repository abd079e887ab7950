"""A blob: bytes with a digest, that can be read again as often as a retry needs."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Blob:
    """`digest` is `sha256:<hex>` of the `size_bytes` bytes that every call of `blocks` yields.

    A layer also has a `diff_id`, the digest of its content uncompressed (image-spec, config.md).
    """

    media_type: str
    digest: str
    size_bytes: int
    blocks: Callable[[], Iterator[bytes]]
    diff_id: str = ""
    # The image it is copied from, whose registry may give it without sending it.
    origin: str = ""

    def descriptor(self, **extra: Any) -> dict[str, Any]:
        """The blob as a content descriptor (image-spec, descriptor.md)."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size_bytes, **extra}

    def content(self) -> bytes:
        """All bytes; for small blobs."""
        return b"".join(self.blocks())


def json_blob(media_type: str, content: Mapping[str, Any]) -> Blob:
    """`content` as JSON in one canonical form, so that equal content has an equal digest."""
    encoded = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    digest = f"sha256:{hashlib.sha256(encoded).hexdigest()}"
    return Blob(media_type, digest, len(encoded), lambda: iter([encoded]))
