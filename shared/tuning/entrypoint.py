"""How every app starts and ends: logging on, then its work, then one sentence and an exit code.

The sentence goes to the log and, as one JSON object of at most 4,096 bytes, to the termination message, so that
`kubectl describe pod` tells it. This is the only place that catches every exception.
"""

import json
import logging
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from tuning import environment
from tuning.errors import EXIT_BUG, EXIT_DELIVERED, ConfigurationError, TuningError, in_one_line
from tuning.logs import configure_logging
from tuning.redaction import redact

TERMINATION_MESSAGE_LIMIT_BYTES = 4096

logger = logging.getLogger(__name__)


class Stopped(BaseException):
    """The container was told to end (SIGTERM or SIGINT). Not an Exception: no handler of errors may swallow it."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}")
        self.exit_code = 128 + signal_number


def run(main: Callable[[Mapping[str, str]], Mapping[str, Any] | None], environ: Mapping[str, str]) -> int:
    """Run an app's `main(environ)` and return the process's exit code; never raises.

    What `main` returns becomes the termination message of a success.
    """
    try:
        configure_logging(
            environment.read_variable(environment.LOG_FORMAT, environ),
            environment.read_variable(environment.LOG_LEVEL, environ),
        )
    except ValueError as error:
        configure_logging()
        return _end(ConfigurationError(f"environment: LOG_FORMAT or LOG_LEVEL {error}"), environ)
    try:
        # As PID 1 of a container a process ignores the signals it has no handler for.
        signal.signal(signal.SIGTERM, _stop)
        signal.signal(signal.SIGINT, _stop)
        result = main(environ)
    except Stopped as stop:
        logger.warning("%s", stop)
        _write_termination_message(environ, {"exitCode": stop.exit_code, "cause": "Stopped", "message": str(stop)})
        return stop.exit_code
    except TuningError as error:
        return _end(error, environ)
    except Exception as error:
        logger.exception("bug: %s: %s", type(error).__name__, error)
        message = f"{type(error).__name__}: {error}"
        _write_termination_message(environ, failure_message(EXIT_BUG, "Bug", message, _BUG_HINT))
        return EXIT_BUG
    if result is not None:
        _write_termination_message(environ, {"exitCode": EXIT_DELIVERED, **result})
    return EXIT_DELIVERED


def end_now(error: TuningError, environ: Mapping[str, str]) -> NoReturn:
    """End the process with `error` from any of its threads, where the main one cannot: it logs, tells, and is gone."""
    os._exit(_end(error, environ))


_BUG_HINT = "this is a bug: please report it with the traceback in the log"


def failure_message(exit_code: int, cause: str, message: str, hint: str) -> dict[str, Any]:
    """The termination message of a failure."""
    return {"exitCode": exit_code, "cause": cause, "message": redact(message), "hint": redact(hint)}


def encode_termination_message(content: Mapping[str, Any]) -> bytes:
    """`content` as one line of JSON of at most 4,096 bytes; the longest text is cut until it fits."""
    fields = dict(content)
    while len(encoded := json.dumps(fields, ensure_ascii=False).encode()) > TERMINATION_MESSAGE_LIMIT_BYTES:
        longest = max((key for key in fields if isinstance(fields[key], str)), key=lambda key: len(fields[key]))
        excess = len(encoded) - TERMINATION_MESSAGE_LIMIT_BYTES
        # A character may take more than one byte; cutting `excess` of them is enough, cutting a few too many is fine.
        fields[longest] = fields[longest][: max(0, len(fields[longest]) - excess - 1)] + "…"
    return encoded


def _stop(signal_number: int, _frame: FrameType | None) -> NoReturn:
    raise Stopped(signal_number)


def _end(error: TuningError, environ: Mapping[str, str]) -> int:
    logger.error("%s: %s", type(error).__name__, in_one_line(error.message, error.hint))
    content = failure_message(error.exit_code, type(error).__name__, error.message, error.hint)
    _write_termination_message(environ, content)
    return error.exit_code


def _write_termination_message(environ: Mapping[str, str], content: Mapping[str, Any]) -> None:
    path = environment.read_variable(environment.TERMINATION_MESSAGE_PATH, environ)
    if path == environment.TERMINATION_MESSAGE_PATH.default and not path.exists():
        return  # not in a pod: the kubelet makes this file
    try:
        # The kubelet mounts the file itself, so it is written in place.
        Path(path).write_bytes(encode_termination_message(content))
    except OSError as error:
        logger.warning("termination message not written path=%s reason=%s", path, error)
