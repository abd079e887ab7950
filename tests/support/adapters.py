"""What a trainer leaves, without the training; and the base layers that the pusher's image would have."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tuning.outcome import Completed, announce, describe_files

NAMES = ["adapter_config.json", "adapter_model.safetensors"]
ROOT = Path(__file__).parents[2]


def new_results(folder: Path, size_bytes: int) -> Path:
    """A results folder with an adapter of random weights and the sentinel that says that it is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NAMES[0]).write_text('{"r": 8}')
    (folder / NAMES[1]).write_bytes(os.urandom(size_bytes))
    announce(folder, Completed("", describe_files(folder, NAMES), "org/model", 3, {}, "sha256:d", "lora"))
    return folder


def make_base_layers(folder: Path) -> Path:
    """The base layers as the pusher's image has them, of this machine's busybox for both architectures."""
    busybox, licence = Path("/bin/busybox"), Path("/usr/share/doc/busybox-static/copyright")
    if not busybox.exists() or not licence.exists():
        pytest.skip("busybox-static is not installed (Debian has it)")
    folder.mkdir()
    for architecture in ("amd64", "arm64"):
        target = folder / f"base-{architecture}.tar"
        line = [sys.executable, str(ROOT / "images/pusher/base_layer.py"), str(busybox), str(licence), str(target)]
        subprocess.run(line, check=True)
    return folder
