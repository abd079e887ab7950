"""A registry in memory, with the part of the distribution API that a push needs, and faults on request.

Source: opencontainers/distribution-spec v1.1. Tests against a real registry stand in tests/integration.
"""

import base64
import hashlib
import json
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.support.loopback import LoopbackServer

USER, PASSWORD = "ci", "ci-pass"


@dataclass
class FakeRegistry(LoopbackServer):
    """`auth` is none, basic or bearer. A `fault` may answer a request itself and then returns True."""

    auth: str = "basic"
    fault: Callable[[BaseHTTPRequestHandler], bool] = lambda _: False
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    readers: set[str] = field(default_factory=set)
    sessions: dict[str, bytes] = field(default_factory=dict)
    lists_referrers: bool = False

    def __enter__(self) -> "FakeRegistry":
        registry = self

        class Handler(_Handler):
            state = registry

        self.serve_with(Handler)
        return self

    def write_config(self, folder: Path, password: str = PASSWORD) -> Path:
        """Write a docker config.json with credentials for this registry; return its folder."""
        auth = base64.b64encode(f"{USER}:{password}".encode()).decode()
        (folder / "config.json").write_text(json.dumps({"auths": {self.host: {"auth": auth}}}))
        return folder


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: FakeRegistry

    def _handle(self) -> None:
        self.state.requests.append(f"{self.command} {urlsplit(self.path).path}")
        self._body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.state.fault(self):
            return
        if self.path.startswith("/token"):
            self._token()
        elif not self._authorized():
            self._refuse()
        elif match := re.match(r"/v2/(.+)/(blobs|manifests)/(.*)", self.path):
            getattr(self, f"_{match[2]}")(match[1], match[3])
        else:
            self.answer(404)

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = _handle  # noqa: N815 - the names that http.server looks for

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def error(self, status: int, code: str, message: str, **headers: str) -> None:
        self.answer(status, json.dumps({"errors": [{"code": code, "message": message}]}).encode(), **headers)

    def _knows_password(self) -> bool:
        expected = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        return self.headers.get("Authorization") == f"Basic {expected}"

    def _authorized(self) -> bool:
        match self.state.auth:
            case "none":
                return True
            case "basic":
                return self._knows_password()
            case _:
                may = self.state.readers if self.command in {"GET", "HEAD"} else self.state.tokens
                return self.headers.get("Authorization", "").removeprefix("Bearer ") in may

    def _refuse(self) -> None:
        realm = f"http://{self.state.host}/token"
        challenge = 'Basic realm="ci"' if self.state.auth == "basic" else f'Bearer realm="{realm}",service="ci"'
        self.error(401, "UNAUTHORIZED", "authentication required", WWW_Authenticate=challenge)

    def _token(self) -> None:
        form = parse_qs(self._body.decode())
        if not self._knows_password() and form.get("refresh_token") != [PASSWORD]:
            self.error(401, "UNAUTHORIZED", "incorrect username or password")
            return
        query = form or parse_qs(urlsplit(self.path).query)
        token = uuid.uuid4().hex
        actions = query.get("scope", [""])[0].rpartition(":")[2].split(",")
        if "pull" in actions:
            self.state.readers.add(token)
        if "push" in actions:
            self.state.tokens.add(token)
        self.answer(200, json.dumps({"token": token}).encode())

    def _blobs(self, repository: str, rest: str) -> None:
        session = rest.removeprefix("uploads/").partition("?")[0]
        if self.command == "POST":
            session = uuid.uuid4().hex
            self.state.sessions[session] = b""
            self.answer(202, Location=f"/v2/{repository}/blobs/uploads/{session}?_state=x")
        elif self.command == "DELETE":
            self.answer(204)
        elif self.command == "PATCH":
            first = int(self.headers["Content-Range"].partition("-")[0])
            if first != len(self.state.sessions[session]):
                self.answer(416)
                return
            self.state.sessions[session] += self._body
            self.answer(202, Range=f"0-{max(len(self.state.sessions[session]) - 1, 0)}", Location=self.path)
        elif self.command == "GET" and session in self.state.sessions:
            self.answer(204, Range=f"0-{max(len(self.state.sessions[session]) - 1, 0)}")
        elif self.command == "PUT":
            self._body = self.state.sessions.pop(session, b"") + self._body
            digest = parse_qs(urlsplit(self.path).query)["digest"][0]
            if digest != "sha256:" + hashlib.sha256(self._body).hexdigest():
                self.error(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
                return
            self.state.blobs[digest] = self._body
            self.answer(201)
        elif rest in self.state.blobs:
            self.answer(200, self.state.blobs[rest])
        else:
            self.answer(404)

    def _manifests(self, repository: str, name: str) -> None:
        if self.command == "PUT":
            content: dict[str, Any] = json.loads(self._body)
            needed = [entry["digest"] for entry in [*content.get("layers", []), content.get("config")] if entry]
            missing = [digest for digest in needed if digest not in self.state.blobs]
            missing += [m["digest"] for m in content.get("manifests", []) if m["digest"] not in self.state.manifests]
            if missing:
                self.error(400, "MANIFEST_BLOB_UNKNOWN", f"blob unknown to registry: {missing}")
                return
            digest = "sha256:" + hashlib.sha256(self._body).hexdigest()
            for key in (name, digest):
                self.state.manifests[key] = (self.headers["Content-Type"], self._body)
            subject = content.get("subject", {}).get("digest")
            extra = {"OCI_Subject": subject} if subject and self.state.lists_referrers else {}
            self.answer(201, Docker_Content_Digest=digest, **extra)
        elif name in self.state.manifests:
            media_type, body = self.state.manifests[name]
            self.answer(200, body, Content_Type=media_type)
        else:
            self.error(404, "MANIFEST_UNKNOWN", "manifest unknown")

    def log_message(self, *args: Any) -> None:
        pass
