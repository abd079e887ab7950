"""What the controller does next for one Workspace: a pure function from what is seen to what is wanted.

Level-triggered: it looks at the whole every time and remembers nothing but what the status says, so that a controller
that was killed at any moment, or a second one, comes to the same end.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kaito_tuning.controller.pods import (
    cause_of,
    delivery_of,
    failed_pods,
    nodes_of,
    running_in,
    scheduling_of,
    trouble_of,
    why_gone,
)
from kaito_tuning.controller.status import SUCCEEDED_REASONS, Standing, State, conditions, message_of, reason_of
from kaito_tuning.job import HASH, REVISION, default_configmap, render, revision_hash
from kaito_tuning.options import Options
from kaito_tuning.pod import Manifest
from kaito_tuning.reading import parse_workspace
from kaito_tuning.workspace import Workspace
from tuning.errors import ConfigurationError, in_one_line

# How soon to look again at what goes on, and at what has come to its end.
_LIVELY_SECONDS = 15.0
_QUIET_SECONDS = 600.0
_REFUSED = "JobRefused"


@dataclass(frozen=True)
class Observed:
    """What the cluster has: the Workspace, the ConfigMap and the Job that go by its names, and the Job's pods.

    `configmap` is the one that `tuning.config` names, or the method's default in the Workspace's namespace.
    `refusal` is why the API server did not create what was wanted a moment ago.
    """

    workspace: Manifest
    configmap: Manifest | None = None
    job: Manifest | None = None
    pods: Sequence[Manifest] = ()
    progress: Mapping[str, Any] = field(default_factory=dict)
    refusal: str = ""


@dataclass(frozen=True)
class News:
    """An Event to be: told once for each Workspace and revision."""

    reason: str
    message: str
    warning: bool = False


@dataclass(frozen=True)
class Decision:
    """What is wanted, in the order in which it is done: tell, write the status, delete the Job, create."""

    news: tuple[News, ...] = ()
    # The fields of the status that are to change; None removes one.
    status: Manifest = field(default_factory=dict)
    delete: Manifest | None = None
    create: tuple[Manifest, ...] = ()
    again_seconds: float | None = None


def decide(observed: Observed, options: Options, now: str) -> Decision:
    """What brings the cluster nearer to what the Workspace says; nothing where it is there already."""
    document = observed.workspace
    if document["metadata"].get("deletionTimestamp"):
        # What it owns goes with it.
        return Decision()
    try:
        workspace = parse_workspace(document, source=f"Workspace {document['metadata']['name']}")
        given = observed.configmap
        if given is None and workspace.tuning.config:
            return _without_config(observed, workspace, now)
        digest = revision_hash(workspace, given or default_configmap(workspace.method))
        revision = _revision(observed, digest)
        rendered = render(workspace, given, replace(options, owned=True, revision=revision))
    except ConfigurationError as error:
        return _refuse(observed, error, now)
    wanted = _Wanted(digest, revision, tuple(d for d in rendered.documents if not (given and d["kind"] == "ConfigMap")))
    if observed.job is None:
        return _begin(observed, wanted, now)
    if not _is_owned(observed.job, document):
        return _wait(observed, _taken(observed.job), now)
    if observed.job["metadata"].get("deletionTimestamp"):
        return _wait(observed, Standing(State.PENDING, "the Job of the revision before is being deleted"), now)
    if observed.job["metadata"].get("annotations", {}).get(HASH) != digest:
        return _replace(observed, wanted, now)
    return _follow(observed, wanted, now)


@dataclass(frozen=True)
class _Wanted:
    digest: str
    revision: int
    documents: tuple[Manifest, ...]


def config_name(workspace: Manifest) -> str:
    """The name of the ConfigMap that a Workspace reads, as far as it says one; empty where its method is unknown."""
    tuning = workspace.get("tuning") or {}
    if not isinstance(tuning, dict):
        return ""
    try:
        return str(tuning.get("config") or default_configmap(str(tuning.get("method", "")).lower())["metadata"]["name"])
    except OSError:
        return ""


def _status_of(observed: Observed) -> Mapping[str, Any]:
    return observed.workspace.get("status") or {}


def _revision(observed: Observed, digest: str) -> int:
    """The number of the revision `digest`: the one it has, or the next after all that were seen."""
    status, job = _status_of(observed), (observed.job or {}).get("metadata", {}).get("annotations", {})
    number = job.get(REVISION, "0")
    seen = [
        (status.get("hash"), int(status.get("revision") or 0)),
        (job.get(HASH), int(number) if number.isdigit() else 0),
    ]
    same = [revision for known, revision in seen if known == digest and revision]
    return same[0] if same else max(revision for _, revision in seen) + 1


def _is_owned(job: Manifest, workspace: Manifest) -> bool:
    uid = workspace["metadata"].get("uid")
    return any(owner.get("uid") == uid for owner in job["metadata"].get("ownerReferences") or [])


def _missing(workspace: Workspace) -> Standing:
    name, namespace = workspace.tuning.config, workspace.metadata.namespace
    message = (
        f"the ConfigMap {name} that tuning.config names is not in the namespace {namespace}. Hint: create it there."
    )
    return Standing(State.PENDING, message, reason="ConfigMapNotFound")


def _taken(job: Manifest) -> Standing:
    message = (
        f"a Job {job['metadata']['name']} that does not belong to this Workspace has its name. "
        "Hint: delete that Job, or give the Workspace another name."
    )
    return Standing(State.PENDING, message, reason="NameTaken")


def _refuse(observed: Observed, error: ConfigurationError, now: str) -> Decision:
    """Say what is wrong. A Job that runs already goes on: a typing mistake must not cost its hours."""
    message = in_one_line(error.message, error.hint)
    if observed.job and _is_owned(observed.job, observed.workspace):
        message += f" The Job of revision {_status_of(observed).get('revision', 1)} is left as it is."
    standing = Standing(State.FAILED, message, reason="WorkspaceInvalid")
    return Decision(_told(observed, standing), _changes(observed, standing, now, {}), again_seconds=_QUIET_SECONDS)


def _wait(observed: Observed, standing: Standing, now: str) -> Decision:
    news = _told(observed, standing) if standing.reason else ()
    return Decision(news, _changes(observed, standing, now, {}), again_seconds=_LIVELY_SECONDS)


def _without_config(observed: Observed, workspace: Workspace, now: str) -> Decision:
    """Wait for the ConfigMap; but what was begun or finished with it before it was removed goes on, or stays."""
    metadata, status, job = observed.workspace["metadata"], _status_of(observed), observed.job
    if job and _is_owned(job, observed.workspace) and not job["metadata"].get("deletionTimestamp"):
        volumes = job["spec"]["template"]["spec"].get("volumes", [])
        if any(volume.get("configMap", {}).get("name") == workspace.tuning.config for volume in volumes):
            annotations = job["metadata"].get("annotations", {})
            digest = annotations.get(HASH, "")
            return _follow(observed, _Wanted(digest, _revision(observed, digest), ()), now)
    if status.get("completionTime") and status.get("observedGeneration") == metadata.get("generation"):
        return Decision(again_seconds=_QUIET_SECONDS)
    return _wait(observed, _missing(workspace), now)


def _begin(observed: Observed, wanted: _Wanted, now: str) -> Decision:
    """Create the Job, unless this very revision has come to its end and somebody removed its Job since."""
    status = _status_of(observed)
    if status.get("hash") == wanted.digest and status.get("completionTime"):
        return _stay_finished(observed, now)
    if not observed.refusal and status.get("hash") == wanted.digest and reason_of(status) == _REFUSED:
        # Tried again, with nothing new to tell until it is created.
        return Decision(create=wanted.documents, again_seconds=_LIVELY_SECONDS)
    if observed.refusal:
        standing = Standing(State.FAILED, f"the cluster refused the Job: {observed.refusal}", reason=_REFUSED)
        news = _told(observed, standing)
    else:
        standing = Standing(State.PENDING, f"the Job of revision {wanted.revision} is being created")
        news = (News("JobCreated", f"the Job of revision {wanted.revision} is created"),)
    changes = _changes(observed, standing, now, _fresh(wanted))
    return Decision(news, changes, create=wanted.documents, again_seconds=_LIVELY_SECONDS)


def _stay_finished(observed: Observed, now: str) -> Decision:
    """Leave the status as it is; where a mistake has been in between, say again how the revision ended."""
    status = _status_of(observed)
    if reason_of(status) in SUCCEEDED_REASONS.values():
        return Decision(again_seconds=_QUIET_SECONDS)
    delivered = (status.get("output") or {}).get("image")
    message = f"delivered {delivered}" if delivered else "this revision has come to its end, and its Job was removed"
    standing = Standing(State(status["outcome"]), message, finished=True)
    return Decision((), _changes(observed, standing, now, {}), again_seconds=_QUIET_SECONDS)


def _replace(observed: Observed, wanted: _Wanted, now: str) -> Decision:
    standing = Standing(State.PENDING, "the Workspace was changed: the Job of the revision before is being deleted")
    news = News("JobReplaced", f"the Workspace was changed: its Job makes way for that of revision {wanted.revision}")
    changes = _changes(observed, standing, now, _fresh(wanted))
    return Decision((news,), changes, delete=observed.job, again_seconds=_LIVELY_SECONDS)


def _fresh(wanted: _Wanted) -> dict[str, Any]:
    """The status of a revision that begins: nothing of the one before."""
    ended = dict.fromkeys(("completionTime", "outcome", "progress", "output", "failedAttempts", "workerNodes"))
    return {**ended, "hash": wanted.digest, "revision": wanted.revision}


def _follow(observed: Observed, wanted: _Wanted, now: str) -> Decision:
    """Tell how the Job of this revision stands."""
    assert observed.job is not None  # noqa: S101 - the caller looked
    failed = failed_pods(observed.pods)
    standing = _standing(observed.job, observed.pods, failed)
    if standing.finished and _is_told(observed, standing):
        # Its pods may be gone by now, and with them what they said.
        return Decision(again_seconds=_QUIET_SECONDS)
    fields: dict[str, Any] = {"hash": wanted.digest, "revision": wanted.revision}
    fields["failedAttempts"] = len(failed) or None
    if nodes := nodes_of(observed.pods):
        fields["workerNodes"] = nodes
    if observed.progress:
        fields["progress"] = dict(observed.progress)
    status = _status_of(observed)
    if standing.finished:
        fields |= {"completionTime": status.get("completionTime") or now, "outcome": standing.state.value}
    news = [*_told(observed, standing)] if standing.reason else []
    if standing.state is State.SUCCEEDED:
        fields["output"] = delivery_of(observed.pods) or status.get("output")
        if not status.get("completionTime"):
            news.append(News("TuningSucceeded", standing.message))
    elif standing.state is State.FAILED and not status.get("completionTime"):
        news.append(News("TuningFailed", standing.message, warning=True))
    elif len(failed) > int(status.get("failedAttempts") or 0):
        news.append(News("AttemptFailed", _why(failed[-1]), warning=True))
    again = _QUIET_SECONDS if standing.finished else _LIVELY_SECONDS
    return Decision(tuple(news), _changes(observed, standing, now, fields), again_seconds=again)


def _is_told(observed: Observed, standing: Standing) -> bool:
    """Whether the status has this end of this generation already."""
    status, generation = _status_of(observed), observed.workspace["metadata"].get("generation")
    same = status.get("state") == standing.state.value and status.get("observedGeneration") == generation
    return same and bool(status.get("completionTime")) and reason_of(status) == SUCCEEDED_REASONS[standing.state]


def _standing(job: Manifest, pods: Sequence[Manifest], failed: Sequence[Manifest]) -> Standing:
    told = {
        entry["type"]: entry for entry in job.get("status", {}).get("conditions") or [] if entry["status"] == "True"
    }
    scheduled, scheduling = scheduling_of(pods)
    seen = Standing(State.PENDING, "", scheduled=scheduled, scheduling=scheduling)
    # Asked first: a Job that succeeded after a retry has failed pods as well.
    if "Complete" in told:
        delivery = delivery_of(pods)
        size = f" ({delivery['sizeBytes']} bytes)" if "sizeBytes" in delivery else ""
        message = f"delivered {delivery['image']}{size}" if delivery else "the tuning Job has succeeded"
        return replace(seen, state=State.SUCCEEDED, message=message, finished=True)
    if "Failed" in told:
        return replace(seen, state=State.FAILED, message=_why_failed(told["Failed"], failed), finished=True)
    if job.get("spec", {}).get("suspend"):
        return replace(seen, message="the Job is suspended: its queue has not let it go yet")
    alive = [pod for pod in pods if pod.get("status", {}).get("phase") not in ("Failed", "Succeeded")]
    scheduled, scheduling = scheduling_of(alive)
    seen = replace(seen, scheduled=scheduled, scheduling=scheduling)
    before = f"; attempt {len(failed)} failed: {_why(failed[-1])}" if failed else ""
    if trouble := trouble_of(alive):
        return replace(seen, message=trouble + before, reason="PodWaiting")
    if scheduled is False:
        return replace(seen, message=f"no node was found: {scheduling}{before}", reason="Unschedulable")
    running = running_in(alive)
    if running:
        return replace(seen, state=State.RUNNING, message=f"running: {', '.join(running)}{before}")
    return replace(seen, message="the pod has not started yet" + before)


def _why_failed(condition: Manifest, failed: Sequence[Manifest]) -> str:
    """The last attempt's cause; the Job controller's words where it has none of a pod (a deadline, say)."""
    words = f"{condition.get('reason', '')}: {condition.get('message', '')}"
    if not failed or condition.get("reason") == "DeadlineExceeded":
        return f"the Job failed: {words}"
    attempts = f" It was attempt {len(failed)}." if len(failed) > 1 else ""
    return _why(failed[-1]) + attempts


def _why(pod: Manifest) -> str:
    cause = cause_of(pod)
    return str(cause) if cause else why_gone(pod)


def _told(observed: Observed, standing: Standing) -> tuple[News, ...]:
    """News of a standing that has a reason of its own, when it is new."""
    if standing.message == message_of(_status_of(observed)):
        return ()
    return (News(standing.reason, standing.message, warning=True),)


def _changes(observed: Observed, standing: Standing, now: str, fields: Mapping[str, Any]) -> Manifest:
    """What differs from the status as it is."""
    before, metadata = _status_of(observed), observed.workspace["metadata"]
    generation = int(metadata.get("generation", 1))
    wanted = {
        "state": standing.state.value,
        "observedGeneration": generation,
        "conditions": conditions(standing, before, generation, now),
        **fields,
    }
    return {name: value for name, value in wanted.items() if before.get(name) != value}
