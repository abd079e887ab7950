"""Why a run ended badly: one exception a cause, each with its exit code and what the Job does about it.

TuningError
├── ConfigurationError   78  a key, a reference or a variable is wrong
├── InputNotFound        66  what was named is not there
├── DatasetError         65  the data is there but cannot be learnt from
├── AccessDenied         77  a source or a registry refused the credentials
├── ResourceExhausted    71  memory or disk ran out, or would
├── TransientError       75  the network or a remote failed; trying again may work
└── TrainingFailed       69  pusher only: there is nothing to push

The codes are the standard `os.EX_*` of sysexits.h: 1, 2, 126, 127 and 128 upwards belong to Python, argparse, shells
and signals. Anything that is not a TuningError is a bug and exits with 70.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

EXIT_DELIVERED = os.EX_OK
EXIT_BUG = os.EX_SOFTWARE


class JobReaction(StrEnum):
    """What the Job's podFailurePolicy does when a container ends so."""

    FAIL_JOB = "FailJob"
    COUNT = "Count"


class TuningError(Exception):
    """A cause that a user can understand: a sentence that names the thing, and a hint what to do."""

    exit_code: ClassVar[int] = EXIT_BUG
    reaction: ClassVar[JobReaction] = JobReaction.COUNT

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class ConfigurationError(TuningError):
    """What the user wrote cannot be carried out as written."""

    exit_code = os.EX_CONFIG
    reaction = JobReaction.FAIL_JOB


class InputNotFound(TuningError):
    """A dataset, a file or a base model is not where it was said to be."""

    exit_code = os.EX_NOINPUT
    reaction = JobReaction.FAIL_JOB


class DatasetError(TuningError):
    """The data was found, but it is damaged or nothing can be learnt from it."""

    exit_code = os.EX_DATAERR
    reaction = JobReaction.FAIL_JOB


class AccessDenied(TuningError):
    """A source or a registry does not accept the credentials it was given."""

    exit_code = os.EX_NOPERM
    reaction = JobReaction.FAIL_JOB


class ResourceExhausted(TuningError):
    """Memory or disk ran out, or is known beforehand not to suffice."""

    exit_code = os.EX_OSERR
    reaction = JobReaction.FAIL_JOB


class TransientError(TuningError):
    """Something outside failed in a way that may pass; another attempt can succeed."""

    exit_code = os.EX_TEMPFAIL

    def __init__(self, message: str, *, hint: str = "", retry_after_seconds: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_seconds = retry_after_seconds


class TrainingFailed(TuningError):
    """The trainer ended without an adapter that could be pushed."""

    exit_code = os.EX_UNAVAILABLE


CAUSES: tuple[type[TuningError], ...] = (
    ConfigurationError,
    InputNotFound,
    DatasetError,
    AccessDenied,
    ResourceExhausted,
    TransientError,
    TrainingFailed,
)


def in_one_line(message: str, hint: str = "") -> str:
    """A message, and its hint behind it, as sentences."""
    sentences = [message, f"Hint: {hint}"] if hint else [message]
    return " ".join(sentence if sentence.endswith((".", "?", "!")) else f"{sentence}." for sentence in sentences)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, where it stands, and what to write instead."""

    path: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        sentence = f"{self.path} {self.message}" if self.path else self.message
        return f"{sentence} ({self.hint})" if self.hint else sentence


def refuse(problems: Sequence[Problem], *, source: str) -> None:
    """Raise one ConfigurationError that lists all `problems` found in `source`; return if there is none."""
    if not problems:
        return
    if len(problems) == 1:
        problem = problems[0]
        raise ConfigurationError(f"{source}: {Problem(problem.path, problem.message)}", hint=problem.hint)
    listed = "; ".join(str(problem) for problem in problems)
    raise ConfigurationError(f"{source} has {len(problems)} problems: {listed}")
