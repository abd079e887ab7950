"""How the trainer tells the pusher that it ended, between two real processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tuning.errors import TrainingFailed, TransientError
from tuning.lease import LeaseState, lease_state, take_lease
from tuning.outcome import (
    Completed,
    Died,
    Failed,
    announce,
    await_outcome,
    describe_files,
    forget_outcome,
    read_outcome,
    verify_files,
)
from tuning.volumes import COMPLETED_SENTINEL, LEASE

TRAINER = """
import sys, time
from pathlib import Path
from tuning.lease import take_lease
results, run_id = Path(sys.argv[1]), sys.argv[2]
lease = take_lease(results, run_id)
print("taken", flush=True)
exec(sys.argv[3])
"""
ANNOUNCE = """
from tuning.outcome import Completed, announce
announce(results, Completed(run_id=run_id, files=(), base_model="m", steps=1))
"""


@contextmanager
def trainer(results: Path, code: str, run_id: str = "run") -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lease and then does `code`."""
    command = [sys.executable, "-c", TRAINER, str(results), run_id, code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "taken\n"
        yield process
        process.kill()


def completed(results: Path, run_id: str = "run") -> Completed:
    (results / "adapter.bin").write_bytes(b"weights")
    files = describe_files(results, ["adapter.bin"])
    return Completed(run_id, files, "org/model", 3, {"train_loss": 0.5}, "sha256:d", "lora")


def test_the_lease_is_held_while_the_trainer_lives_and_free_when_it_is_killed(tmp_path: Path) -> None:
    assert lease_state(tmp_path) is LeaseState.ABSENT
    with trainer(tmp_path, "time.sleep(60)") as process:
        assert lease_state(tmp_path) is LeaseState.HELD
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert lease_state(tmp_path) is LeaseState.FREE


def test_looking_at_the_lease_does_not_drop_it(tmp_path: Path) -> None:
    with trainer(tmp_path, "time.sleep(60)"):
        assert [lease_state(tmp_path) for _ in range(100)] == [LeaseState.HELD] * 100


def test_a_child_of_the_trainer_does_not_keep_the_lease(tmp_path: Path) -> None:
    code = "import os; pid = os.fork(); print(pid, flush=True) if pid else None; time.sleep(60)"
    with trainer(tmp_path, code) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        try:
            process.kill()
            process.wait()
            assert lease_state(tmp_path) is LeaseState.FREE
        finally:
            os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("ours", ["a", "z"])
def test_another_attempts_lease_counts_as_absent(tmp_path: Path, ours: str) -> None:
    with trainer(tmp_path, "time.sleep(60)", run_id="earlier"):
        assert lease_state(tmp_path, ours) is LeaseState.ABSENT
        assert lease_state(tmp_path, "earlier") is LeaseState.HELD


def test_a_second_trainer_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    with trainer(tmp_path, "time.sleep(60)"), pytest.raises(TransientError, match="in use"):
        take_lease(tmp_path, "run")


def test_a_killed_trainer_is_known_to_be_dead_within_two_polls(tmp_path: Path) -> None:
    with trainer(tmp_path, "time.sleep(60)") as process:
        process.kill()
        process.wait()
        polls: list[float] = []
        assert await_outcome(tmp_path, "run", sleep=polls.append) == Died()
        assert len(polls) <= 1


def test_an_announced_outcome_is_read_although_the_trainer_is_gone(tmp_path: Path) -> None:
    with trainer(tmp_path, ANNOUNCE) as process:
        process.wait()
        outcome = await_outcome(tmp_path, "run", poll_seconds=0.01)
    assert isinstance(outcome, Completed)


def test_waiting_ends_while_the_trainer_goes_on_if_the_outcome_is_there(tmp_path: Path) -> None:
    with trainer(tmp_path, f"time.sleep(0.3)\n{ANNOUNCE}\ntime.sleep(60)"):
        assert isinstance(await_outcome(tmp_path, "run", poll_seconds=0.02), Completed)


def test_killed_at_any_moment_the_trainer_is_completed_or_dead_and_never_waited_for(tmp_path: Path) -> None:
    for attempt in range(20):
        results = tmp_path / str(attempt)
        results.mkdir()
        with trainer(results, f"time.sleep(0.01)\n{ANNOUNCE}\ntime.sleep(0.01)") as process:
            time.sleep(0.0015 * attempt)
            process.kill()
            process.wait()
            outcome = await_outcome(results, "run", poll_seconds=0.01)
        assert isinstance(outcome, Completed | Died)
        assert isinstance(outcome, Completed) == (results / COMPLETED_SENTINEL).exists()


@pytest.mark.parametrize("ours", ["a", "z"])
def test_an_outcome_of_an_earlier_attempt_is_never_taken_for_ours(tmp_path: Path, ours: str) -> None:
    announce(tmp_path, completed(tmp_path, "earlier"))
    assert read_outcome(tmp_path, ours) is None
    assert await_outcome(tmp_path, ours, poll_seconds=0.01, start_timeout_seconds=0.05) == Died(
        "the trainer gave no sign of life in 0 s"
    )


def test_a_trainer_that_has_not_started_is_waited_for_as_long_as_was_said(tmp_path: Path) -> None:
    polls: list[float] = []

    def started_at_the_third_poll(seconds: float) -> None:
        polls.append(seconds)
        if len(polls) == 3:
            announce(tmp_path, completed(tmp_path))

    outcome = await_outcome(tmp_path, "run", start_timeout_seconds=60, sleep=started_at_the_third_poll)
    assert isinstance(outcome, Completed)
    assert polls == [1.0] * 3, "it looks once a second"


def test_a_trainer_that_was_seen_is_waited_for_without_an_end(tmp_path: Path) -> None:
    with trainer(tmp_path, f"time.sleep(0.5)\n{ANNOUNCE}\ntime.sleep(60)"):
        outcome = await_outcome(tmp_path, "run", poll_seconds=0.05, start_timeout_seconds=0.01)
    assert isinstance(outcome, Completed)


def test_without_a_run_id_any_outcome_counts(tmp_path: Path) -> None:
    announce(tmp_path, completed(tmp_path, "earlier"))
    assert isinstance(await_outcome(tmp_path), Completed)


def test_a_start_removes_what_an_earlier_attempt_announced(tmp_path: Path) -> None:
    forget_outcome(tmp_path)
    announce(tmp_path, completed(tmp_path))
    announce(tmp_path, Failed("run", 65, "DatasetError", "x"))
    forget_outcome(tmp_path)
    assert read_outcome(tmp_path) is None


def test_outcomes_are_read_as_they_were_announced(tmp_path: Path) -> None:
    success = completed(tmp_path)
    announce(tmp_path, success)
    assert read_outcome(tmp_path) == success
    failure = Failed("run", 65, "DatasetError", "line 12", "fix it")
    announce(tmp_path, failure)
    assert read_outcome(tmp_path) == failure, "a failure wins"


def test_a_removed_lease_ends_the_waiting(tmp_path: Path) -> None:
    with trainer(tmp_path, "time.sleep(60)"):
        outcome = await_outcome(tmp_path, sleep=lambda _: (tmp_path / LEASE).unlink(missing_ok=True))
    assert outcome == Died(f"the trainer's lease was removed from {tmp_path}")


def test_a_sentinel_that_is_not_ours_is_an_error(tmp_path: Path) -> None:
    (tmp_path / COMPLETED_SENTINEL).write_text("Fine-Tuning completed at noon")
    with pytest.raises(TrainingFailed, match="not a sentinel of this trainer"):
        read_outcome(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda path: path.unlink(), "missing"),
        (lambda path: path.write_bytes(b"weight"), "has 6 bytes, the trainer announced 7"),
        (lambda path: path.write_bytes(b"weights!"), "has 8 bytes, the trainer announced 7"),
        # A digest before and one behind the announced one.
        (lambda path: path.write_bytes(b"WEIGHTS"), "has sha256"),
        (lambda path: path.write_bytes(b"wEights"), "has sha256"),
    ],
)
def test_files_that_differ_from_what_was_announced_are_refused(tmp_path: Path, change: object, said: str) -> None:
    outcome = completed(tmp_path)
    verify_files(tmp_path, outcome)
    change(tmp_path / "adapter.bin")  # type: ignore[operator]
    with pytest.raises(TrainingFailed, match=said):
        verify_files(tmp_path, outcome)
