"""What an adapter image stands on: a small layer with `sh`, nothing, or an image of the user's."""

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from pusher.blob import Blob
from pusher.layer import MEDIA_TYPE

SCRATCH = "scratch"
# Put there by the Dockerfile: base-amd64.tar and base-arm64.tar, made by base_layer.py.
FOLDER = Path(__file__).parents[1] / "base"

_BLOCK_BYTES = 1 << 20

logger = logging.getLogger(__name__)


def bundled_base(platforms: Sequence[str], folder: Path = FOLDER) -> Mapping[str, tuple[Blob, ...]]:
    """The base layers that ship in the pusher's image, by architecture; none where they are not at hand, said so."""
    paths = {platform: folder / f"base-{platform}.tar" for platform in platforms}
    missing = [path for path in paths.values() if not path.is_file()]
    if missing:
        logger.info("no base layer is at hand, the image has files only path=%s", missing[0])
        return dict.fromkeys(platforms, ())
    return {platform: (_file_layer(path),) for platform, path in paths.items()}


def find_bases(
    wanted: str, platforms: Sequence[str], pull: Callable[[str, Sequence[str]], Mapping[str, tuple[Blob, ...]]]
) -> Mapping[str, tuple[Blob, ...]]:
    """The base layers by architecture: none for `scratch`, the bundled ones for an empty text, else `pull`ed ones."""
    if wanted == SCRATCH:
        return dict.fromkeys(platforms, ())
    return pull(wanted, platforms) if wanted else bundled_base(platforms)


def _file_layer(path: Path) -> Blob:
    with path.open("rb") as stream:
        digest = f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"

    def blocks() -> Iterator[bytes]:
        with path.open("rb") as stream:
            while block := stream.read(_BLOCK_BYTES):
                yield block

    return Blob(MEDIA_TYPE, digest, path.stat().st_size, blocks, diff_id=digest)
