"""A small Kubernetes API server on the loopback address: discovery, objects, watches, roles; and faults on demand."""

import json
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.support.kubernetes_store import KINDS, Kind, Manifest, Refusal, Store
from tests.support.loopback import LoopbackServer

TOKEN = "t0ken-of-the-controller"
_BOOKMARK_SECONDS = 0.5
_VERBS = {"GET": "get", "POST": "create", "PATCH": "patch", "DELETE": "delete"}


class KubernetesApi(LoopbackServer):
    """Answers with the objects of `store`. `rules` are those of a ClusterRole; without any everything is allowed.

    A `fault` is asked before each request: what it returns is the status code to fail with, -1 to hang up.
    """

    def __init__(self, rules: list[Manifest] | None = None) -> None:
        self.store = Store()
        self.rules = rules
        self.fault: Callable[[str, str], int] = lambda verb, path: 0
        # Every request that changes something.
        self.written: list[tuple[str, str]] = []
        self.refused: list[str] = []
        # A watch that has this many generations behind it ends.
        self.watches = 0

    def __enter__(self) -> "KubernetesApi":
        self.serve_with(type("Handler", (_Handler,), {"api": self})).handle_error = lambda *_: None  # type: ignore[method-assign]
        return self

    def end_watches(self) -> None:
        """Close every watch, as an API server that is restarted does."""
        self.watches += 1

    def write_kubeconfig(self, folder: Path) -> Path:
        """A kubeconfig for this server; its path."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "clusters": [{"name": "test", "cluster": {"server": f"http://{self.host}"}}],
            "users": [{"name": "test", "user": {"token": TOKEN}}],
        }
        path = folder / "kubeconfig"
        path.write_text(yaml.safe_dump(config))
        return path


class _Handler(BaseHTTPRequestHandler):
    api: KubernetesApi
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_PATCH = do_DELETE = do_GET  # noqa: N815 - the base class's names

    def _answer(self) -> None:
        url = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or b"null") if length else None
        fault = self.api.fault(self.command, url.path)
        if fault < 0:
            self.close_connection = True
            return
        try:
            if fault:
                raise Refusal(fault, "InternalError", "a fault on demand")
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                raise Refusal(401, "Unauthorized", "Unauthorized")
            found = _discovery(url.path)
            if found is None:
                found = self._objects(url.path, {k: v[0] for k, v in parse_qs(url.query).items()}, body)
            if found is not None:
                self._send(200, found)
        except Refusal as refusal:
            self.api.refused.append(f"{refusal.code} {self.command} {url.path}")
            self._send(refusal.code, _status(refusal))

    def _objects(self, path: str, query: dict[str, str], body: Manifest | None) -> Manifest | None:
        store = self.api.store
        kind, namespace, name, status = _parse(path)
        plural = kind.plural
        verb = _VERBS[self.command]
        if verb == "get" and not name:
            verb = "watch" if query.get("watch") == "true" else "list"
        self._authorize(verb, kind, "/status" if status else "")
        if self.command != "GET":
            self.api.written.append((self.command, path))
        match verb:
            case "get":
                return store.get(plural, namespace, name)
            case "list":
                with store.lock:
                    items = store.list(plural, namespace, query.get("labelSelector", ""))
                    version = str(store.version)
                return {"kind": f"{kind.kind}List", "metadata": {"resourceVersion": version}, "items": items}
            case "watch":
                self._watch(plural, namespace, query)
                return None
            case "create":
                assert body is not None
                body["metadata"].setdefault("namespace", namespace)
                return store.create(plural, body)
            case "patch":
                assert body is not None
                return store.patch(plural, namespace, name, body, status=status)
            case _:
                return store.delete(plural, namespace, name, body)

    def _authorize(self, verb: str, kind: Kind, part: str) -> None:
        if self.api.rules is None:
            return
        for rule in self.api.rules:
            if kind.group in rule["apiGroups"] and kind.plural + part in rule["resources"] and verb in rule["verbs"]:
                return
        raise Refusal(403, "Forbidden", f'cannot {verb} resource "{kind.plural}{part}" in API group "{kind.group}"')

    def _watch(self, plural: str, namespace: str, query: dict[str, str]) -> None:
        store, generation = self.api.store, self.api.watches
        since = int(query.get("resourceVersion") or store.version)
        ends = time.monotonic() + float(query.get("timeoutSeconds") or 300)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        marked = time.monotonic()
        try:
            while time.monotonic() < ends and generation == self.api.watches:
                for version, change, value in store.changes(plural, namespace, since, query.get("labelSelector", "")):
                    since = version
                    self._chunk({"type": change, "object": value})
                if query.get("allowWatchBookmarks") == "true" and time.monotonic() - marked > _BOOKMARK_SECONDS:
                    marked = time.monotonic()
                    with store.lock:
                        if not list(store.changes(plural, namespace, since, "")):
                            since = store.version
                    metadata = {"resourceVersion": str(since)}
                    self._chunk({"type": "BOOKMARK", "object": {"kind": plural, "metadata": metadata}})
                time.sleep(0.01)
        except Refusal as refusal:
            self._chunk({"type": "ERROR", "object": _status(refusal)})
        except OSError:
            self.close_connection = True
            return
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, content: Manifest) -> None:
        line = json.dumps(content).encode() + b"\n"
        self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
        self.wfile.flush()

    def _send(self, code: int, content: Manifest) -> None:
        data = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        pass


def _status(refusal: Refusal) -> Manifest:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": refusal.code,
        "reason": refusal.reason,
        "message": refusal.message,
    }


def _discovery(path: str) -> Manifest | None:
    groups = {kind.group: kind.version for kind in KINDS if kind.group}
    match path.strip("/").split("/"):
        case ["version"]:
            return {"major": "1", "minor": "34"}
        case ["api"]:
            return {"versions": ["v1"]}
        case ["apis"]:
            versions = {
                group: {"groupVersion": f"{group}/{version}", "version": version} for group, version in groups.items()
            }
            return {"groups": [{"name": g, "versions": [v], "preferredVersion": v} for g, v in versions.items()]}
        case ["api", "v1"]:
            return {"resources": [entry for kind in KINDS if not kind.group for entry in _resources(kind)]}
        case ["apis", group, version] if groups.get(group) == version:
            return {"resources": [entry for kind in KINDS if kind.group == group for entry in _resources(kind)]}
    return None


def _resources(kind: Kind) -> list[Manifest]:
    verbs = ["create", "delete", "get", "list", "patch", "watch"]
    entry = {"name": kind.plural, "kind": kind.kind, "singularName": kind.kind.lower(), "namespaced": kind.namespaced}
    parts = [{**entry, "name": f"{kind.plural}/status", "verbs": ["get", "patch"]}] if kind.status else []
    return [{**entry, "verbs": verbs}, *parts]


def _parse(path: str) -> tuple[Kind, str, str, bool]:
    """The kind, namespace, name and whether it is about the status; the last three may be empty."""
    parts = path.strip("/").split("/")
    group, parts = ("", parts[2:]) if parts[0] == "api" else (parts[1], parts[3:])
    namespace = ""
    if parts[0] == "namespaces" and len(parts) > 2:
        namespace, parts = parts[1], parts[2:]
    for kind in KINDS:
        if (kind.group, kind.plural) == (group, parts[0]):
            return kind, namespace, parts[1] if len(parts) > 1 else "", parts[2:] == ["status"]
    raise Refusal(404, "NotFound", f"the server could not find {path}")
