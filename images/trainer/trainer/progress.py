"""What is said while training goes on, and when it must not go on."""

import logging
import math
import time
from typing import Any

import torch
from transformers import TrainerCallback

from trainer.metrics_server import Metrics
from tuning.errors import ConfigurationError

logger = logging.getLogger(__name__)

_SHOWN = ("loss", "eval_loss", "learning_rate", "grad_norm", "epoch")


class Progress(TrainerCallback):
    """Logs `step N/total` with the figures of the step, at each log of the library and at least every so often.

    Ends the run when the loss is no number.
    """

    def __init__(self, metrics: Metrics, every_seconds: float) -> None:
        self._metrics = metrics
        self._every = every_seconds
        self._start = self._said = time.monotonic()
        self._first_step = 0
        self._tokens = 0.0
        self._tokens_at = self._start

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock: the first steps tell how long the rest will take."""
        self._start = self._said = self._tokens_at = time.monotonic()
        self._first_step = state.global_step
        self._metrics.steps_total.set(state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Give a sign of life where logs are far apart."""
        self._metrics.step.set(state.global_step)
        if time.monotonic() - self._said > self._every and not control.should_log:
            self._say(state, {})

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
        for key in ("loss", "eval_loss", "learning_rate", "epoch"):
            if key in values:
                getattr(self._metrics, key).set(values[key])
        self._say(state, values, float((logs or {}).get("num_tokens", 0)))

    def _say(self, state: Any, values: dict[str, float], tokens: float = 0.0) -> None:
        now = self._said = time.monotonic()
        if not state.is_world_process_zero:
            return
        elapsed = now - self._start
        remaining = elapsed / max(state.global_step - self._first_step, 1) * (state.max_steps - state.global_step)
        self._metrics.remaining_seconds.set(remaining)
        figures = [f"{key}={value:.4g}" for key, value in values.items()]
        if tokens > self._tokens:
            rate = (tokens - self._tokens) / max(now - self._tokens_at, 1e-9)
            self._tokens, self._tokens_at = tokens, now
            self._metrics.tokens.set(tokens)
            self._metrics.tokens_per_second.set(rate)
            figures.append(f"tokens_per_second={rate:.0f}")
        if torch.cuda.is_available():
            peak = torch.cuda.max_memory_allocated()
            self._metrics.gpu_memory_bytes.set(peak)
            figures.append(f"memory={peak / (1 << 30):.1f}GiB")
        logger.info(
            "step %d/%d %s elapsed=%.0fs remaining=%.0fs",
            state.global_step,
            state.max_steps,
            " ".join(figures),
            elapsed,
            remaining,
        )
