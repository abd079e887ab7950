"""One attempt at tuning as others see it: the lease while it lives, the outcome when it ends."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from trainer.settings import Settings
from tuning.entrypoint import Stopped
from tuning.errors import EXIT_BUG, ResourceExhausted, TuningError
from tuning.lease import take_lease
from tuning.outcome import Failed, announce, forget_outcome
from tuning.redaction import redact
from tuning.training_config import ROOT
from tuning.volumes import RESULTS, normalise_output_dir

logger = logging.getLogger(__name__)


def results_folder(settings: Settings) -> Path:
    """Where the outcome is written: as told, else where `output_dir` points.

    Reads a configuration that is broken elsewhere as far as it goes, so that its error can be announced, too.
    """
    if settings.results_path:
        return settings.results_path
    try:
        root = yaml.safe_load(settings.config_path.read_text())
        return Path(normalise_output_dir(root[ROOT]["TrainingArguments"]["output_dir"]))
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError):
        return RESULTS


@contextmanager
def attempt(results: Path, run_id: str) -> Iterator[None]:
    """Hold the lease, with what an earlier attempt announced removed; announce a failure of what happens inside."""
    try:
        results.mkdir(parents=True, exist_ok=True)
        lease = take_lease(results, run_id)
        forget_outcome(results)
    except OSError as error:
        raise ResourceExhausted(
            f"cannot write to the results folder {results}: {error.strerror}", hint="mount a writable volume there"
        ) from error
    try:
        yield
    except TuningError as error:
        cause = type(error).__name__
        _announce(results, Failed(run_id, error.exit_code, cause, redact(error.message), redact(error.hint)))
        raise
    except Stopped as stop:
        _announce(results, Failed(run_id, stop.exit_code, "Stopped", str(stop), "the pod was evicted or deleted"))
        raise
    except Exception as error:
        message = redact(f"{type(error).__name__}: {error}")
        _announce(results, Failed(run_id, EXIT_BUG, "Bug", message, "see the trainer's log"))
        raise
    finally:
        lease.release()


def _announce(results: Path, failed: Failed) -> None:
    try:
        announce(results, failed)
    except OSError as error:
        # The free lease still tells the pusher that nothing will come.
        logger.warning("outcome not written results=%s reason=%s", results, error)
