"""Find the dataset's files and read their rows, each with the place where it stands."""

import gzip
import io
import logging
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from tuning.errors import DatasetError, InputNotFound
from tuning.row_files import TEXT_READERS, BadRow, Place, Row, checked_row

logger = logging.getLogger(__name__)

_COMPRESSED = (".gz", ".zst")
_GLOB = "*?["


def find_files(folder: Path, dataset_path: str = "", extension: str = "") -> list[Path]:
    """The dataset's files, sorted by path: all that can be read in `folder`, or in `dataset_path` below it.

    `dataset_path` is a file, a folder or a glob; with `extension` only files of this format are taken. Names that begin
    with a dot are left out, and files that are no dataset with a warning each. Raises InputNotFound where there is
    none.
    """
    wanted = dataset_path
    if Path(wanted).is_absolute():
        # The data folder itself may be part of what the user wrote: /data/train.jsonl.
        wanted = str(Path(wanted).relative_to(folder)) if Path(wanted).is_relative_to(folder) else wanted.lstrip("/")
    root = folder / wanted
    if any(mark in wanted for mark in _GLOB):
        found = [path for path in sorted(folder.glob(wanted)) if path.is_file()]
    elif not root.exists():
        raise InputNotFound(f"the dataset {root} does not exist", hint=f"the data volume is {folder}")
    else:
        found = [root] if root.is_file() else [path for path in sorted(root.rglob("*")) if path.is_file()]
    found = [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    if not found:
        raise InputNotFound(
            f"the data folder {root} is empty", hint="did the data-downloader run, or is it a wrong volume?"
        )
    formats = {f".{extension.lstrip('.').lower()}"} if extension else set(_READERS)
    readable = [path for path in found if _format(path) in formats & set(_READERS)]
    if not readable:
        names = ", ".join(path.name for path in found[:5])
        raise InputNotFound(f"the data folder {root} has no dataset file, only {names}", hint=_hint())
    for path in found:
        if path not in readable:
            logger.warning("not a dataset file, left out file=%s", path.relative_to(folder))
    return readable


def read_rows(path: Path, name: str) -> Iterator[Row | BadRow]:
    """The rows of one file, which is called `name` in their places.

    Raises DatasetError where the file, and not only one of its rows, cannot be read.
    """
    kind = _format(path)
    try:
        if kind in _COLUMNAR:
            for number, fields in enumerate(_COLUMNAR[kind](path, name), 1):
                yield checked_row(fields, Place(name, f"row {number}"))
        else:
            with _open(path) as stream:
                yield from TEXT_READERS[kind](stream, name)
    except (EOFError, zlib.error, OSError) as error:
        raise DatasetError(f"{name} cannot be read: {error}", hint="check that the download is whole") from error


def _format(path: Path) -> str:
    """The extension that tells the format: `.jsonl` for train.jsonl and for train.jsonl.gz."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in _COMPRESSED else suffix


def _hint() -> str:
    formats = ", ".join(sorted(_READERS))
    return f"use one of {formats}; all but .parquet and .arrow may be compressed ({', '.join(_COMPRESSED)})"


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


def _read_parquet(path: Path, name: str) -> Iterator[object]:
    # 0.2 s, for the one format that needs it.
    from pyarrow import ArrowException, parquet

    try:
        for batch in parquet.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
    except ArrowException as error:
        raise _other_format(name, "Parquet", error) from error


def _read_arrow(path: Path, name: str) -> Iterator[object]:
    """An Arrow IPC file, or the stream that the library `datasets` writes."""
    import pyarrow

    try:
        with pyarrow.memory_map(str(path)) as source:
            try:
                file = pyarrow.ipc.open_file(source)
                batches = (file.get_batch(number) for number in range(file.num_record_batches))
            except pyarrow.ArrowInvalid:
                source.seek(0)
                batches = iter(pyarrow.ipc.open_stream(source))
            for batch in batches:
                yield from batch.to_pylist()
    except pyarrow.ArrowException as error:
        raise _other_format(name, "Arrow", error) from error


def _other_format(name: str, format_name: str, error: Exception) -> DatasetError:
    return DatasetError(
        f"{name} is not {format_name}: {error}", hint="check that the download is the file itself and whole"
    )


_COLUMNAR: dict[str, Callable[[Path, str], Iterator[object]]] = {".parquet": _read_parquet, ".arrow": _read_arrow}
_READERS = {*TEXT_READERS, *_COLUMNAR}
