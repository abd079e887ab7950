"""The whole dataset, read and checked before anything costly is loaded."""

import logging
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.rows import find_files, read_rows
from trainer.samples import Columns, Sample, Tokens, parse_sample
from tuning.errors import DatasetError
from tuning.provenance import read_manifest
from tuning.row_files import BadRow, refuse_rows

DEFAULT_SHUFFLE_SEED = 42
_SHOWN = 10

logger = logging.getLogger(__name__)


@dataclass
class FileReport:
    """What became of one file's rows: how many of each format, and which cannot be learnt from."""

    name: str
    formats: Counter[str] = field(default_factory=Counter)
    bad_rows: list[BadRow] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """All rows, good and bad."""
        return self.formats.total() + len(self.bad_rows)


@dataclass(frozen=True)
class Dataset:
    """The samples to learn from, those held out for evaluation, their files, and the digest of what was downloaded."""

    train: Sequence[Sample]
    held_out: Sequence[Sample]
    files: Sequence[FileReport]
    digest: str


def read_dataset(folder: Path, section: Mapping[str, Any], text_field: str = "text") -> Dataset:
    """Read every file of the dataset in `folder`, as the DatasetConfig `section` says.

    `text_field` holds the text of rows in no other format. Raises InputNotFound or DatasetError naming the file, and
    the rows, that cannot be learnt from.
    """
    columns = Columns(
        messages=section.get("messages_column") or "",
        prompt=section.get("context_column") or "",
        completion=section.get("response_column") or "",
        text=text_field,
    )
    samples: list[Sample] = []
    files = []
    for path in find_files(folder, section.get("dataset_path") or "", section.get("dataset_extension") or ""):
        report, found = _read_file(path, str(path.relative_to(folder)), columns)
        files.append(report)
        samples += found
    bad = [row for report in files for row in report.bad_rows]
    if section.get("on_bad_rows", "fail") == "skip":
        for row in bad[:_SHOWN]:
            logger.warning("skipped a row: %s", row)
    else:
        refuse_rows(bad)
    if not samples:
        reason = f"all {len(bad)} rows were skipped" if bad else "all of its files are empty"
        raise DatasetError(f"the dataset in {folder} has no rows to learn from", hint=f"{reason}; check the files")
    if any(isinstance(sample, Tokens) for sample in samples):
        logger.warning("rows with input_ids go to the library as they are: nothing in them is checked")
    if section.get("shuffle_dataset", True):
        random.Random(section.get("shuffle_seed", DEFAULT_SHUFFLE_SEED)).shuffle(samples)  # noqa: S311 - not a secret
    share = section.get("train_test_split", 1)
    count = round(len(samples) * share) if share < 1 else len(samples)
    if count == 0 or (share < 1 and count == len(samples)):
        raise DatasetError(
            f"train_test_split {share} of {len(samples)} rows leaves one side empty", hint="add rows, or set it to 1"
        )
    manifest = read_manifest(folder)
    return Dataset(samples[:count], samples[count:], files, manifest.digest if manifest else "")


def _read_file(path: Path, name: str, columns: Columns) -> tuple[FileReport, list[Sample]]:
    report = FileReport(name)
    samples: list[Sample] = []
    for row in read_rows(path, name):
        parsed = row if isinstance(row, BadRow) else parse_sample(row, columns)
        if isinstance(parsed, BadRow):
            report.bad_rows.append(parsed)
        else:
            kind, sample = parsed
            report.formats[str(kind)] += 1
            samples.append(sample)
    formats = ", ".join(f"{count} of {kind}" for kind, count in report.formats.items()) or "none"
    level = logging.INFO if report.rows else logging.WARNING
    logger.log(
        level,
        "read file=%s rows=%d used=%d bad=%d formats=%s",
        name,
        report.rows,
        len(samples),
        len(report.bad_rows),
        formats,
    )
    return report, samples
