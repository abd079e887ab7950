"""Remove from an installed environment what a container of the trainer never runs; say how much that was.

python trim.py
"""

import shutil
import sysconfig
from pathlib import Path

import torch


def never_run(packages: Path) -> list[Path]:
    """torch's own test programs, and bitsandbytes' kernels for other accelerators than the one torch is built for."""
    cuda = (torch.version.cuda or "").replace(".", "")
    kernels = [
        path
        for path in (packages / "bitsandbytes").glob("libbitsandbytes_*.so")
        if path.stem not in ("libbitsandbytes_cpu", f"libbitsandbytes_cuda{cuda}")
    ]
    programs = [path for path in (packages / "torch" / "bin").iterdir() if path.name.startswith(("test_", "protoc"))]
    programs += (packages / "torch" / "bin").glob("*StoreTest")
    return [*kernels, *programs, packages / "torch" / "test"]


def size_bytes(path: Path) -> int:
    """What `path` holds."""
    return (
        sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.is_dir() else path.stat().st_size
    )


if __name__ == "__main__":
    removed = [path for path in never_run(Path(sysconfig.get_paths()["purelib"])) if path.exists()]
    total = sum(map(size_bytes, removed))
    for path in removed:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    print(f"removed {len(removed)} things, {total / 1e6:.0f} MB")
