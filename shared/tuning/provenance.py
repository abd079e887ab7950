"""What went in: the manifest of the dataset, written by the data-downloader and read by the trainer."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from tuning.errors import DatasetError
from tuning.files import write_json
from tuning.volumes import DATASET_MANIFEST


@dataclass(frozen=True)
class DatasetFile:
    """One file of the dataset and where it came from. `url` is in its printable form."""

    name: str
    url: str
    size_bytes: int
    sha256: str
    etag: str = ""
    last_modified: str = ""
    media_type: str = ""
    fetched_at: str = ""
    # Stands for the source over restarts: the start of a hash of its URL.
    source: str = ""


@dataclass(frozen=True)
class DatasetManifest:
    """Everything that was downloaded, in the order of the URLs."""

    files: tuple[DatasetFile, ...]

    @property
    def digest(self) -> str:
        """A digest of the content: `sha256:` of the sorted names and digests; where they came from is left out."""
        lines = sorted(f"{file.sha256}  {file.name}\n" for file in self.files)
        return "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()


def write_manifest(data: Path, manifest: DatasetManifest) -> None:
    """Put `manifest` into the dot-directory of the folder `data`, whole."""
    path = data / DATASET_MANIFEST
    path.parent.mkdir(exist_ok=True)
    write_json(path, {"digest": manifest.digest, "files": [vars(file) for file in manifest.files]})


def read_manifest(data: Path) -> DatasetManifest | None:
    """The manifest of the folder `data`; None where the data came in another way.

    Raises DatasetError for a damaged one.
    """
    path = data / DATASET_MANIFEST
    try:
        content = json.loads(path.read_bytes())
        return DatasetManifest(tuple(DatasetFile(**file) for file in content["files"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path} is damaged: {error}", hint="remove it and download the dataset again") from error
