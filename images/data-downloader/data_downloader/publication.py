"""How files get their final names: all of them, or after a crash still all of them.

A journal names every move before the first one is made; whoever starts next finishes what it finds.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_downloader.sources import Source
from data_downloader.web import Web
from tuning.errors import ConfigurationError, DatasetError, InputNotFound, ResourceExhausted, TuningError
from tuning.files import sha256_of, sync_folder, write_whole
from tuning.provenance import DatasetFile, DatasetManifest, read_manifest, write_manifest
from tuning.volumes import DATASET_MANIFEST, DOWNLOAD_STATE

logger = logging.getLogger(__name__)

_JOURNAL = "publishing"


def open_folder(folder: Path) -> Path:
    """The dot-directory of `folder` for all that is not yet data; a publication that was broken off is finished.

    Raises InputNotFound where the folder is missing, ResourceExhausted where it cannot be written.
    """
    state = folder / DOWNLOAD_STATE
    try:
        state.mkdir(exist_ok=True)
        (state / ".probe").touch()
        (state / ".probe").unlink()
    except FileNotFoundError:
        raise InputNotFound(f"the data folder {folder} does not exist", hint="mount a volume there") from None
    except OSError as error:
        raise ResourceExhausted(
            f"cannot write to the data folder {folder}: {error.strerror}", hint="mount a writable volume there"
        ) from error
    journal = state / _JOURNAL
    if journal.is_file():
        content = json.loads(journal.read_bytes())
        _carry_out(folder, content["moves"], DatasetManifest(tuple(DatasetFile(**file) for file in content["files"])))
    return state


def publish(folder: Path, manifest: DatasetManifest, files: Mapping[str, Path]) -> None:
    """Give each of `files` (name → where its bytes are) its name in `folder`, and write the manifest, last.

    What an earlier manifest lists and this one does not is removed: a trainer reads all that lies in the folder.
    """
    state = folder / DOWNLOAD_STATE
    moves = [[str(path.relative_to(state)), name] for name, path in files.items()]
    journal = {"moves": moves, "files": [vars(file) for file in manifest.files]}
    write_whole(state / _JOURNAL, json.dumps(journal).encode())
    _carry_out(folder, moves, manifest)


def _carry_out(folder: Path, moves: Sequence[Sequence[str]], manifest: DatasetManifest) -> None:
    state = folder / DOWNLOAD_STATE
    before = read_manifest(folder)
    touched = {folder}
    for source, name in moves:
        final = folder / name
        if (state / source).exists():
            final.parent.mkdir(parents=True, exist_ok=True)
            (state / source).replace(final)
            touched.add(final.parent)
    names = {file.name for file in manifest.files}
    for stale in [file for file in before.files if file.name not in names] if before else []:
        logger.info("removed a file of an earlier dataset file=%s", stale.name)
        (folder / stale.name).unlink(missing_ok=True)
    for parent in touched:
        sync_folder(parent)
    write_manifest(folder, manifest)
    kept = Path(DATASET_MANIFEST).name
    for path in sorted(state.rglob("*"), reverse=True):
        # The journal goes last: until then a restart repeats what is left.
        if path.name not in {kept, _JOURNAL}:
            path.rmdir() if path.is_dir() else path.unlink()
    (state / _JOURNAL).unlink(missing_ok=True)


def already_there(folder: Path, sources: Sequence[Source], web: Web) -> DatasetManifest | None:
    """The manifest of `folder`, if it holds exactly these sources, undamaged and unchanged at their servers."""
    try:
        manifest = read_manifest(folder)
    except DatasetError:
        return None
    if manifest is None or {file.source for file in manifest.files} != {source.key for source in sources}:
        return None
    for file in manifest.files:
        path = folder / file.name
        if not path.is_file() or path.stat().st_size != file.size_bytes or sha256_of(path) != file.sha256:
            return None
    by_key = {source.key: source for source in sources}
    if any(_is_other(by_key[file.source], file) for file in manifest.files):
        return None
    if any(_has_changed(by_key[file.source], file, web) for file in manifest.files):
        return None
    logger.info("the dataset is already there files=%d dataset=%s", len(manifest.files), manifest.digest)
    return manifest


def _is_other(source: Source, file: DatasetFile) -> bool:
    """Whether the user now expects another size or digest than the file has."""
    if source.unpack:
        return bool(source.sha256 or source.size_bytes is not None)
    return source.sha256 not in {"", file.sha256} or source.size_bytes not in {None, file.size_bytes}


def _has_changed(source: Source, file: DatasetFile, web: Web) -> bool:
    """Whether the server has another version now; what cannot be asked counts as unchanged."""
    if source.scheme not in {"http", "https"} or not (file.etag or file.last_modified):
        return False
    headers = {"If-None-Match": file.etag} if file.etag else {"If-Modified-Since": file.last_modified}
    try:
        with web.get(source, source.url, headers, accept=(200, 206, 304)) as answer:
            return answer.status != 304 and answer.headers.get("ETag") != file.etag
    except TuningError:
        # The bytes are here and undamaged; a signed URL may well have expired in the meantime.
        return False


def refuse_difference(manifest: DatasetManifest, lock: Path | None) -> None:
    """Raise DatasetError where `manifest` differs in names, sizes or digests from the one in the file `lock`."""
    if lock is None:
        return
    try:
        content: Mapping[str, Any] = json.loads(lock.read_bytes())
        locked = {file["name"]: (int(file["size_bytes"]), str(file["sha256"])) for file in content["files"]}
    except OSError as error:
        raise InputNotFound(
            f"cannot read the lock {lock}: {error.strerror}", hint="mount it, or unset DATA_LOCK"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"the lock {lock} is no dataset manifest: {error}", hint="use a manifest that was written"
        ) from error
    found = {file.name: (file.size_bytes, file.sha256) for file in manifest.files}
    differences = [
        f"{name} is missing" if name not in found else f"{name} is new" if name not in locked else f"{name} has changed"
        for name in sorted(locked.keys() | found.keys())
        if locked.get(name) != found.get(name)
    ]
    if differences:
        raise DatasetError(
            f"the dataset differs from the lock {lock}: {', '.join(differences[:5])}",
            hint="if the change is wanted, lock the new manifest",
        )
