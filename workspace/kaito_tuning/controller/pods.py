"""What the pods of a Job tell: where they wait, why one failed, what was delivered. Knows no API server."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from kaito_tuning.pod import PUSHER, Manifest
from tuning.errors import in_one_line
from tuning.redaction import redact

# What a kubelet says of a container that only waits for its turn.
_NO_NEWS = {"", "PodInitializing", "ContainerCreating"}
_SIGKILL = 137
_LONGEST_FOREIGN_MESSAGE = 300


@dataclass(frozen=True)
class Cause:
    """Why a pod failed: the container that failed first, its exit code, its last sentence, and what to do."""

    pod: str
    container: str
    exit_code: int
    name: str
    message: str
    hint: str

    def __str__(self) -> str:
        named = f"{self.exit_code} ({self.name})" if self.name else str(self.exit_code)
        return in_one_line(f"container {self.container} ended with {named}: {self.message}", self.hint)


def failed_pods(pods: Sequence[Manifest]) -> list[Manifest]:
    """The pods that failed, the oldest first."""
    failed = [pod for pod in pods if pod.get("status", {}).get("phase") == "Failed"]
    return sorted(failed, key=lambda pod: (pod["metadata"].get("creationTimestamp", ""), pod["metadata"]["name"]))


def cause_of(pod: Manifest) -> Cause | None:
    """Why `pod` failed; None where none of its containers says so (it was evicted before it began, say)."""
    for container, ended in _endings(pod):
        code = int(ended.get("exitCode", 0))
        if code:
            return _cause(pod["metadata"]["name"], container, code, ended)
    return None


def why_gone(pod: Manifest) -> str:
    """What the cluster says of a pod that failed for no fault of its containers."""
    status = pod.get("status", {})
    text = status.get("message") or status.get("reason") or "it left no message"
    return in_one_line(f"pod {pod['metadata']['name']} failed: {redact(text)}")


def trouble_of(pods: Sequence[Manifest]) -> str:
    """What a pod that has not begun waits for, as an image that cannot be pulled; empty where nothing is wrong."""
    for pod in pods:
        for status in _container_statuses(pod):
            waiting = status.get("state", {}).get("waiting", {})
            if waiting.get("reason", "") not in _NO_NEWS:
                text = redact(waiting.get("message", "")) or "no message"
                return f"container {status['name']} waits: {waiting['reason']}: {text}"
    return ""


def scheduling_of(pods: Sequence[Manifest]) -> tuple[bool | None, str]:
    """Whether a node was found for each pod, and the scheduler's words where not; None before it was tried."""
    told = [
        condition
        for pod in pods
        for condition in pod.get("status", {}).get("conditions", [])
        if condition.get("type") == "PodScheduled"
    ]
    for condition in told:
        if condition.get("status") != "True":
            return False, redact(condition.get("message") or condition.get("reason") or "")
    return (True, "") if told else (None, "")


def running_in(pods: Iterable[Manifest]) -> list[str]:
    """The containers that run now, in the order of the pods."""
    return [
        status["name"] for pod in pods for status in _container_statuses(pod) if "running" in status.get("state", {})
    ]


def nodes_of(pods: Iterable[Manifest]) -> list[str]:
    """The nodes that the pods run on."""
    return sorted({pod["spec"]["nodeName"] for pod in pods if pod.get("spec", {}).get("nodeName")})


def delivery_of(pods: Iterable[Manifest]) -> dict[str, Any]:
    """What the pusher said that it delivered: `image` with its digest, and `sizeBytes`; empty where it said nothing."""
    for pod in pods:
        for container, ended in _endings(pod):
            said = _said(ended)
            if container == PUSHER and ended.get("exitCode") == 0 and "image" in said:
                return {key: said[key] for key in ("image", "sizeBytes") if key in said}
    return {}


def metrics_url(pods: Iterable[Manifest]) -> str:
    """Where the trainer that runs now serves its figures; empty where none runs."""
    for pod in pods:
        address = pod.get("status", {}).get("podIP", "")
        running = {status["name"] for status in _container_statuses(pod) if "running" in status.get("state", {})}
        for container in pod.get("spec", {}).get("containers", []):
            for port in container.get("ports", []):
                if address and port.get("name") == "metrics" and container["name"] in running:
                    host = f"[{address}]" if ":" in address else address
                    return f"http://{host}:{port['containerPort']}/metrics"
    return ""


def _container_statuses(pod: Manifest) -> list[Manifest]:
    """The statuses of its containers in the order of the pod's spec, which the kubelet does not keep."""
    spec, status = pod.get("spec", {}), pod.get("status", {})
    told = {
        entry["name"]: entry
        for entry in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    }
    names = [container["name"] for container in [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]]
    return [told[name] for name in names if name in told]


def _endings(pod: Manifest) -> Iterator[tuple[str, Manifest]]:
    for status in _container_statuses(pod):
        ended = status.get("state", {}).get("terminated")
        if ended:
            yield status["name"], ended


def _said(ended: Manifest) -> dict[str, Any]:
    """A termination message of ours; empty where it is somebody else's."""
    try:
        content = json.loads(ended.get("message", ""))
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _cause(pod: str, container: str, code: int, ended: Manifest) -> Cause:
    said = _said(ended)
    if said.get("message"):
        return Cause(pod, container, code, said.get("cause", ""), str(said["message"]), str(said.get("hint", "")))
    reason = ended.get("reason", "")
    if reason == "OOMKilled":
        hint = "give the container more memory, or lower what it takes: see `kaito-tuning plan`"
        return Cause(pod, container, code, reason, "it took more memory than its limit and was killed", hint)
    if code == _SIGKILL:
        message = "it was killed (SIGKILL)"
    else:
        foreign = redact(ended.get("message", "")).strip()[-_LONGEST_FOREIGN_MESSAGE:]
        message = foreign or "it left no message"
    return Cause(
        pod, container, code, "" if reason == "Error" else reason, message, f"kubectl logs {pod} -c {container}"
    )
