"""The checkpoints of a run in its results folder, and from which one it goes on."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuning.errors import InputNotFound

MARKER = "complete.json"
_PREFIX = "checkpoint-"
_STATE = "trainer_state.json"

logger = logging.getLogger(__name__)


def find_checkpoint(value: Any, results: Path, identity: Mapping[str, str]) -> Path | None:
    """From which checkpoint the run goes on; None to begin anew.

    `value` is TrainingArguments.resume_from_checkpoint: a path (a relative one is in `results`), `true` for the newest
    complete one, `false` for none. Unset, it is the newest complete one of this very run, which `identity` (digests of
    its configuration and its data) tells. Raises InputNotFound where what was asked for is not there.
    """
    asked = str(value).lower() if value is not None else ""
    if asked == "false":
        return None
    if asked in ("", "true"):
        for path in reversed(_complete(results)):
            marker = json.loads((path / MARKER).read_bytes())
            if asked == "true":
                return path
            if marker == dict(identity):
                logger.info("going on from checkpoint=%s", path.name)
                return path
            if not marker.get("finished"):
                logger.warning("the checkpoint is of another configuration or dataset, left alone folder=%s", path.name)
        if asked == "true":
            raise InputNotFound(
                f"there is no checkpoint in {results} to go on with",
                hint="remove TrainingArguments.resume_from_checkpoint, or mount the volume of the earlier run",
            )
        return None
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
        if path.name.removeprefix(_PREFIX).isdigit() and (path / MARKER).is_file()
    ]
    return [path for _, path in sorted(numbered)]
