"""What the original's controller starts in the trainer's image: its command line becomes our trainer.

    accelerate launch --num_processes=N /workspace/tfs/fine_tuning.py

The launcher starts this once for each GPU. The first of them becomes the trainer, which starts a process for each GPU
itself; the others have nothing to do.
"""

import os
import sys

_LAUNCHERS = [
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE"),
    *("ROLE_RANK", "ROLE_WORLD_SIZE", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS"),
]
_PREFIXES = ("TORCHELASTIC_", "TORCH_", "ACCELERATE_", "FSDP_")


def environment(environ: dict[str, str]) -> dict[str, str]:
    """The trainer's environment: without what a launcher set, with the original's paths where nothing is said."""
    kept = {name: value for name, value in environ.items() if name not in _LAUNCHERS and not name.startswith(_PREFIXES)}
    return {"DATASET_FOLDER_PATH": "/mnt/data", "TUNING_PROCESSES": environ.get("WORLD_SIZE", "0"), **kept}


if __name__ == "__main__":
    if os.environ.get("LOCAL_RANK", "0") != "0":
        sys.exit(0)
    os.execve(sys.executable, [sys.executable, "-m", "trainer"], environment(dict(os.environ)))  # noqa: S606 - no shell
