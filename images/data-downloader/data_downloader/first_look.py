"""A first look at the data, before a GPU is touched: how many rows, of which format, and does each line parse.

Parquet and Arrow need a library of 170 MB; their rows are left to the trainer.
"""

import csv
import gzip
import io
import json
import logging
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tuning.errors import DatasetError
from tuning.row_format import row_format

logger = logging.getLogger(__name__)

# Parsing costs more than downloading: of a larger file the rest is counted, and the trainer reads every row anyway.
PARSED_BYTES = 32 << 20
_BLOCK_BYTES = 1 << 20

_Stream = IO[bytes] | gzip.GzipFile
_Reader = Callable[[_Stream, str], Iterator[tuple[Any, str]]]


@dataclass(frozen=True)
class FirstLook:
    """What a look at one file showed. `rows` is None where the format was left to the trainer."""

    rows: int | None
    formats: Mapping[str, int]
    complete: bool


def look_at(path: Path, name: str) -> FirstLook:
    """Count the rows of `path`, whose name will be `name`, and tell their formats.

    Raises DatasetError naming the file and the line of the first row that cannot be read.
    """
    plain = name.lower().removesuffix(".gz")
    reader = next((reader for extension, reader in _READERS.items() if plain.endswith(extension)), None)
    if reader is None:
        return FirstLook(None, {}, complete=False)
    try:
        with path.open("rb") if plain == name.lower() else gzip.open(path, "rb") as stream:
            return _count(reader, stream, name)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DatasetError(f"{name} is damaged: {error}", hint="download it again") from error


def _count(reader: _Reader, stream: _Stream, name: str) -> FirstLook:
    formats: Counter[str] = Counter()
    rows = 0
    for row, place in reader(stream, name):
        if not isinstance(row, Mapping):
            raise DatasetError(f"{name} {place} is {type(row).__name__}, not an object with named fields")
        rows += 1
        kind = row_format(row)
        formats[kind or f"the fields {', '.join(map(str, list(row)[:8]))}"] += 1
        if rows % 1000 == 0 and reader is _json_lines and stream.tell() > PARSED_BYTES:
            return FirstLook(rows + _count_lines(stream), dict(formats), complete=False)
    return FirstLook(rows, dict(formats), complete=True)


def _count_lines(stream: _Stream) -> int:
    lines, last = 0, b"\n"
    while block := stream.read(_BLOCK_BYTES):
        lines += block.count(b"\n")
        last = block[-1:]
    return lines + (last != b"\n")


def _json_lines(stream: _Stream, name: str) -> Iterator[tuple[Any, str]]:
    number = 0
    # readline and not iteration: tell() must know where we are.
    while line := stream.readline():
        number += 1
        if line.strip():
            yield _parse(line, f"{name} line {number}", first=number == 1), f"line {number}"


def _parse(line: bytes, place: str, *, first: bool) -> Any:
    try:
        return json.loads(line.decode("utf-8-sig" if first else "utf-8"))
    except UnicodeDecodeError as error:
        raise DatasetError(f"{place} is not UTF-8: its byte {error.start}", hint="save the file as UTF-8") from error
    except json.JSONDecodeError as error:
        raise DatasetError(
            f"{place} is not JSON: {error.msg} at column {error.colno}", hint="each line must be one JSON object"
        ) from error


def _json(stream: _Stream, name: str) -> Iterator[tuple[Any, str]]:
    text = stream.read(PARSED_BYTES + 1)
    if len(text) > PARSED_BYTES:
        logger.info("the rows of a large JSON file are left to the trainer file=%s", name)
        return
    try:
        content = json.loads(text.decode("utf-8-sig"))
    except ValueError:
        # Many datasets named .json hold one object a line.
        yield from _json_lines(io.BytesIO(text), name)
        return
    for number, row in enumerate(content if isinstance(content, list) else [content], 1):
        yield row, f"item {number}"


def _delimited(delimiter: str) -> _Reader:
    def read(stream: _Stream, name: str) -> Iterator[tuple[Any, str]]:
        reader = csv.DictReader(io.TextIOWrapper(stream, "utf-8-sig", newline=""), delimiter=delimiter, strict=True)
        try:
            for row in reader:
                if None in row or None in row.values():
                    raise DatasetError(f"{name} line {reader.line_num} has other fields than the header line")
                yield row, f"line {reader.line_num}"
        except (csv.Error, UnicodeDecodeError) as error:
            raise DatasetError(
                f"{name} line {reader.line_num} is not CSV: {error}", hint="save the file as UTF-8 with a header line"
            ) from error

    return read


_READERS: dict[str, _Reader] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _delimited(","),
    ".tsv": _delimited("\t"),
}
