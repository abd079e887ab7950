"""What is said while training goes on, and when it must not go on."""

import logging
import math
import time
from typing import Any

from transformers import TrainerCallback

from tuning.errors import ConfigurationError

logger = logging.getLogger(__name__)

_SHOWN = ("loss", "eval_loss", "learning_rate", "grad_norm", "epoch")


class Progress(TrainerCallback):
    """Logs `step N/total` with the figures of the step; ends the run when the loss is no number."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock: the first steps tell how long the rest will take."""
        self._start = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Say how far training is."""
        values = {key: float(logs[key]) for key in _SHOWN if logs and key in logs}
        if not values or "train_runtime" in (logs or {}):
            return
        for key in ("loss", "eval_loss", "grad_norm"):
            if not math.isfinite(values.get(key, 0.0)):
                raise ConfigurationError(
                    f"training diverged at step {state.global_step}: {key} is {values[key]}",
                    hint="lower TrainingArguments.learning_rate",
                )
        elapsed = time.monotonic() - self._start
        remaining = elapsed / max(state.global_step, 1) * (state.max_steps - state.global_step)
        figures = " ".join(f"{key}={value:.4g}" for key, value in values.items())
        logger.info(
            "step %d/%d %s elapsed=%.0fs remaining=%.0fs",
            state.global_step,
            state.max_steps,
            figures,
            elapsed,
            remaining,
        )
