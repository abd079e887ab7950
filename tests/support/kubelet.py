"""What the Job controller, the scheduler and a kubelet do with a Job, as far as its status and its pods show it."""

import json
import threading
from typing import Any

from tests.support.kubernetes_store import Manifest, Store, timestamp

NAMESPACE = "team"


class Kubelet:
    """Moves the Jobs of one namespace on, when told; collects garbage and ends deleted pods by itself."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._collect, daemon=True)

    def __enter__(self) -> "Kubelet":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _collect(self) -> None:
        while not self._ended.wait(0.05):
            for pod in self._store.list("pods", NAMESPACE):
                if pod["metadata"].get("deletionTimestamp"):
                    self._store.finalize("pods", NAMESPACE, pod["metadata"]["name"])
            self._store.collect()

    def start_pod(self, job: str, attempt: int = 1, address: str = "", metrics_port: int = 0) -> Manifest:
        """A pod of `job` on a node, with its containers waiting; the Job has one active pod."""
        owner = self._store.get("jobs", NAMESPACE, job)
        spec = json.loads(json.dumps(owner["spec"]["template"]["spec"]))
        spec["nodeName"] = "node-1"
        for container in spec["containers"] if metrics_port else []:
            for port in container.get("ports", []):
                port["containerPort"] = metrics_port
        reference = {"apiVersion": "batch/v1", "kind": "Job", "name": job, "uid": owner["metadata"]["uid"]}
        metadata = {
            "name": f"{job}-{attempt}",
            "namespace": NAMESPACE,
            "labels": owner["spec"]["template"]["metadata"]["labels"],
            "ownerReferences": [{**reference, "controller": True, "blockOwnerDeletion": True}],
        }
        pod = self._store.create("pods", {"metadata": metadata, "spec": spec})
        scheduled = {"type": "PodScheduled", "status": "True"}
        waiting = {"waiting": {"reason": "PodInitializing"}}
        status = {
            "phase": "Pending",
            "conditions": [scheduled],
            **({"podIP": address} if address else {}),
            "initContainerStatuses": [{"name": c["name"], "state": waiting} for c in spec.get("initContainers", [])],
            # A kubelet sorts them by name.
            "containerStatuses": sorted(
                ({"name": c["name"], "state": waiting} for c in spec["containers"]), key=lambda entry: entry["name"]
            ),
        }
        self._store.patch("pods", NAMESPACE, pod["metadata"]["name"], {"status": status}, status=True)
        self.set_job(job, active=1, ready=0, startTime=timestamp())
        return pod

    def set_job(self, job: str, **status: Any) -> None:
        """Write fields of the Job's status."""
        self._store.patch("jobs", NAMESPACE, job, {"status": status}, status=True)

    def set_container(self, pod: str, container: str, state: Manifest, phase: str = "Running") -> None:
        """Write the state of one container."""
        status = self._store.get("pods", NAMESPACE, pod)["status"]
        for entry in status["initContainerStatuses"] + status["containerStatuses"]:
            if entry["name"] == container:
                entry["state"] = state
        self._store.patch("pods", NAMESPACE, pod, {"status": {**status, "phase": phase}}, status=True)

    def run_containers(self, pod: str, *names: str) -> None:
        """Let containers run."""
        for name in names:
            self.set_container(pod, name, {"running": {"startedAt": timestamp()}})

    def end_container(self, pod: str, container: str, code: int, phase: str = "Running", **said: Any) -> None:
        """Let a container end with `code`; `said` is its termination message, `reason` the kubelet's own."""
        reason = said.pop("reason", "Error" if code else "Completed")
        ended = {"exitCode": code, "reason": reason, "message": json.dumps({"exitCode": code, **said}) if said else ""}
        self.set_container(pod, container, {"terminated": ended}, phase)

    def end_job(self, job: str, kind: str, reason: str = "", message: str = "") -> None:
        """The Job's last condition: `Complete` or `Failed`."""
        self.set_job(
            job, active=0, ready=0, conditions=[{"type": kind, "status": "True", "reason": reason, "message": message}]
        )
