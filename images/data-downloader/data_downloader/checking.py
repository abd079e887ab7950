"""A part with all its bytes: is it what was promised, and what will it be called."""

import logging
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

from data_downloader.content_check import (
    HEAD_BYTES,
    digest_of,
    gunzip_blocks,
    promised_digests,
    refuse_cut,
    refuse_magic,
    refuse_page,
)
from data_downloader.names import choose_name, safe_name
from data_downloader.part import Head, Part
from data_downloader.sources import Source
from tuning.errors import DatasetError, TransientError
from tuning.files import sha256_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checked:
    """What one source brought: where its bytes are, the name they want, and what is known of them."""

    source: Source
    path: Path
    name: str
    size_bytes: int
    sha256: str
    head: Head


def check(source: Source, part: Part) -> Checked:
    """Compare a whole part with what the user, the server and its own content promise, and make it durable.

    Raises DatasetError for a difference, TransientError where the body was cut without the transfer noticing.
    """
    head = part.head
    if head is None:
        raise ValueError("a part is checked when it is whole")
    sha256 = part.finish_digest()
    _compare_promised(source, part.path, head, sha256)
    path = part.path
    with path.open("rb") as stream:
        start = stream.read(HEAD_BYTES)
    name = safe_name(source.name) if source.name else choose_name(source.url, head.headers, start)
    if head.headers.get("Content-Encoding", "").lower() in {"gzip", "x-gzip"} and not name.lower().endswith(
        (".gz", ".tgz")
    ):
        path, sha256, start = _decode(source, path)
        name = safe_name(source.name) if source.name else choose_name(source.url, head.headers, start)
    size = path.stat().st_size
    if size == 0:
        raise DatasetError(f"{source.shown} is empty", hint="check that the URL names the dataset")
    if source.size_bytes is not None and size != source.size_bytes:
        raise DatasetError(f"{source.shown} has {size} bytes, {source.size_bytes} were expected")
    if source.sha256 and sha256 != source.sha256:
        raise DatasetError(
            f"{source.shown} has sha256 {sha256}, {source.sha256} was expected",
            hint="the file has changed, or is damaged",
        )
    if source.scheme != "oci":
        refuse_page(start, source.shown, source.url)
        refuse_magic(start, name)
    if head.size_bytes is None and not refuse_cut(path, name, source.shown):
        logger.warning("the server did not say how long the file is, and its end cannot tell url=%s", source.shown)
    part.sync()
    return Checked(source, path, name, size, sha256, head)


def _compare_promised(source: Source, path: Path, head: Head, sha256: str) -> None:
    for algorithm, promised in promised_digests(head.headers, head.linked).items():
        actual = sha256 if algorithm == "sha256" else digest_of(path, algorithm)
        if actual != promised:
            raise DatasetError(
                f"{source.shown} arrived with {algorithm} {actual}, the server promised {promised}",
                hint="the file was damaged on its way, or changed; try again",
            )


def _decode(source: Source, path: Path) -> tuple[Path, str, bytes]:
    """The content of a body that came gzip'd although that was not asked for."""
    decoded = path.with_suffix(".decoded")
    try:
        with decoded.open("wb") as stream:
            stream.writelines(gunzip_blocks(path))
            stream.flush()
            os.fsync(stream.fileno())
    except zlib.error as error:
        raise TransientError(f"{source.shown} was cut: its gzip encoding is damaged: {error}") from error
    with decoded.open("rb") as stream:
        return decoded, sha256_of(decoded), stream.read(HEAD_BYTES)
