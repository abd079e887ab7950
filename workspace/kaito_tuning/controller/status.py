"""How a Workspace stands, as its status says it: a state, three conditions with reasons, and what has come of it.

The names of the conditions and reasons are those of the original's controller, so that what watches them goes on
working; sources: kubernetes.io, API conventions ("Typical status properties").
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from kaito_tuning.pod import Manifest

READY, STARTED, SUCCEEDED = "ResourceReady", "JobStarted", "WorkspaceSucceeded"
# The API server's limit for the message of a condition.
_LONGEST_MESSAGE = 32768


class State(StrEnum):
    """`status.state`."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


_STARTED_REASONS = {
    State.PENDING: "WorkspaceTuningJobStatusPending",
    State.RUNNING: "WorkspaceTuningJobStatusStarted",
    State.SUCCEEDED: "WorkspaceTuningJobStatusStarted",
    State.FAILED: "WorkspaceTuningJobStatusFailed",
}
SUCCEEDED_REASONS = {
    State.PENDING: "workspacePending",
    State.RUNNING: "workspacePending",
    State.SUCCEEDED: "workspaceSucceeded",
    State.FAILED: "workspaceFailed",
}


@dataclass(frozen=True)
class Standing:
    """How a Workspace stands: its state, the sentence that says why, and whether nodes were found for its pods.

    `reason` takes the place of the conditions' usual reasons where no Job came about.
    """

    state: State
    message: str
    reason: str = ""
    scheduled: bool | None = None
    scheduling: str = ""
    finished: bool = False


def conditions(standing: Standing, before: Mapping[str, Any], generation: int, now: str) -> list[Manifest]:
    """The conditions of a Workspace that stands so; a transition time stays where the status stays.

    `before` is the status until now. Conditions of other types are kept as they are.
    """
    state = standing.state
    known: list[Manifest] = list(before.get("conditions") or [])
    told = [
        _ready(standing),
        (
            STARTED,
            "True" if state in (State.RUNNING, State.SUCCEEDED) else "False",
            standing.reason or _STARTED_REASONS[state],
            "the tuning Job has started" if state in (State.RUNNING, State.SUCCEEDED) else standing.message,
        ),
        (
            SUCCEEDED,
            "True" if state is State.SUCCEEDED else "False",
            standing.reason or SUCCEEDED_REASONS[state],
            standing.message,
        ),
    ]
    ours = {kind for kind, *_ in told}
    kept = [condition for condition in known if condition.get("type") not in ours]
    return kept + [_condition(*fields, known, generation, now) for fields in told]


def _ready(standing: Standing) -> tuple[str, str, str, str]:
    match standing.scheduled:
        case True:
            return READY, "True", "PodScheduled", "a node was found"
        case False:
            return READY, "False", "Unschedulable", standing.scheduling
        case None:
            return READY, "Unknown", "NoPod", "no pod waits for a node"


def _condition(
    kind: str, status: str, reason: str, message: str, known: list[Manifest], generation: int, now: str
) -> Manifest:
    same = [entry for entry in known if entry.get("type") == kind and entry.get("status") == status]
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message[:_LONGEST_MESSAGE],
        "observedGeneration": generation,
        "lastTransitionTime": same[0].get("lastTransitionTime", now) if same else now,
    }


def message_of(status: Mapping[str, Any]) -> str:
    """The sentence of a status: that of its condition WorkspaceSucceeded; empty where it has none yet."""
    return str(_verdict(status).get("message", ""))


def reason_of(status: Mapping[str, Any]) -> str:
    """The reason beside that sentence."""
    return str(_verdict(status).get("reason", ""))


def _verdict(status: Mapping[str, Any]) -> Manifest:
    return next((entry for entry in status.get("conditions") or [] if entry.get("type") == SUCCEEDED), {})
