"""All sources of a dataset into one folder, and the manifest that says what came."""

import logging
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from data_downloader.names import name_from_url, tell_apart
from data_downloader.settings import Settings
from data_downloader.transfer import Transfer
from tuning.errors import ConfigurationError, DatasetError, InputNotFound, ResourceExhausted
from tuning.files import sync_folder
from tuning.provenance import DatasetFile, DatasetManifest, write_manifest
from tuning.redaction import printable_url
from tuning.retry import retry
from tuning.volumes import DOWNLOAD_STATE

logger = logging.getLogger(__name__)


def download_dataset(settings: Settings) -> Mapping[str, Any]:
    """Bring every URL into the folder, whole, and write the manifest.

    A name appears in the folder only when all its bytes are there. Returns what the termination message says.
    """
    start = time.monotonic()
    urls = list(dict.fromkeys(settings.urls))
    check_urls(urls)
    parts = _make_folder(settings.folder)
    names = tell_apart(name_from_url(url) for url in urls)
    logger.info("downloading files=%d folder=%s", len(urls), settings.folder)
    with requests.Session() as session:
        files = [fetch(url, name, parts, session, settings) for url, name in zip(urls, names, strict=True)]
    manifest = DatasetManifest(tuple(files))
    write_manifest(settings.folder, manifest)
    size = sum(file.size_bytes for file in files)
    seconds = time.monotonic() - start
    logger.info("downloaded files=%d bytes=%d seconds=%.1f dataset=%s", len(files), size, seconds, manifest.digest)
    return {"message": f"downloaded {len(files)} files, {size} bytes", "datasetDigest": manifest.digest}


def check_urls(urls: Sequence[str]) -> None:
    """Raise ConfigurationError for the first URL that is no http(s) URL with a host."""
    for url in urls:
        try:
            parts = urlsplit(url)
            well_formed = parts.scheme in {"http", "https"} and bool(parts.hostname)
        except ValueError:
            well_formed = False
        if not well_formed:
            raise ConfigurationError(
                f"DATA_URLS: {printable_url(url)} is not an http or https URL", hint="write https://host/path"
            )


def fetch(url: str, name: str, parts: Path, session: requests.Session, settings: Settings) -> DatasetFile:
    """Download `url`; its name appears beside the folder `parts` only when every byte is there."""
    part = parts / f"{name}.part"
    try:
        with part.open("wb") as stream:
            transfer = Transfer(url, stream, (settings.connect_timeout_seconds, settings.idle_timeout_seconds))
            retry(lambda: transfer.advance(session), attempts=settings.attempts)
            size = stream.tell()
        if size == 0:
            raise DatasetError(f"{printable_url(url)} is empty", hint="check that the URL names the dataset")
        final = parts.parent / name
        part.replace(final)
        sync_folder(final.parent)
    finally:
        part.unlink(missing_ok=True)
    logger.info("downloaded file=%s bytes=%d url=%s", name, size, printable_url(url))
    return DatasetFile(
        name=name,
        url=printable_url(url),
        size_bytes=size,
        sha256=transfer.digest.hexdigest(),
        etag=transfer.headers.get("ETag", ""),
        last_modified=transfer.headers.get("Last-Modified", ""),
        media_type=transfer.headers.get("Content-Type", ""),
        fetched_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _make_folder(folder: Path) -> Path:
    parts = folder / DOWNLOAD_STATE
    try:
        parts.mkdir(exist_ok=True)
    except FileNotFoundError:
        raise InputNotFound(f"the data folder {folder} does not exist", hint="mount a volume there") from None
    except OSError as error:
        raise ResourceExhausted(
            f"cannot write to the data folder {folder}: {error.strerror}", hint="mount a writable volume there"
        ) from error
    return parts
