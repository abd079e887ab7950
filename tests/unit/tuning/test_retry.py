import email.utils
import time
from collections.abc import Callable

import pytest

from tuning.errors import AccessDenied, TransientError
from tuning.retry import LONGEST_WAIT_SECONDS, retry, retry_after_seconds


class Clock:
    """Sleeps at once and remembers how long."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)


def _failing(times: int, error: Exception) -> Callable[[], str]:
    left = [error] * times

    def action() -> str:
        if left:
            raise left.pop()
        return "done"

    return action


def test_a_transient_error_is_tried_again_until_it_works() -> None:
    clock = Clock()
    assert retry(_failing(3, TransientError("busy")), attempts=5, sleep=clock) == "done"
    assert len(clock.slept) == 3


def test_the_last_error_is_raised_when_the_attempts_are_used_up() -> None:
    clock = Clock()
    with pytest.raises(TransientError, match="busy"):
        retry(_failing(9, TransientError("busy")), attempts=4, sleep=clock)
    assert len(clock.slept) == 3


def test_another_cause_is_never_tried_again() -> None:
    clock = Clock()
    with pytest.raises(AccessDenied):
        retry(_failing(1, AccessDenied("no")), attempts=5, sleep=clock)
    assert clock.slept == []


def test_the_waits_grow_and_stay_bounded() -> None:
    clock = Clock()
    with pytest.raises(TransientError):
        retry(_failing(99, TransientError("busy")), attempts=40, sleep=clock)
    assert all(0.5 <= seconds <= LONGEST_WAIT_SECONDS for seconds in clock.slept)
    assert max(clock.slept[:2]) <= 2
    assert max(clock.slept) > 2


def test_a_remote_that_names_a_time_is_given_it() -> None:
    clock = Clock()
    retry(_failing(1, TransientError("busy", retry_after_seconds=42)), attempts=2, sleep=clock)
    assert clock.slept == [42]


def test_a_remote_that_asks_for_too_long_is_not_waited_for() -> None:
    clock = Clock()
    with pytest.raises(TransientError):
        retry(_failing(9, TransientError("busy", retry_after_seconds=301)), attempts=5, sleep=clock)
    assert clock.slept == []


def test_a_retry_after_header_is_read_in_both_forms() -> None:
    assert retry_after_seconds({"Retry-After": " 7 "}) == 7
    date = email.utils.formatdate(time.time() + 100, usegmt=True)
    assert 95 < (retry_after_seconds({"Retry-After": date}) or 0) <= 100
    assert retry_after_seconds({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert retry_after_seconds({"Retry-After": "soon"}) is None
    assert retry_after_seconds({}) is None


def test_a_deadline_ends_the_attempts() -> None:
    with pytest.raises(TransientError):
        retry(_failing(999, TransientError("busy")), deadline_seconds=0.01, sleep=lambda _: None)


def test_a_retry_without_a_bound_is_refused() -> None:
    with pytest.raises(ValueError, match="attempts or deadline_seconds"):
        retry(lambda: None)
