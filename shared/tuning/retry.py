"""When and how long to try again: only a TransientError is, with growing, jittered waits."""

import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, stop_after_delay
from tenacity.stop import stop_base
from tenacity.wait import wait_random_exponential

from tuning.errors import TransientError

T = TypeVar("T")

LONGEST_WAIT_SECONDS = 20.0
LONGEST_RETRY_AFTER_SECONDS = 300.0

logger = logging.getLogger(__name__)


def retry(
    action: Callable[[], T],
    *,
    attempts: int | None = None,
    deadline_seconds: float | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Call `action` until it does not raise TransientError, and return what it returns.

    Waits are drawn between half and all of 1, 2, 4 … 20 seconds; a `retry_after_seconds` on the error is honoured if
    it is longer, up to 300. The last TransientError is raised after `attempts` calls or `deadline_seconds`, whichever
    comes first; it is raised at once where the remote asks for more than 300 seconds.
    """
    conditions: list[stop_base] = []
    if attempts is not None:
        conditions.append(stop_after_attempt(attempts))
    if deadline_seconds is not None:
        conditions.append(stop_after_delay(deadline_seconds))
    if not conditions:
        raise ValueError("retry needs attempts or deadline_seconds")

    def stop(state: RetryCallState) -> bool:
        asked = _retry_after(state)
        return (asked or 0) > LONGEST_RETRY_AFTER_SECONDS or any(condition(state) for condition in conditions)

    retrying = Retrying(
        retry=retry_if_exception_type(TransientError),
        wait=_wait,
        stop=stop,
        sleep=sleep,
        before_sleep=_log,
        reraise=True,
    )
    return retrying(action)


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """The seconds that a Retry-After header asks for, in either of its forms (RFC 9110, 10.2.3); None without one."""
    text = headers.get("Retry-After", "").strip()
    if text.isdigit():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


_backoff = wait_random_exponential(multiplier=1, max=LONGEST_WAIT_SECONDS, min=0.5)


def _wait(state: RetryCallState) -> float:
    return max(_backoff(state), _retry_after(state) or 0)


def _retry_after(state: RetryCallState) -> float | None:
    error = state.outcome.exception() if state.outcome else None
    return error.retry_after_seconds if isinstance(error, TransientError) else None


def _log(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    wait_seconds = state.next_action.sleep if state.next_action else 0
    logger.warning("attempt %d failed, next in %.1f s: %s", state.attempt_number, wait_seconds, error)
