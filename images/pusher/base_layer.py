"""Make the base layer of adapter images: a static busybox, so that `sh`, `mkdir` and `cp` work in them.

    python base_layer.py BUSYBOX COPYRIGHT TARGET.tar

Used by the Dockerfile for each architecture. The same input gives the same bytes: sorted, times and owners zero. KServe
looks for a model in `/models`, which is a link to `/data`.
"""

import io
import sys
import tarfile
from pathlib import Path

APPLETS = ("cat", "cp", "env", "find", "ln", "ls", "mkdir", "mv", "rm", "sh", "sleep", "tar", "true")


def make_base_layer(busybox: Path, copyright_file: Path, target: Path) -> None:
    """Write the layer to `target`."""
    folders = ("usr", "usr/share", "usr/share/doc", "usr/share/doc/busybox-static")
    with tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as archive:
        archive.addfile(_entry("bin", tarfile.DIRTYPE, 0o755))
        _add(archive, "bin/busybox", busybox.read_bytes(), 0o755)
        for applet in APPLETS:
            archive.addfile(_entry(f"bin/{applet}", tarfile.SYMTYPE, 0o777, "busybox"))
        archive.addfile(_entry("models", tarfile.SYMTYPE, 0o777, "data"))
        for name in folders:
            archive.addfile(_entry(name, tarfile.DIRTYPE, 0o755))
        # GPL-2: who hands out the binary hands out its licence, and where its source is.
        _add(archive, "usr/share/doc/busybox-static/copyright", copyright_file.read_bytes(), 0o644)


def _entry(name: str, kind: bytes, mode: int, target: str = "") -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.linkname = kind, mode, target
    return entry


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    entry = _entry(name, tarfile.REGTYPE, mode)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


if __name__ == "__main__":
    make_base_layer(*map(Path, sys.argv[1:4]))
