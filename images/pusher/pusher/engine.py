"""Push through a Docker engine, for sites that want it and for `docker run` at once.

The engine is given the image that we composed, streamed as an archive that `docker load` reads, and not a build
context: a build would make other layers and another config of the same files. What the engine pushes has the same
config and the same layers' contents for its own architecture; it compresses them, so that the manifest is its own.
"""

import json
import logging
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import requests
from docker.errors import APIError, DockerException

from pusher.blob import Blob
from pusher.image import CONFIG_TYPE
from pusher.referrers import Referrer
from pusher.registry import RegistryStore
from tuning.docker_config import Credentials
from tuning.errors import AccessDenied, InputNotFound, ResourceExhausted, TransientError
from tuning.image_reference import ImageReference
from tuning.redaction import redact
from tuning.retry import retry

# The engine answers nothing while it unpacks and compresses.
_TIMEOUT_SECONDS = 3600
_PROGRESS_SECONDS = 10.0
_CHECK_SECONDS = 30.0

logger = logging.getLogger(__name__)


class EngineStore:
    """One repository of a registry, reached through an engine; `registry` is the same one, asked directly."""

    def __init__(
        self,
        reference: ImageReference,
        registry: RegistryStore,
        read_credentials: Callable[[], Sequence[Credentials]],
        *,
        host: str,
        certificates: Path | None,
        deadline_seconds: float,
    ) -> None:
        self._reference = reference
        self._registry = registry
        self._read_credentials = read_credentials
        self._environ = {"DOCKER_HOST": host} if host else {}
        if certificates:
            self._environ |= {"DOCKER_CERT_PATH": str(certificates), "DOCKER_TLS_VERIFY": "1"}
        self._deadline_seconds = deadline_seconds
        self._blobs: dict[str, Blob] = {}
        self._manifests: dict[str, dict[str, Any]] = {}

    def check(self) -> None:
        """Prove that an engine answers and that the registry takes a push with these credentials."""

        def ask() -> str:
            with self._as_causes(), self._client() as client:
                return str(client.version()["Version"])

        logger.info("an engine answers version=%s", retry(ask, deadline_seconds=_CHECK_SECONDS))
        self._registry.check()

    def put_blob(self, blob: Blob) -> None:
        """Remember `blob`; the engine is given all at once."""
        self._blobs[blob.digest] = blob

    def put_manifest(self, manifest: Blob) -> None:
        """Remember a manifest."""
        self._manifests[manifest.digest] = json.loads(manifest.content())

    def tag(self, manifest: Blob) -> Blob:
        """Load the image for the engine's architecture, push it, and read back what the registry now has."""
        return retry(lambda: self._deliver(json.loads(manifest.content())), deadline_seconds=self._deadline_seconds)

    def attach(self, image: Blob, referrer: Referrer) -> None:
        """Store `referrer` in the registry; an engine knows nothing of them."""
        self._registry.attach(image, referrer)

    def _deliver(self, index: Mapping[str, Any]) -> Blob:
        with self._as_causes(), self._client() as client:
            architecture = client.version()["Arch"]
            fitting = [
                self._manifests[entry["digest"]]
                for entry in index["manifests"]
                if entry["platform"]["architecture"] == architecture
            ]
            if not fitting:
                raise InputNotFound(
                    f"the image is not for {architecture}, the architecture of the Docker engine",
                    hint="choose a BASE_IMAGE that is, or leave PUSH_BACKEND out",
                )
            [wanted] = fitting
            name = f"{self._reference.registry}/{self._reference.repository}:{self._reference.tag}"
            load: Any = client.load_image
            for said in load(self._archive(wanted, name), quiet=True) or ():
                self._refuse(said, "load")
            digest = self._push(client, name)
        served = self._registry.fetch_manifest(digest)
        content = json.loads(served)
        if content.get("config", {}).get("digest") != wanted["config"]["digest"]:
            raise TransientError(
                f"{self._reference}: the registry serves another image than was pushed",
                hint="does another Job push the same tag?",
            )
        return Blob(content["mediaType"], digest, len(served), lambda: iter([served]))

    def _push(self, client: docker.APIClient, name: str) -> str:
        """Push with each of the credentials until one is accepted; the digest that the registry gave."""
        *others, last = self._read_credentials() or (Credentials(),)
        for credentials in others:
            try:
                return self._push_as(client, name, credentials)
            except AccessDenied as error:
                logger.info("trying other credentials: %s", error)
        return self._push_as(client, name, last)

    def _push_as(self, client: docker.APIClient, name: str, credentials: Credentials) -> str:
        repository, _, tag = name.rpartition(":")
        login = (
            {"identitytoken": credentials.identity_token}
            if credentials.identity_token
            else {"username": credentials.username, "password": credentials.password}
        )
        digest, spoken = "", time.monotonic()
        for said in client.push(repository, tag, auth_config=login, stream=True, decode=True):
            self._refuse(said, "push")
            digest = said.get("aux", {}).get("Digest", digest)
            if said.get("progress") and time.monotonic() - spoken > _PROGRESS_SECONDS:
                spoken = time.monotonic()
                logger.info("pushing layer=%s %s", said.get("id", ""), said["progress"])
        if not digest:
            raise TransientError(f"{self._reference}: the engine ended the push without a digest")
        return digest

    def _refuse(self, said: Mapping[str, Any], verb: str) -> None:
        """Raise the cause that the engine reports in its stream, if it does."""
        if "error" not in said:
            return
        words = redact(str(said["error"]))
        sentence = f"{self._reference}: the Docker engine could not {verb} the image: {words}"
        lower = words.lower()
        if any(word in lower for word in ("unauthorized", "denied", "no basic auth", "authentication required")):
            raise AccessDenied(sentence, hint="check the push secret")
        if "no space left" in lower:
            raise ResourceExhausted(sentence, hint="free space where the Docker engine keeps its images")
        if "name unknown" in lower or "not found" in lower:
            raise InputNotFound(sentence, hint="create the repository (project) in the registry first")
        raise TransientError(sentence, hint="see the engine's and the registry's log")

    def _archive(self, manifest: Mapping[str, Any], name: str) -> Iterator[bytes]:
        """The image as `docker save` would write it, streamed from the blobs."""
        config = self._blobs[manifest["config"]["digest"]]
        layers = [self._blobs[layer["digest"]] for layer in manifest["layers"]]
        listed = [{"Config": _file(config), "RepoTags": [name], "Layers": [_file(layer) for layer in layers]}]
        content = json.dumps(listed).encode()
        yield _header("manifest.json", len(content)) + content + _padding(len(content))
        for blob in (config, *layers):
            yield _header(_file(blob), blob.size_bytes)
            yield from blob.blocks()
            yield _padding(blob.size_bytes)
        yield bytes(2 * tarfile.BLOCKSIZE)

    @contextmanager
    def _client(self) -> Iterator[docker.APIClient]:
        client = docker.from_env(environment=self._environ, timeout=_TIMEOUT_SECONDS)
        try:
            yield client.api
        finally:
            client.close()

    @contextmanager
    def _as_causes(self) -> Iterator[None]:
        where = self._environ.get("DOCKER_HOST", "its default socket")
        try:
            yield
        except APIError as error:
            raise TransientError(f"the Docker engine at {where} answered: {redact(str(error))}") from error
        except (DockerException, requests.exceptions.RequestException) as error:
            raise TransientError(
                f"no Docker engine answers at {where}: {redact(str(error))}",
                hint="PUSH_BACKEND=docker needs one: set DOCKER_HOST, or leave PUSH_BACKEND out",
            ) from error


def _file(blob: Blob) -> str:
    return blob.digest.removeprefix("sha256:") + (".json" if blob.media_type == CONFIG_TYPE else ".tar")


def _header(name: str, size_bytes: int) -> bytes:
    header = tarfile.TarInfo(name)
    header.size = size_bytes
    return header.tobuf(tarfile.GNU_FORMAT)


def _padding(size_bytes: int) -> bytes:
    return bytes(-size_bytes % tarfile.BLOCKSIZE)
