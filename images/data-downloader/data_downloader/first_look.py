"""A first look at the data, before a GPU is touched: how many rows, of which format, and does each line parse.

Parquet and Arrow need a library of 170 MB; their rows are left to the trainer.
"""

import gzip
import io
import logging
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tuning.errors import DatasetError
from tuning.row_files import TEXT_READERS, BadRow, Reader, read_json, read_json_lines
from tuning.row_format import row_format

logger = logging.getLogger(__name__)

# Parsing costs more than downloading: of a larger file the rest is counted, and the trainer reads every row anyway.
PARSED_BYTES = 32 << 20
# Of a file that is something else altogether, each line is a bad row; so many tell enough.
MOST_BAD_ROWS = 1000
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class FirstLook:
    """What a look at one file showed. `rows` is None where the format was left to the trainer."""

    rows: int | None
    formats: Mapping[str, int]
    complete: bool
    bad_rows: tuple[BadRow, ...] = ()


_LEFT_TO_THE_TRAINER = FirstLook(None, {}, complete=False)


def look_at(path: Path, name: str) -> FirstLook:
    """Count the rows of `path`, whose name will be `name`, tell their formats and which cannot be read.

    Raises DatasetError for a file that cannot be read at all.
    """
    plain = name.lower().removesuffix(".gz")
    reader = TEXT_READERS.get(Path(plain).suffix)
    if reader is None:
        return _LEFT_TO_THE_TRAINER
    try:
        with path.open("rb") if plain == name.lower() else gzip.open(path, "rb") as stream:
            # A GzipFile reads as IO[bytes] does.
            return _count_document(stream, name) if reader is read_json else _count(reader, stream, name)  # type: ignore[arg-type]
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DatasetError(f"{name} is damaged: {error}", hint="download it again") from error


def _count_document(stream: IO[bytes], name: str) -> FirstLook:
    """A JSON document is parsed in memory, and so only if it is small."""
    text = stream.read(PARSED_BYTES + 1)
    if len(text) > PARSED_BYTES:
        logger.info("the rows of a large JSON file are left to the trainer file=%s", name)
        return _LEFT_TO_THE_TRAINER
    return _count(read_json, io.BytesIO(text), name)


def _count(reader: Reader, stream: IO[bytes], name: str) -> FirstLook:
    formats: Counter[str] = Counter()
    bad: list[BadRow] = []
    rows = 0
    for row in reader(stream, name):
        if isinstance(row, BadRow):
            bad.append(row)
            if len(bad) == MOST_BAD_ROWS:
                return FirstLook(rows, dict(formats), False, tuple(bad))
            continue
        rows += 1
        kind = row_format(row.fields)
        formats[kind or f"the fields {', '.join(map(str, list(row.fields)[:8]))}"] += 1
        if rows % 1000 == 0 and reader is read_json_lines and stream.tell() > PARSED_BYTES:
            return FirstLook(rows + _count_lines(stream), dict(formats), False, tuple(bad))
    return FirstLook(rows, dict(formats), True, tuple(bad))


def _count_lines(stream: IO[bytes]) -> int:
    lines, last = 0, b"\n"
    while block := stream.read(_BLOCK_BYTES):
        lines += block.count(b"\n")
        last = block[-1:]
    return lines + (last != b"\n")
