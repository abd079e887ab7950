"""All sources of a dataset into one folder: fetched and checked out of sight, then published together."""

import logging
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from data_downloader.archives import unpack
from data_downloader.checking import Checked, check
from data_downloader.crew import Crew, Fetching
from data_downloader.first_look import look_at
from data_downloader.hub import resolve_hub
from data_downloader.local_file import LocalCopy
from data_downloader.names import safe_name, tell_apart
from data_downloader.objects import ObjectTransfer
from data_downloader.oci import extract_data, resolve_image
from data_downloader.part import Part
from data_downloader.progress import Progress, Standing, readable
from data_downloader.publication import already_there, open_folder, publish, refuse_difference
from data_downloader.settings import Settings
from data_downloader.sources import Source, parse_sources
from data_downloader.transfer import Transfer
from data_downloader.web import Web
from tuning.errors import ConfigurationError, ResourceExhausted
from tuning.files import sha256_of
from tuning.provenance import DatasetFile, DatasetManifest
from tuning.retry import retry
from tuning.row_files import BadRow, refuse_rows

logger = logging.getLogger(__name__)

# Left free of the volume: what file systems keep for themselves, and our own state.
_SPARE_BYTES = 1 << 20


@dataclass(frozen=True)
class _Published:
    """A file that will be in the folder: where its bytes are now, the name it wants, and where it came from."""

    path: Path
    name: str
    sha256: str
    origin: Checked
    source: Source


def download_dataset(settings: Settings) -> Mapping[str, Any]:
    """Bring every source into the folder, or nothing: names appear when all bytes of all sources are checked.

    Raises the first cause that a source gives. Returns what the termination message says.
    """
    start = time.monotonic()
    sources = parse_sources(settings.urls)
    if not settings.allow_file and (local := next((s for s in sources if s.scheme == "file"), None)):
        raise ConfigurationError(
            f"DATA_URLS: {local.shown} is not allowed", hint="set DATA_ALLOW_FILE=true, for debugging only"
        )
    state = open_folder(settings.folder)
    web = Web(settings)
    manifest = already_there(settings.folder, sources, web)
    if manifest is None:
        logger.info("downloading sources=%d folder=%s", len(sources), settings.folder)
        manifest = _Download(settings, state, web).run(sources)
    size = sum(file.size_bytes for file in manifest.files)
    seconds = time.monotonic() - start
    figures = f"files={len(manifest.files)} bytes={size} seconds={seconds:.1f} rate={readable(size / seconds)}/s"
    logger.info("downloaded %s dataset=%s", figures, manifest.digest)
    count = "1 file" if len(manifest.files) == 1 else f"{len(manifest.files)} files"
    return {"message": f"downloaded {count}, {size} bytes", "datasetDigest": manifest.digest}


class _Download:
    """One download into the folder of hidden state."""

    def __init__(self, settings: Settings, state: Path, web: Web) -> None:
        self._settings = settings
        self._state = state
        self._web = web
        self._lock = threading.Lock()
        self._files: list[Fetching] = []
        self._checked: dict[str, Checked] = {}
        self._announced: dict[Part, int] = {}
        self._crew = Crew(self._files, settings.connections, self._check)

    def run(self, sources: Sequence[Source]) -> DatasetManifest:
        """Fetch, check, look, publish."""
        attempts = self._settings.attempts
        targets = {s.key: retry(partial(self._resolve, s), attempts=attempts) for s in sources}
        for found in targets.values():
            self._files += [self._fetching(target, url) for target, url in found]
        self._remove_leftovers()
        progress = Progress(self._standing, self._settings.progress_seconds)
        try:
            self._crew.run(progress.look, self._settings.deadline_seconds)
        finally:
            progress.end()
            for file in self._files:
                file.part.close()
        published = [
            content
            for source in sources
            for content in self._contents(source, [target for target, _ in targets[source.key]])
        ]
        names = tell_apart(content.name for content in published)
        manifest = DatasetManifest(tuple(map(_record, published, names)))
        refuse_difference(manifest, self._settings.lock)
        paths = {name: content.path for content, name in zip(published, names, strict=True)}
        self._look(paths)
        publish(self._settings.folder, manifest, paths)
        return manifest

    def _look(self, paths: Mapping[str, Path]) -> None:
        """Say what a first look at the files shows, and refuse rows that cannot be read, unless told to skip them."""
        left = []
        bad: list[BadRow] = []
        for name, path in paths.items():
            seen = look_at(path, name)
            bad += seen.bad_rows
            if seen.rows is None:
                left.append(name)
                continue
            formats = ", ".join(f"{count} of {kind}" for kind, count in seen.formats.items())
            extent = "" if seen.complete else " (the first part; the trainer reads all)"
            logger.info("looked at file=%s rows=%d formats=%s%s", name, seen.rows, formats or "none", extent)
        if left:
            logger.info("rows are left to the trainer files=%d the_first=%s", len(left), left[0])
        if self._settings.bad_rows == "skip":
            for row in bad[:10]:
                logger.warning("the trainer will skip this row: %s", row)
        else:
            refuse_rows(bad)

    def _resolve(self, source: Source) -> list[tuple[Source, str]]:
        """What has to be fetched for `source`, each with the URL of its bytes."""
        match source.scheme:
            case "hf":
                return resolve_hub(source, self._web, self._settings.hub_endpoint.rstrip("/"))
            case "oci":
                return resolve_image(source, self._web, self._settings.docker_config)
            case _:
                return [(source, source.url)]

    def _fetching(self, target: Source, url: str) -> Fetching:
        part = Part(self._state, target.key)
        if target.scheme == "file":
            return LocalCopy(target, part, self._reserve)
        options: dict[str, Any] = {
            "attempts": self._settings.attempts,
            "pause": self._crew.pause,
            "reserve": self._reserve,
        }
        if target.scheme in {"s3", "gs", "az"}:
            return ObjectTransfer(target, part, **options)
        idle = self._settings.idle_timeout_seconds
        return Transfer(target, url, part, self._web, idle_timeout_seconds=idle, **options)

    def _remove_leftovers(self) -> None:
        """Parts of sources that are no longer asked for."""
        kept = {file.source.key for file in self._files}
        for path in self._state.iterdir():
            if path.suffix in {".part", ".state", ".decoded"} and path.stem not in kept:
                path.unlink()

    def _reserve(self, file: Fetching, size: int) -> None:
        """Refuse before the first byte what the volume cannot hold, together with all else that is on its way."""
        with self._lock:
            self._announced[file.part] = size
            missing = sum(size - part.received for part, size in self._announced.items())
            free = shutil.disk_usage(self._settings.folder).free
        if missing + _SPARE_BYTES > free:
            raise ResourceExhausted(
                f"the dataset needs {missing} more bytes in {self._settings.folder}, {free} are free",
                hint="give the data volume more space",
            )

    def _check(self, file: Fetching) -> None:
        checked = check(file.source, file.part)
        with self._lock:
            self._checked[file.source.key] = checked
        logger.info("fetched bytes=%d url=%s", checked.size_bytes, file.source.shown)

    def _standing(self) -> Standing:
        heads = [file.part.head for file in self._files]
        sizes = [head.size_bytes if head else None for head in heads]
        total = None if None in sizes else sum(size or 0 for size in sizes)
        return Standing(len(self._checked), len(heads), sum(file.part.received for file in self._files), total)

    def _contents(self, source: Source, targets: Sequence[Source]) -> list[_Published]:
        """What `source` brings into the folder, now that all its bytes are here."""
        brought = [self._checked[target.key] for target in targets]
        folder = self._state / f"{source.key}.files"
        if source.scheme == "oci":
            paths = extract_data(source, [(layer.path, layer.name) for layer in brought], folder)
            return [_member(path, folder, brought[-1], source) for path in paths]
        if source.unpack:
            return [
                _member(path, folder / target.source.key, target, source)
                for target in brought
                for path in unpack(target.path, target.name, folder / target.source.key)
            ]
        return [_Published(item.path, item.name, item.sha256, item, source) for item in brought]


def _member(path: Path, folder: Path, origin: Checked, source: Source) -> _Published:
    name = "/".join(safe_name(part) for part in path.relative_to(folder).parts)
    return _Published(path, name, sha256_of(path), origin, source)


def _record(file: _Published, name: str) -> DatasetFile:
    headers = file.origin.head.headers
    return DatasetFile(
        name=name,
        url=file.origin.source.shown,
        size_bytes=file.path.stat().st_size,
        sha256=file.sha256,
        etag=headers.get("ETag", ""),
        last_modified=headers.get("Last-Modified", ""),
        media_type=headers.get("Content-Type", ""),
        fetched_at=datetime.now(UTC).isoformat(timespec="seconds"),
        source=file.source.key,
    )
