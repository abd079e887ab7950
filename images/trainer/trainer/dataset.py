"""The whole dataset, read and checked before anything costly is loaded."""

import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.rows import find_files, read_rows
from trainer.samples import Sample, parse_sample
from tuning.errors import DatasetError
from tuning.provenance import read_manifest

DEFAULT_SHUFFLE_SEED = 42

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dataset:
    """The samples to learn from, those held out for evaluation, and the digest of what was downloaded."""

    train: Sequence[Sample]
    held_out: Sequence[Sample]
    digest: str


def read_dataset(folder: Path, section: Mapping[str, Any]) -> Dataset:
    """Read every file of the dataset in `folder`, as the DatasetConfig `section` says.

    Raises InputNotFound or DatasetError naming the file, and the row, that cannot be learnt from.
    """
    samples: list[Sample] = []
    for path in find_files(folder, section.get("dataset_path") or ""):
        found = [parse_sample(row) for row in read_rows(path)]
        logger.info(
            "read file=%s rows=%d", path.relative_to(folder) if path.is_relative_to(folder) else path, len(found)
        )
        samples += found
    if not samples:
        raise DatasetError(f"the dataset in {folder} has no rows", hint="check the files; all of them are empty")
    if section.get("shuffle_dataset", True):
        random.Random(section.get("shuffle_seed", DEFAULT_SHUFFLE_SEED)).shuffle(samples)  # noqa: S311 - not a secret
    share = section.get("train_test_split", 1)
    count = round(len(samples) * share) if share < 1 else len(samples)
    if count == 0 or (share < 1 and count == len(samples)):
        raise DatasetError(
            f"train_test_split {share} of {len(samples)} rows leaves one side empty", hint="add rows, or set it to 1"
        )
    manifest = read_manifest(folder)
    return Dataset(samples[:count], samples[count:], manifest.digest if manifest else "")
