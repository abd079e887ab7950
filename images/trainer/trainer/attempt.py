"""One attempt at tuning as others see it: the lease while it lives, the outcome when it ends."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import yaml

from trainer.processes import announce_cause, use_gpu
from trainer.settings import Settings
from tuning.entrypoint import Stopped, end_now
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
        _announce(results, _failure(run_id, error))
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


def end_attempt(results: Path, run_id: str, environ: Mapping[str, str], error: TuningError) -> None:
    """End the process at once, from any of its threads, announcing `error`: the main thread hangs."""
    _announce(results, _failure(run_id, error))
    end_now(error, environ)


@contextmanager
def rank_of_attempt(results: Path, rank: int, local_rank: int) -> Iterator[Callable[[TuningError], None]]:
    """One of several processes of an attempt: its cause goes to the one that launched it, which speaks for all.

    Gives what ends the process at once with a cause.
    """
    if rank > 0:
        # What all ranks say, one says.
        logging.getLogger().setLevel(logging.ERROR)
    use_gpu(local_rank)

    def end(error: TuningError) -> None:
        announce_cause(results, rank, error)
        os._exit(error.exit_code)

    try:
        yield end
    except TuningError as error:
        announce_cause(results, rank, error)
        raise SystemExit(error.exit_code) from None
    except Exception as error:
        logger.exception("bug in rank %d: %s: %s", rank, type(error).__name__, error)
        announce_cause(results, rank, TuningError(redact(f"{type(error).__name__}: {error}"), hint="see the log"))
        raise SystemExit(EXIT_BUG) from None


def _failure(run_id: str, error: TuningError) -> Failed:
    return Failed(run_id, error.exit_code, type(error).__name__, redact(error.message), redact(error.hint))


def _announce(results: Path, failed: Failed) -> None:
    try:
        announce(results, failed)
    except OSError as error:
        # The free lease still tells the pusher that nothing will come.
        logger.warning("outcome not written results=%s reason=%s", results, error)
