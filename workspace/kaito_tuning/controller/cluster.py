"""The few things that the controller asks an API server for, as plain manifests. Knows nothing of tuning.

kopf watches and logs in; its client is not public, so this speaks the REST API itself, with kopf's credentials.
Source: kubernetes.io, "Kubernetes API Concepts".
"""

import json
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import aiohttp
import kopf

from kaito_tuning.pod import Manifest

_TIMEOUT = aiohttp.ClientTimeout(total=30)
_MERGE_PATCH = "application/merge-patch+json"
# Where the API server has what: the path before the namespace, and the plural.
_KINDS = {
    "Workspace": ("/apis/kaito.sh/v1beta1", "workspaces"),
    "Job": ("/apis/batch/v1", "jobs"),
    "Pod": ("/api/v1", "pods"),
    "ConfigMap": ("/api/v1", "configmaps"),
    "Service": ("/api/v1", "services"),
    "Event": ("/api/v1", "events"),
}


class ApiError(Exception):
    """The API server said no: its status code and its words."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class Unreachable(Exception):
    """The API server did not answer."""


class Cluster:
    """An API server. `login` gives credentials, and is asked again when they are no longer accepted."""

    def __init__(self, login: Callable[[], kopf.ConnectionInfo]) -> None:
        self._login = login
        self._server = ""
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "Cluster":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._log_out()

    async def get(self, kind: str, namespace: str, name: str) -> Manifest | None:
        """The object, or None where there is none."""
        try:
            return await self._ask("GET", _path(kind, namespace, name))
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    async def list_by_label(self, kind: str, namespace: str, label: str, value: str) -> list[Manifest]:
        """All objects of a namespace that have the label."""
        found = await self._ask("GET", _path(kind, namespace), params={"labelSelector": f"{label}={value}"})
        items: list[Manifest] = found["items"]
        return items

    async def create(self, manifest: Manifest) -> bool:
        """Create an object; False where one of its name is there already."""
        path = _path(manifest["kind"], manifest["metadata"]["namespace"])
        try:
            await self._ask("POST", path, manifest)
        except ApiError as error:
            if error.code == 409:
                return False
            raise
        return True

    async def delete(self, manifest: Manifest) -> None:
        """Delete exactly this object, and before it what it owns; nothing where it is gone or another has its name."""
        metadata = manifest["metadata"]
        options = {"propagationPolicy": "Foreground", "preconditions": {"uid": metadata["uid"]}}
        try:
            await self._ask("DELETE", _path(manifest["kind"], metadata["namespace"], metadata["name"]), options)
        except ApiError as error:
            if error.code not in (404, 409):
                raise

    async def patch_status(self, manifest: Manifest, status: Mapping[str, Any]) -> None:
        """Merge `status` into the status of the object as it was read; ApiError 409 where it was changed since."""
        metadata = manifest["metadata"]
        versioned = {key: metadata[key] for key in ("uid", "resourceVersion")}
        path = _path(manifest["kind"], metadata["namespace"], metadata["name"]) + "/status"
        await self._ask("PATCH", path, {"metadata": versioned, "status": status}, content_type=_MERGE_PATCH)

    async def get_path(self, path: str) -> Manifest:
        """Whatever is at `path` of the API."""
        return await self._ask("GET", path)

    async def _ask(
        self,
        verb: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        params: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Manifest:
        try:
            return await self._once(verb, path, body, params, content_type)
        except ApiError as error:
            if error.code != 401:
                raise
        # A token that the kubelet has renewed since.
        await self._log_out()
        return await self._once(verb, path, body, params, content_type)

    async def _once(
        self,
        verb: str,
        path: str,
        body: Mapping[str, Any] | None,
        params: Mapping[str, str] | None,
        content_type: str,
    ) -> Manifest:
        session = self._logged_in()
        data = None if body is None else json.dumps(body)
        headers = {"Accept": "application/json", "Content-Type": content_type}
        try:
            async with session.request(
                verb, self._server + path, params=params, data=data, headers=headers
            ) as response:
                text = await response.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unreachable(f"the API server does not answer: {error or type(error).__name__}") from error
        if response.status >= 400:
            raise ApiError(response.status, _words(text))
        content: Manifest = json.loads(text)
        return content

    def _logged_in(self) -> aiohttp.ClientSession:
        if self._session is None:
            info = self._login()
            self._server = info.server.rstrip("/")
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=info.as_ssl_context()),
                headers=info.as_http_headers(),
                proxy=info.proxy_url,
                timeout=_TIMEOUT,
            )
        return self._session

    async def _log_out(self) -> None:
        session, self._session = self._session, None
        if session:
            await session.close()


def _path(kind: str, namespace: str, name: str = "") -> str:
    prefix, plural = _KINDS[kind]
    return f"{prefix}/namespaces/{namespace}/{plural}" + (f"/{name}" if name else "")


def _words(text: str) -> str:
    """The message of a Status; a proxy's page as it is, cut."""
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text[:200]
