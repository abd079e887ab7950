"""Unpack an archive into a folder, and never out of it.

Bounded in bytes and in number, for an archive of a few kilobytes can hold terabytes.
"""

import shutil
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from tuning.errors import DatasetError, ResourceExhausted

MOST_BYTES = 1 << 40
MOST_FILES = 100_000
# Ordinary text compresses to a tenth, repetitive rows to a hundredth.
_MOST_RATIO = 1000
_SPARE_BYTES = 16 << 20
_BLOCK_BYTES = 1 << 20


def unpack(archive: Path, name: str, target: Path) -> list[Path]:
    """Unpack the regular files of `archive` (its format told by `name`) into `target`; the files, sorted.

    Raises DatasetError for a damaged archive or a member that would leave the folder, ResourceExhausted for one that is
    too large.
    """
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    limit = min(MOST_BYTES, shutil.disk_usage(target).free - _SPARE_BYTES, archive.stat().st_size * _MOST_RATIO)
    total = count = 0
    try:
        for member, size, stream in _members(archive, name):
            path = _inside(target, member, name)
            count += 1
            if count > MOST_FILES:
                raise ResourceExhausted(f"{name} holds more than {MOST_FILES} files", hint="unpack it yourself")
            total += size
            if total > limit:
                raise ResourceExhausted(f"{name} unpacks to more than {limit} bytes", hint="use a larger volume")
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as copy:
                _copy(stream, copy, size, member, name)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DatasetError(
            f"{name} is a damaged archive: {error}", hint="download it again, or drop #unpack"
        ) from error
    files = sorted(path for path in target.rglob("*") if path.is_file())
    if not files:
        raise DatasetError(f"{name} holds no files", hint="check the archive")
    return files


def _members(archive: Path, name: str) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Every regular file of the archive: its name, its size, and its bytes."""
    lowered = name.lower()
    if lowered.endswith(".zip"):
        with zipfile.ZipFile(archive) as zipped:
            for info in zipped.infolist():
                if info.flag_bits & 1:
                    raise DatasetError(f"{name} is encrypted", hint="unpack it yourself")
                if not info.is_dir():
                    with zipped.open(info) as stream:
                        yield info.filename, info.file_size, stream
    elif lowered.endswith((".tar", ".tar.gz", ".tgz", ".tar.zst")):
        with open_tar(archive, lowered) as packed:
            for member in packed:
                if member.isdir():
                    continue
                if not member.isreg():
                    raise DatasetError(
                        f"{name} holds {member.name!r}, which is no regular file", hint="pack only files, no links"
                    )
                if content := packed.extractfile(member):
                    yield member.name, member.size, content
    else:
        raise DatasetError(f"{name} cannot be unpacked", hint="#unpack knows .zip, .tar, .tar.gz and .tar.zst")


@contextmanager
def open_tar(archive: Path, name: str) -> Iterator[tarfile.TarFile]:
    """The tar archive `archive` as a stream; `name` tells how it is compressed."""
    if not name.endswith(".zst"):
        with tarfile.open(archive, "r|gz" if name.endswith("gz") else "r|") as packed:
            yield packed
        return
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    try:
        with zstd.open(archive) as plain, tarfile.open(fileobj=plain, mode="r|") as packed:
            yield packed
    except zstd.ZstdError as error:
        raise DatasetError(f"{name} is a damaged archive: {error}", hint="download it again") from error


def _inside(target: Path, member: str, name: str) -> Path:
    path = PurePosixPath(member.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or "\0" in member or (path.parts and ":" in path.parts[0]):
        raise DatasetError(
            f"{name} holds {member!r}, which would leave the data folder", hint="do not trust this archive"
        )
    return target / path


def _copy(stream: IO[bytes], copy: IO[bytes], size: int, member: str, name: str) -> None:
    written = 0
    while block := stream.read(_BLOCK_BYTES):
        written += len(block)
        if written > size:
            raise DatasetError(f"{name}: {member!r} is larger than it says", hint="do not trust this archive")
        copy.write(block)
    if written != size:
        raise DatasetError(f"{name}: {member!r} was cut", hint="download it again")
