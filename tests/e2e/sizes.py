"""How large the images are, above their base and as a registry keeps them: `python -m tests.e2e.sizes REPOSITORY/`."""

import gzip
import json
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.support.engine import docker

BASE = "kaito-tuning/python-base:local"
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Size:
    """What an image adds to its base: layers, bytes unpacked and gzipped."""

    layers: int
    size_bytes: int
    compressed_bytes: int


def measure(image: str, base: str = BASE) -> Size:
    """Save `image`, and measure the layers that `base` does not have."""
    below = set(_layers(base))
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "image.tar"
        docker("save", "--output", str(saved), image)
        with tarfile.open(saved) as archive:
            [manifest] = json.load(_member(archive, "manifest.json"))
            layers = zip(manifest["Layers"], _layers(image), strict=True)
            sizes = [_sizes(_member(archive, name)) for name, digest in layers if digest not in below]
    return Size(len(sizes), sum(size for size, _ in sizes), sum(compressed for _, compressed in sizes))


def _layers(image: str) -> list[str]:
    layers: list[str] = json.loads(docker("inspect", "--format", "{{json .RootFS.Layers}}", image))
    return layers


def _member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    stream = archive.extractfile(name)
    assert stream is not None
    return stream


def _sizes(layer: IO[bytes]) -> tuple[int, int]:
    with tempfile.TemporaryFile() as compressed:
        size = 0
        with gzip.GzipFile(fileobj=compressed, mode="wb", compresslevel=1) as stream:
            while block := layer.read(_BLOCK):
                size += len(block)
                stream.write(block)
        return size, compressed.tell()


if __name__ == "__main__":
    for name in docker("images", "--format", "{{.Repository}}:{{.Tag}}", f"{sys.argv[1]}*").split():
        size = measure(name)
        print(
            f"{name}: {size.layers} layers above the base, {size.size_bytes / 1e6:.0f} MB, "
            f"{size.compressed_bytes / 1e6:.0f} MB compressed"
        )
