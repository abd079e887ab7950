"""The order of work: whatever can be wrong is found before anything that costs.

configuration → base model's folder → dataset → tokenizer and labels → layers → memory → weights → training → adapter
→ outcome
"""

import importlib
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from trainer import origin
from trainer.base_model import load_base_model
from trainer.deliverables import write_deliverables
from trainer.preparation import Prepared, prepare
from trainer.settings import Settings
from tuning.errors import TransientError, TuningError
from tuning.outcome import announce

logger = logging.getLogger(__name__)


def tune(
    settings: Settings,
    results: Path,
    end: Callable[[TuningError], None],
    *,
    rank: int = 0,
    processes: int = 1,
) -> Mapping[str, Any]:
    """Tune an adapter into `results` and announce it. Returns what the termination message says.

    `end` ends the process with a cause, from another thread: for a step that hangs. Of several `processes` that train
    together, the one of `rank` 0 writes.
    """
    start = time.monotonic()
    prepared = prepare(settings, results, processes, first=rank == 0)
    spread = bool(prepared.recipe.arguments.fsdp)
    model = load_base_model(prepared.source, prepared.config, prepared.model_options, spread=spread)
    logger.info("loaded base_model=%s seconds=%.1f", prepared.source, time.monotonic() - start)
    with ThreadPoolExecutor(1) as worker:
        # Reading every byte of the weights takes as long as loading them, and needs no GPU.
        base_model = worker.submit(origin.describe_base_model, prepared.source, prepared.config) if rank == 0 else None
        fitted = _fit(model, prepared, settings, results, end)
        if base_model is None:
            return {}
        completed = write_deliverables(prepared, fitted, base_model.result(), settings, results)
    survival = importlib.import_module("trainer.survival")
    survival.retire_checkpoints(results, keep=prepared.config.arguments.get("save_strategy", "no") != "no")
    announce(results, completed)
    figures = " ".join(f"{key}={value:.4f}" for key, value in fitted.metrics.items())
    logger.info("completed steps=%d %s seconds=%.1f", fitted.steps, figures, time.monotonic() - start)
    return {"message": f"tuned in {fitted.steps} steps", "steps": fitted.steps, "metrics": dict(fitted.metrics)}


def _fit(
    model: Any, prepared: Prepared, settings: Settings, results: Path, end: Callable[[TransientError], None]
) -> Any:
    """Train, watched, served and able to outlive the pod."""
    fitting, metrics_server, progress, records, survival, watchdog = (
        importlib.import_module(f"trainer.{name}")
        for name in ("fitting", "metrics_server", "progress", "records", "survival", "watchdog")
    )
    metrics = metrics_server.Metrics()
    checkpoints = survival.Checkpoints(prepared.identity, settings.checkpoint_seconds)
    watcher = watchdog.Watchdog(settings.step_timeout_seconds, end)
    callbacks = [
        progress.Progress(metrics, settings.progress_seconds),
        records.Records(results, goes_on=prepared.recipe.checkpoint is not None),
        checkpoints,
        watcher,
    ]
    with ExitStack() as stack:
        stack.enter_context(metrics_server.serving(metrics, settings.metrics_port))
        stack.enter_context(watcher.watching())
        stack.enter_context(checkpoints.outliving_signals())
        return fitting.fit(model, prepared.tokenizer, prepared.train, prepared.held_out, prepared.recipe, callbacks)
