"""Look at the beginning of a dataset from afar: how many rows there are, and how long.

Only what is needed is read: a local file's first part, or the same of a URL by an HTTP range request (RFC 9110, 14.2).
"""

import io
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from tuning.redaction import printable_url
from tuning.row_files import TEXT_READERS, BadRow, Reader, Row

SAMPLE_BYTES = 1 << 20
_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True)
class Sample:
    """What a dataset looks like. `rows` is an estimate unless `whole`."""

    rows: int
    characters_per_row: float
    size_bytes: int
    whole: bool


@dataclass(frozen=True)
class _File:
    name: str
    head: bytes
    size_bytes: int


def sample_urls(urls: list[str]) -> tuple[Sample | None, list[str]]:
    """What the files behind `urls` look like (None: none can be read from here), and what was left out, and why."""
    notes: list[str] = []
    files = []
    for url in urls:
        try:
            files.append(_fetch_head(url))
        except (urllib.error.URLError, OSError, ValueError) as error:
            notes.append(f"{printable_url(url)} was not sampled: {_reason(error)}")
    return _combine(files, notes)


def sample_path(path: Path) -> tuple[Sample | None, list[str]]:
    """The same of a data file, or of the data files of a folder."""
    found = sorted(found for found in path.rglob("*") if found.is_file()) if path.is_dir() else [path]
    files = []
    for file in found:
        if file.suffix.lower() in TEXT_READERS:
            with file.open("rb") as stream:
                files.append(_File(file.name, stream.read(SAMPLE_BYTES), file.stat().st_size))
    return _combine(files, [])


def _fetch_head(url: str) -> _File:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"}:
        raise ValueError(f"{parts.scheme}:// is not sampled")
    request = urllib.request.Request(url.partition("#")[0], headers={"Range": f"bytes=0-{SAMPLE_BYTES - 1}"})  # noqa: S310 - checked above
    with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:  # noqa: S310
        head = answer.read(SAMPLE_BYTES)
        total = answer.headers.get("Content-Range", "").rpartition("/")[2]
        size = int(total) if total.isdigit() else int(answer.headers.get("Content-Length") or len(head))
    return _File(unquote(parts.path).rpartition("/")[2], head, size)


def _reason(error: BaseException) -> str:
    cause = getattr(error, "reason", error)
    return str(getattr(cause, "strerror", None) or cause)


def _combine(files: list[_File], notes: list[str]) -> tuple[Sample | None, list[str]]:
    rows, characters, sampled = 0.0, 0, 0
    whole, size = True, 0
    for file in files:
        reader = TEXT_READERS.get(Path(file.name).suffix.lower())
        if reader is None:
            notes.append(f"{file.name} was not sampled: only text formats are read here")
            continue
        complete = file.size_bytes <= len(file.head)
        found, bad = _rows(reader, io.BytesIO(file.head), file.name, complete=complete)
        if bad:
            count = f"{len(bad)} of {len(found) + len(bad)}"
            notes.append(f"{count} sampled rows cannot be learnt from, the first: {bad[0]}")
        if not found:
            notes.append(f"{file.name} has no row that could be read")
            continue
        share = 1.0 if complete else file.size_bytes / len(file.head)
        rows += len(found) * share
        characters += sum(_characters(row.fields) for row in found)
        sampled += len(found)
        whole, size = whole and complete, size + file.size_bytes
    if not sampled:
        return None, notes
    return Sample(round(rows), characters / sampled, size, whole), notes


def _rows(reader: Reader, stream: IO[bytes], name: str, *, complete: bool) -> tuple[list[Row], list[BadRow]]:
    """The rows that can be read, and those that cannot; the last one of a part may be half a row."""
    found = list(reader(stream, name))
    whole = found if complete else found[:-1]
    return [row for row in whole if isinstance(row, Row)], [row for row in whole if isinstance(row, BadRow)]


def _characters(content: Any) -> int:
    """The characters of all texts in a row."""
    if isinstance(content, str):
        return len(content)
    if isinstance(content, Mapping):
        return sum(_characters(value) for value in content.values())
    return sum(_characters(value) for value in content) if isinstance(content, list) else 0
