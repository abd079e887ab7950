"""Turn files into one reproducible tar layer, streamed straight from them. Knows nothing of registries."""

import hashlib
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pusher.blob import Blob
from tuning.errors import TrainingFailed

MEDIA_TYPE = "application/vnd.oci.image.layer.v1.tar"

_BLOCK_BYTES = 1 << 20
_LARGEST_USTAR_BYTES = 8 * 1024**3 - 1


@dataclass(frozen=True)
class Entry:
    """One file of the layer: the name it gets in the image, where its bytes are, and how many."""

    name: str
    path: Path
    size_bytes: int


def adapter_layer(results: Path, names: Sequence[str]) -> Blob:
    """The layer `/data/<name>` of the files `names` in `results`.

    The same bytes on any machine: entries sorted, times and owners zero, modes fixed, nothing compressed (weights do
    not compress). The digest costs one pass over the files.
    """
    entries = tuple(Entry(f"data/{name}", results / name, (results / name).stat().st_size) for name in sorted(names))
    digest = hashlib.sha256()
    size = 0
    for block in _blocks(entries):
        digest.update(block)
        size += len(block)
    identity = f"sha256:{digest.hexdigest()}"
    return Blob(MEDIA_TYPE, identity, size, lambda: _blocks(entries), diff_id=identity)


def _blocks(entries: Sequence[Entry]) -> Iterator[bytes]:
    folder = tarfile.TarInfo("data/")
    folder.type = tarfile.DIRTYPE
    folder.mode = 0o755
    yield folder.tobuf(tarfile.USTAR_FORMAT)
    total = tarfile.BLOCKSIZE
    for entry in entries:
        header = tarfile.TarInfo(entry.name)
        header.size = entry.size_bytes
        header.mode = 0o644
        # ustar ends at 8 GiB; GNU's base-256 sizes go on, and every reader knows them.
        large = entry.size_bytes > _LARGEST_USTAR_BYTES
        yield (head := header.tobuf(tarfile.GNU_FORMAT if large else tarfile.USTAR_FORMAT))
        yield from _content(entry)
        padding = -entry.size_bytes % tarfile.BLOCKSIZE
        if padding:
            yield bytes(padding)
        total += len(head) + entry.size_bytes + padding
    yield bytes(2 * tarfile.BLOCKSIZE + -(total + 2 * tarfile.BLOCKSIZE) % tarfile.RECORDSIZE)


def _content(entry: Entry) -> Iterator[bytes]:
    remaining = entry.size_bytes
    with entry.path.open("rb") as stream:
        while remaining and (block := stream.read(min(_BLOCK_BYTES, remaining))):
            remaining -= len(block)
            yield block
        if remaining or stream.read(1):
            raise TrainingFailed(
                f"{entry.path} changed its size while it was read",
                hint="nothing may write to the results after training",
            )
