"""The checkpoints of a run in its results folder, and from which one it goes on."""

from pathlib import Path
from typing import Any

from tuning.errors import InputNotFound

_PREFIX = "checkpoint-"
_STATE = "trainer_state.json"


def find_checkpoint(value: Any, results: Path) -> Path | None:
    """The checkpoint that TrainingArguments.resume_from_checkpoint means: a path, `true` for the newest, or none.

    A relative path is one in the results folder. Raises InputNotFound where what was asked for is not there.
    """
    if not value or str(value).lower() == "false":
        return None
    if str(value).lower() == "true":
        found = _complete(results)
        if not found:
            raise InputNotFound(
                f"there is no checkpoint in {results} to go on with",
                hint="remove TrainingArguments.resume_from_checkpoint, or mount the volume of the earlier run",
            )
        return found[-1]
    path = results / str(value)
    if not (path / _STATE).is_file():
        what = f"has no {_STATE}" if path.is_dir() else "does not exist"
        raise InputNotFound(
            f"TrainingArguments.resume_from_checkpoint: {path} {what}",
            hint=f"there are {', '.join(found.name for found in _complete(results)) or 'no checkpoints'} in {results}",
        )
    return path


def _complete(results: Path) -> list[Path]:
    """The checkpoints that were written to their end, oldest first."""
    numbered = [
        (int(path.name.removeprefix(_PREFIX)), path)
        for path in results.glob(f"{_PREFIX}*")
        if path.name.removeprefix(_PREFIX).isdigit() and (path / _STATE).is_file()
    ]
    return [path for _, path in sorted(numbered)]
