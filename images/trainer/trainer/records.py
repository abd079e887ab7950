"""The figures of a run as they were measured: `training_metrics.jsonl`, one JSON object for each log."""

import json
import math
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

FILE = "training_metrics.jsonl"
_LEFT_OUT = ("total_flos", "train_runtime", "train_samples_per_second", "train_steps_per_second")


class Records(TrainerCallback):
    """Appends what is logged to `training_metrics.jsonl`, so that a run that ends early leaves its figures, too."""

    def __init__(self, results: Path, *, goes_on: bool) -> None:
        self._path = results / FILE
        self._start = time.monotonic()
        if not goes_on:
            self._path.unlink(missing_ok=True)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Append one line."""
        figures = {key: _number(value) for key, value in (logs or {}).items() if key not in _LEFT_OUT}
        if not state.is_world_process_zero or not any(key in figures for key in ("loss", "eval_loss", "train_loss")):
            return
        record = {"step": state.global_step, "seconds": round(time.monotonic() - self._start, 2), **figures}
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")


def read_records(results: Path) -> list[dict[str, Any]]:
    """All records of the run, in order; empty where none was logged.

    Of a step that was done twice, because the run went on from a checkpoint before it, the later one.
    """
    try:
        lines = (results / FILE).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    latest: dict[tuple[int, bool, bool], dict[str, Any]] = {}
    for record in map(json.loads, lines):
        latest[record["step"], "eval_loss" in record, "train_loss" in record] = record
    return [latest[key] for key in sorted(latest)]


def _number(value: Any) -> Any:
    """Numbers are logged as texts by some versions of the library; a JSON number must be finite."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return value
    return number if math.isfinite(number) else None
