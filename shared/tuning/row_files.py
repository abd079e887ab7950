"""The rows of a dataset's text files (JSON Lines, JSON, CSV, TSV, plain text), each with the place where it stands.

A row that cannot be read is a value too, so that a reader can go on behind it. Nothing here holds more than one row,
except for `.json`, which is one document.
"""

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, NamedTuple

from tuning.errors import DatasetError

# A row is a conversation or a document, not a dataset: beyond this, a line feed is missing.
LONGEST_ROW_BYTES = 64 << 20


# Both are named tuples, which are made four times faster than frozen dataclasses: there is one of each for every row.
class Place(NamedTuple):
    """Where a row stands: `train.jsonl line 12`."""

    file: str
    where: str

    def __str__(self) -> str:
        return f"{self.file} {self.where}"


class Row(NamedTuple):
    """One row as it was read."""

    fields: Mapping[str, Any]
    place: Place


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be learnt from: where it stands, what is wrong (`is not JSON`), what to do."""

    place: Place
    problem: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.place} {self.problem}"


def refuse_rows(bad_rows: Sequence[BadRow]) -> None:
    """Raise one DatasetError that lists the first ten of `bad_rows`; return if there is none."""
    if not bad_rows:
        return
    if len(bad_rows) == 1:
        raise DatasetError(str(bad_rows[0]), hint=bad_rows[0].hint or _SKIP_HINT)
    listed = "; ".join(map(str, bad_rows[:_LISTED]))
    more = f"; and {len(bad_rows) - _LISTED} more" if len(bad_rows) > _LISTED else ""
    raise DatasetError(
        f"{len(bad_rows)} rows cannot be learnt from: {listed}{more}", hint=bad_rows[0].hint or _SKIP_HINT
    )


_LISTED = 10
_SKIP_HINT = "mend them, or set DatasetConfig.on_bad_rows: skip"

Reader = Callable[[IO[bytes], str], Iterator[Row | BadRow]]


def checked_row(fields: object, place: Place) -> Row | BadRow:
    """The row of `fields`, which must have names."""
    if isinstance(fields, Mapping):
        return Row(fields, place)
    return BadRow(place, f"is {type(fields).__name__}, not an object with named fields")


def read_json_lines(stream: IO[bytes], file: str) -> Iterator[Row | BadRow]:
    """One JSON object a line (jsonlines.org); empty lines are left out. `stream.tell()` keeps up with the rows."""
    number = 0
    while line := stream.readline(LONGEST_ROW_BYTES + 1):
        number += 1
        place = Place(file, f"line {number}")
        if len(line) > LONGEST_ROW_BYTES:
            raise DatasetError(
                f"{place} is longer than {LONGEST_ROW_BYTES >> 20} MiB",
                hint="write one row a line; a JSON array belongs into a file named .json",
            )
        if line.strip():
            yield _parse_line(line, place, first=number == 1)


def _parse_line(line: bytes, place: Place, *, first: bool) -> Row | BadRow:
    try:
        # Without its end, beyond which a column would say nothing.
        fields = parse_json(line.rstrip().decode("utf-8-sig" if first else "utf-8"))
    except UnicodeDecodeError as error:
        return _not_utf8(place, line, error.start)
    except json.JSONDecodeError as error:
        problem = f"is not JSON: {error.msg} at column {error.colno}"
        return BadRow(place, problem, "each line must be one JSON object")
    except (_DuplicateKey, RecursionError) as error:
        return BadRow(place, str(error))
    if isinstance(fields, list) and first:
        return BadRow(place, "is list, not an object with named fields", "name a file with one JSON array .json")
    return checked_row(fields, place)


def _not_utf8(place: Place, line: bytes, offset: int) -> BadRow:
    return BadRow(place, f"is not UTF-8: its byte {offset} is 0x{line[offset]:02x}", "save the file as UTF-8")


class _DuplicateKey(ValueError):
    pass


def parse_json(text: str) -> Any:
    """The content of a JSON text in which no name stands twice. Raises ValueError."""
    return _DECODER.decode(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _DuplicateKey(f"has the field {twice!r} twice")
    return fields


# One for all rows: json.loads would make a decoder for each.
_DECODER = json.JSONDecoder(object_pairs_hook=_unique)


def read_json(stream: IO[bytes], file: str) -> Iterator[Row | BadRow]:
    """The items of a JSON array, one object, or one object a line, as many datasets named .json are written."""
    text = stream.read()
    try:
        content = parse_json(text.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise DatasetError(
            f"{file} line {line} is not UTF-8: byte {error.start} of the file is 0x{text[error.start]:02x}",
            hint="save the file as UTF-8",
        ) from error
    except json.JSONDecodeError as error:
        if error.msg != "Extra data" and not _holds_lines(text):
            problem = f"{error.msg} at line {error.lineno} column {error.colno}" if text.strip() else "it is empty"
            raise DatasetError(f"{file} is not JSON: {problem}", hint="check that the file is whole") from error
        for number, line_bytes in enumerate(text.split(b"\n"), 1):
            if line_bytes.strip():
                yield _parse_line(line_bytes, Place(file, f"line {number}"), first=number == 1)
        return
    except (_DuplicateKey, RecursionError) as error:
        raise DatasetError(f"{file}: an object {error}") from error
    for number, fields in enumerate(content if isinstance(content, list) else [content], 1):
        yield checked_row(fields, Place(file, f"item {number}"))


def _holds_lines(text: bytes) -> bool:
    """Whether the first line is an object of its own."""
    try:
        return isinstance(json.loads(text.removeprefix(b"\xef\xbb\xbf").lstrip().split(b"\n", 1)[0]), dict)
    except ValueError:
        return False


def delimited_reader(delimiter: str) -> Reader:
    """A reader of CSV (RFC 4180) with a header line."""

    def read(stream: IO[bytes], file: str) -> Iterator[Row | BadRow]:
        # The default of 128 KiB is less than many a document.
        csv.field_size_limit(LONGEST_ROW_BYTES)
        undecodable: list[BadRow] = []
        reader = csv.reader(_decoded(stream, file, undecodable), delimiter=delimiter, strict=True)
        header: list[str] | None = None
        while True:
            start = reader.line_num + 1
            try:
                values = next(reader, None)
            except csv.Error as error:
                yield BadRow(Place(file, f"line {start}"), f"is not CSV: {error}", "check its quotes")
                continue
            yield from undecodable
            undecodable.clear()
            if values is None:
                return
            if header is None:
                header = values
                if len(set(header)) != len(header):
                    raise DatasetError(f"{file} line 1: a column's name stands twice", hint="give each its own name")
            elif values:
                place = Place(file, f"line {reader.line_num}")
                if len(values) == len(header):
                    yield Row(dict(zip(header, values, strict=True)), place)
                else:
                    problem = f"has other fields than the header line: {len(values)} and not {len(header)}"
                    yield BadRow(place, problem, "quote fields that hold the delimiter or a line feed")

    return read


def _decoded(stream: IO[bytes], file: str, undecodable: list[BadRow]) -> Iterator[str]:
    for number, line in enumerate(stream, 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            undecodable.append(_not_utf8(Place(file, f"line {number}"), line, error.start))
            # The count of lines goes on; csv leaves an empty line out.
            yield "\n"


def read_text_lines(stream: IO[bytes], file: str) -> Iterator[Row | BadRow]:
    """Plain text: each line is a row with the field `text`; empty lines are left out."""
    number = 0
    while line := stream.readline(LONGEST_ROW_BYTES + 1):
        number += 1
        place = Place(file, f"line {number}")
        if len(line) > LONGEST_ROW_BYTES:
            raise DatasetError(f"{place} is longer than {LONGEST_ROW_BYTES >> 20} MiB", hint="break it into lines")
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip("\r\n")
        except UnicodeDecodeError as error:
            yield _not_utf8(place, line, error.start)
            continue
        if text.strip():
            yield Row({"text": text}, place)


TEXT_READERS: Mapping[str, Reader] = {
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".json": read_json,
    ".csv": delimited_reader(","),
    ".tsv": delimited_reader("\t"),
    ".txt": read_text_lines,
}
