"""The paths where the pod's containers meet, and the names of the files that they leave for each other."""

import posixpath
from pathlib import Path, PurePosixPath

DATA = Path("/data")
RESULTS = Path("/mnt/results")
TRAINING_CONFIG = Path("/mnt/config/training_config.yaml")
WEIGHTS = Path("/workspace/tfs/weights")
DOCKER_CONFIG = Path("/etc/docker-config")
TERMINATION_MESSAGE = Path("/dev/termination-log")

# A dot-directory without a data extension: dataset loaders pick up anything else that lies in /data.
DOWNLOAD_STATE = ".download"
DATASET_MANIFEST = f"{DOWNLOAD_STATE}/manifest"

# The original's name: its own pusher waits for it.
COMPLETED_SENTINEL = "fine_tuning_completed.txt"
FAILED_SENTINEL = "fine_tuning_failed.txt"
LEASE = "trainer.lease"

_MOUNT_ROOT = "/mnt"
_TAKEN = ("/mnt/config", "/mnt/data")


def normalise_output_dir(output_dir: str | None) -> PurePosixPath:
    """Where `TrainingArguments.output_dir` points in the pod.

    Unset or empty is `/mnt/results`; a path outside `/mnt` is taken as relative to it, as the original mounts it. This
    one function decides for the mount, the trainer and the pusher. Raises ValueError where the result would be `/mnt`
    itself, outside it, or another container's folder.
    """
    if not output_dir:
        return PurePosixPath(RESULTS)
    inside = output_dir == _MOUNT_ROOT or output_dir.startswith(_MOUNT_ROOT + "/")
    path = posixpath.normpath(output_dir if inside else f"{_MOUNT_ROOT}/{output_dir}")
    if not path.startswith(_MOUNT_ROOT + "/"):
        raise ValueError(f"must be a folder below {_MOUNT_ROOT}, not {output_dir!r}")
    for taken in _TAKEN:
        if path == taken or path.startswith(taken + "/"):
            raise ValueError(f"must not lie in {taken}, which belongs to the pod")
    return PurePosixPath(path)
