"""The objects of a small Kubernetes, with the semantics that a controller depends on. Knows no HTTP.

Source: kubernetes.io, "Kubernetes API Concepts", "Garbage Collection", "Object Names and IDs".
"""

import copy
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """A kind of object: where the API has it, and whether its status is written apart."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    status: bool = False


KINDS = (
    Kind("kaito.sh", "v1beta1", "workspaces", "Workspace", status=True),
    Kind("batch", "v1", "jobs", "Job", status=True),
    Kind("", "v1", "pods", "Pod", status=True),
    Kind("", "v1", "configmaps", "ConfigMap"),
    Kind("", "v1", "services", "Service"),
    Kind("", "v1", "events", "Event"),
    Kind("", "v1", "namespaces", "Namespace", namespaced=False),
    Kind("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False),
    # Its status is no subresource: see deploy/controller.yaml.
    Kind("kopf.dev", "v1", "clusterkopfpeerings", "ClusterKopfPeering", namespaced=False),
)


class Refusal(Exception):
    """A request that the API server refuses, with its status code and reason."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message


class Store:
    """All objects; every change has a resourceVersion of its own and is kept for those who watch."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.objects: dict[tuple[str, str, str], Manifest] = {}
        self.history: list[tuple[int, str, str, Manifest]] = []
        self.version = 1
        # Watches that begin before this are told 410 Gone.
        self.oldest = 0
        # Refuses what it raises a Refusal for, as an admission webhook or a quota does.
        self.admit: Callable[[Manifest], None] = lambda _: None

    def get(self, plural: str, namespace: str, name: str) -> Manifest:
        with self.lock:
            found = self.objects.get((plural, namespace, name))
            if found is None:
                raise Refusal(404, "NotFound", f'{plural} "{name}" not found')
            return copy.deepcopy(found)

    def list(self, plural: str, namespace: str = "", selector: str = "") -> list[Manifest]:
        with self.lock:
            found = [
                copy.deepcopy(value)
                for (kind, where, _), value in self.objects.items()
                if kind == plural and namespace in ("", where)
            ]
        return [value for value in found if selected(value, selector)]

    def create(self, plural: str, manifest: Manifest) -> Manifest:
        kind = kind_of(plural)
        manifest = copy.deepcopy(manifest)
        metadata = manifest.setdefault("metadata", {})
        key = (plural, metadata.get("namespace", ""), metadata["name"])
        with self.lock:
            if key in self.objects:
                raise Refusal(409, "AlreadyExists", f'{plural} "{key[2]}" already exists')
            self.admit(manifest)
            metadata.update(uid=str(uuid.uuid4()), creationTimestamp=timestamp(), generation=1)
            if kind.status:
                manifest.pop("status", None)
            self._store("ADDED", key, manifest)
            return copy.deepcopy(manifest)

    def patch(self, plural: str, namespace: str, name: str, patch: Manifest, *, status: bool = False) -> Manifest:
        """A JSON merge patch (RFC 7396) of the object, or of its status alone."""
        key = (plural, namespace, name)
        with self.lock:
            old = self.get(*key)
            told = patch.get("metadata") or {}
            for field in ("resourceVersion", "uid"):
                if told.get(field, old["metadata"][field]) != old["metadata"][field]:
                    raise Refusal(409, "Conflict", f'{plural} "{name}": the object has been modified')
            if kind_of(plural).status:
                patch = {k: v for k, v in patch.items() if (k == "status") == status}
            else:
                patch = {k: v for k, v in patch.items() if k != "metadata"} | {"metadata": told}
            new = merge(old, patch)
            for field in ("uid", "creationTimestamp", "resourceVersion"):
                new["metadata"][field] = old["metadata"][field]
            if new == old:
                return old
            if {**new, "metadata": 0, "status": 0} != {**old, "metadata": 0, "status": 0}:
                new["metadata"]["generation"] += 1
            self._store("MODIFIED", key, new)
            return copy.deepcopy(new)

    def delete(self, plural: str, namespace: str, name: str, options: Manifest | None = None) -> Manifest:
        options = options or {}
        key = (plural, namespace, name)
        with self.lock:
            found = self.get(*key)
            uid = (options.get("preconditions") or {}).get("uid")
            if uid and uid != found["metadata"]["uid"]:
                raise Refusal(409, "Conflict", f"the UID in the precondition ({uid}) does not match")
            if options.get("propagationPolicy") == "Foreground":
                found["metadata"].setdefault("finalizers", []).append("foregroundDeletion")
            # A kubelet ends a pod's containers before the pod goes.
            if plural == "pods" and options.get("gracePeriodSeconds") != 0:
                found["metadata"].setdefault("finalizers", []).append("test/kubelet")
            if found["metadata"].get("finalizers"):
                found["metadata"].setdefault("deletionTimestamp", timestamp())
                self._store("MODIFIED", key, found)
            else:
                self._remove(key)
            return found

    def finalize(self, plural: str, namespace: str, name: str) -> None:
        """Take the finalizers off an object that is being deleted: it goes."""
        with self.lock:
            self._remove((plural, namespace, name))

    def collect(self) -> None:
        """One round of the garbage collector: what has no owner goes; a foreground deletion waits for what it owns."""
        with self.lock:
            alive = {value["metadata"]["uid"]: value for value in self.objects.values()}
            for key, value in list(self.objects.items()):
                owners = value["metadata"].get("ownerReferences") or []
                gone = [owner for owner in owners if owner["uid"] not in alive or leaving(alive[owner["uid"]])]
                if owners and len(gone) == len(owners) and not value["metadata"].get("deletionTimestamp"):
                    policy = {"propagationPolicy": "Foreground"} if key[0] == "jobs" else {}
                    self.delete(*key, policy)
            for key, value in list(self.objects.items()):
                uid = value["metadata"]["uid"]
                if leaving(value) and not any(
                    owner["uid"] == uid
                    for other in self.objects.values()
                    for owner in other["metadata"].get("ownerReferences") or []
                ):
                    self._remove(key)

    def changes(self, plural: str, namespace: str, since: int, selector: str) -> Iterator[tuple[int, str, Manifest]]:
        """What was changed after `since`."""
        with self.lock:
            if since < self.oldest:
                raise Refusal(410, "Expired", f"too old resource version: {since} ({self.oldest})")
            found = [entry for entry in self.history if entry[0] > since and entry[2] == plural]
        for version, kind, _, value in found:
            if namespace in ("", value["metadata"].get("namespace", "")) and selected(value, selector):
                yield version, kind, value

    def forget(self) -> None:
        """Compact the history: whoever watches from an older version has to list again."""
        with self.lock:
            self.version += 1
            self.oldest = self.version
            self.history.clear()

    def _store(self, change: str, key: tuple[str, str, str], value: Manifest) -> None:
        self.version += 1
        kind = kind_of(key[0])
        value["apiVersion"] = f"{kind.group}/{kind.version}" if kind.group else kind.version
        value["kind"] = kind.kind
        value["metadata"]["resourceVersion"] = str(self.version)
        self.objects[key] = copy.deepcopy(value)
        self.history.append((self.version, change, key[0], copy.deepcopy(value)))

    def _remove(self, key: tuple[str, str, str]) -> None:
        value = self.objects.pop(key, None)
        if value:
            self.version += 1
            value["metadata"]["resourceVersion"] = str(self.version)
            self.history.append((self.version, "DELETED", key[0], value))


def kind_of(plural: str) -> Kind:
    """The kind that has this plural."""
    return next(kind for kind in KINDS if kind.plural == plural)


def leaving(value: Manifest) -> bool:
    """Whether an object is deleted in the foreground."""
    metadata = value["metadata"]
    return bool(metadata.get("deletionTimestamp")) and "foregroundDeletion" in metadata.get("finalizers", [])


def selected(value: Manifest, selector: str) -> bool:
    """Whether the labels fulfil `key` or `key=value`."""
    key, equal, wanted = selector.partition("=")
    labels = value["metadata"].get("labels") or {}
    return not selector or (labels.get(key) == wanted if equal else key in labels)


def merge(target: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result


def timestamp() -> str:
    """The time now, as metadata has it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
