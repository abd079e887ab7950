"""Find the dataset's files and read their rows, each with the place where it stands."""

import csv
import gzip
import io
import json
import logging
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tuning.errors import DatasetError, InputNotFound

logger = logging.getLogger(__name__)

_COMPRESSED = (".gz", ".zst")


@dataclass(frozen=True)
class Row:
    """One row as it was read, and where: `train.jsonl line 12`."""

    fields: Mapping[str, Any]
    place: str


def find_files(folder: Path, dataset_path: str = "") -> list[Path]:
    """The dataset's files, sorted by path: all that can be read in `folder`, or in `dataset_path` below it.

    Names that begin with a dot are left out, and files that are no dataset with a warning each. Raises InputNotFound
    where there is none.
    """
    root = folder / dataset_path.lstrip("/") if dataset_path else folder
    if not root.exists():
        raise InputNotFound(f"the dataset {root} does not exist", hint=f"the data volume is {folder}")
    if root.is_file():
        return [root]
    found = [
        path
        for path in sorted(root.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(root).parts)
    ]
    if not found:
        raise InputNotFound(
            f"the data folder {root} is empty", hint="did the data-downloader run, or is it a wrong volume?"
        )
    readable = [path for path in found if _format(path) in _READERS]
    if not readable:
        names = ", ".join(path.name for path in found[:5])
        raise InputNotFound(f"the data folder {root} has no dataset file, only {names}", hint=_hint())
    for path in found:
        if path not in readable:
            logger.warning("not a dataset file, left out file=%s", path.relative_to(root))
    return readable


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of one file. Raises DatasetError naming the file and the line that cannot be read."""
    reader = _READERS.get(_format(path))
    if reader is None:
        raise DatasetError(f"{path.name} is of no known format", hint=_hint())
    try:
        for fields, place in reader(path):
            if not isinstance(fields, Mapping):
                raise DatasetError(f"{path.name} {place} is {type(fields).__name__}, not an object with named fields")
            yield Row(fields, f"{path.name} {place}")
    except (EOFError, zlib.error, OSError) as error:
        raise DatasetError(f"{path.name} cannot be read: {error}", hint="check that the download is whole") from error


def _format(path: Path) -> str:
    """The extension that tells the format: `.jsonl` for train.jsonl and for train.jsonl.gz."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in _COMPRESSED else suffix


def _hint() -> str:
    return f"use one of {', '.join(sorted(_READERS))}; all but Parquet may be compressed ({', '.join(_COMPRESSED)})"


def _open(path: Path) -> IO[bytes]:
    """The plain bytes of a file, decompressed where its name says so."""
    match path.suffix.lower():
        case ".gz":
            return io.BufferedReader(gzip.GzipFile(path))
        case ".zst":
            import pyarrow

            return io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"))
        case _:
            return path.open("rb")


def _read_json_lines(path: Path) -> Iterator[tuple[Any, str]]:
    with _open(path) as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                yield json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8")), f"line {number}"
            except json.JSONDecodeError as error:
                raise DatasetError(
                    f"{path.name} line {number} is not JSON: {error.msg} at column {error.colno}",
                    hint="each line must be one JSON object",
                ) from error
            except UnicodeDecodeError as error:
                raise DatasetError(
                    f"{path.name} line {number} is not UTF-8: its byte {error.start} is 0x{line[error.start]:02x}",
                    hint="save the file as UTF-8",
                ) from error


def _read_json(path: Path) -> Iterator[tuple[Any, str]]:
    try:
        with _open(path) as stream:
            content = json.loads(stream.read().decode("utf-8-sig"))
    except ValueError:
        # Many datasets named .json hold one object a line; that reader also names the line of an error.
        yield from _read_json_lines(path)
        return
    for number, fields in enumerate(content if isinstance(content, list) else [content], 1):
        yield fields, f"item {number}"


def _read_csv(path: Path, delimiter: str = ",") -> Iterator[tuple[Any, str]]:
    try:
        with io.TextIOWrapper(_open(path), "utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, delimiter=delimiter, strict=True)
            for fields in reader:
                if None in fields or None in fields.values():
                    raise DatasetError(f"{path.name} line {reader.line_num} has other fields than the header line")
                yield fields, f"line {reader.line_num}"
    except (csv.Error, UnicodeDecodeError) as error:
        raise DatasetError(
            f"{path.name} is not CSV: {error}", hint="save the file as UTF-8 with a header line"
        ) from error


def _read_parquet(path: Path) -> Iterator[tuple[Any, str]]:
    # 0.2 s, for the one format that needs it.
    from pyarrow import ArrowException, parquet

    number = 0
    try:
        for batch in parquet.ParquetFile(path).iter_batches():
            for fields in batch.to_pylist():
                number += 1
                yield fields, f"row {number}"
    except ArrowException as error:
        raise DatasetError(
            f"{path.name} is not Parquet: {error}", hint="check that the download is the file itself"
        ) from error


_READERS: dict[str, Callable[[Path], Iterator[tuple[Any, str]]]] = {
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": lambda path: _read_csv(path, "\t"),
    ".parquet": _read_parquet,
}
