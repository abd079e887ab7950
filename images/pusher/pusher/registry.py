"""A client of the registry API that pushes: no daemon, no privilege, blobs streamed.

Source: opencontainers/distribution-spec v1.1.
"""

import ipaddress
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests

from pusher.base_image import ACCEPTED
from pusher.blob import Blob, json_blob
from pusher.chunked import upload_in_chunks
from pusher.image import INDEX_TYPE
from pusher.login import TIMEOUT_SECONDS, Login, TokenRefused
from pusher.referrers import Referrer
from tuning.docker_config import Credentials
from tuning.errors import AccessDenied, ConfigurationError, InputNotFound, ResourceExhausted, TransientError
from tuning.failures import first_cause, is_plain_http, is_untrusted_certificate
from tuning.image_reference import DOCKER_HUB, ImageReference, parse_image_reference
from tuning.redaction import redact
from tuning.retry import retry, retry_after_seconds

_BLOCK_BYTES = 1 << 20
# How often a blob is sent that arrives as another one.
_SENDINGS = 3

logger = logging.getLogger(__name__)


class BlobsGone(Exception):
    """The registry no longer has blobs that a manifest names."""


class _TooLarge(ResourceExhausted):
    """The registry, or a proxy before it, takes no body of this size."""


class _Damaged(Exception):
    """The registry received other bytes than were sent."""


class RegistryStore:
    """One repository of a registry, and the tag to set in it."""

    def __init__(
        self,
        reference: ImageReference,
        read_credentials: Callable[[], Sequence[Credentials]],
        *,
        secret: str,
        deadline_seconds: float,
        plain_http: Sequence[str] = (),
        actions: str = "pull,push",
    ) -> None:
        self._reference = reference
        self._secret = secret
        self._deadline_seconds = deadline_seconds
        self._session = requests.Session()
        # Without this a netrc entry replaces the Authorization header we set.
        self._session.auth = _keep_headers
        self._in_chunks = False
        # Both actions at once: a token for pull alone would be refused by the first upload.
        scope = f"repository:{reference.repository}:{actions}"
        self._login = Login(reference.registry, scope, read_credentials, self._session, self._as_causes)
        host = "registry-1.docker.io" if reference.registry == DOCKER_HUB else reference.registry
        scheme = "http" if _is_loopback(host) or host in plain_http else "https"
        self._base = f"{scheme}://{host}/v2/{reference.repository}/"

    def check(self) -> None:
        """Prove that the repository accepts an upload: start one, then cancel it. Tries for half a minute at most."""
        self._login.check_lifetime()
        location = self._retrying(self._start_upload, deadline_seconds=30.0)
        # Not every registry implements the cancellation; an upload left behind is collected by all of them.
        self._request("DELETE", location, accept=(200, 202, 204, 404, 405))

    def put_blob(self, blob: Blob) -> None:
        """Store `blob`; one that the registry has is not sent again."""
        for sending in range(1, _SENDINGS + 1):
            try:
                self._retrying(lambda: self._upload(blob))
                return
            except _Damaged as error:
                if sending == _SENDINGS:
                    raise TransientError(
                        f"{error}, {sending} times", hint="something between here and the registry changes what passes"
                    ) from error
                logger.warning("%s; sending the blob again", error)

    def put_manifest(self, manifest: Blob) -> None:
        """Store a manifest under its digest."""
        self._put_manifest(manifest, manifest.digest)

    def tag(self, manifest: Blob) -> Blob:
        """Store `manifest` under the tag and read it back by digest: what the registry serves is what was sent."""
        self._put_manifest(manifest, self._reference.tag)
        url = urljoin(self._base, f"manifests/{manifest.digest}")
        served = self._retrying(
            lambda: self._request("GET", url, accept=(200,), headers={"Accept": manifest.media_type})
        )
        if served.content != manifest.content():
            raise TransientError(
                f"{self._reference}: the registry serves other bytes than were pushed",
                hint="check the registry's storage",
            )
        return manifest

    def attach(self, image: Blob, referrer: Referrer) -> None:
        """Store `referrer`; where the registry does not list referrers itself, in the index that stands for the list.

        Source: distribution-spec v1.1, "Pushing Manifests with Subject" and its referrers tag schema.
        """
        for blob in referrer.blobs:
            self.put_blob(blob)
        answer = self._put_manifest(referrer.manifest, referrer.manifest.digest)
        if "OCI-Subject" in answer.headers:
            return
        name = image.digest.replace(":", "-")
        url = urljoin(self._base, f"manifests/{name}")
        found = self._retrying(lambda: self._request("GET", url, accept=(200, 404), headers={"Accept": INDEX_TYPE}))
        listed = found.json()["manifests"] if found.status_code == 200 else []
        entry = referrer.descriptor()
        if entry["digest"] not in {other["digest"] for other in listed}:
            content = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [*listed, entry]}
            self._put_manifest(json_blob(INDEX_TYPE, content), name)

    def _put_manifest(self, manifest: Blob, name: str) -> requests.Response:
        url = urljoin(self._base, f"manifests/{name}")
        headers = {"Content-Type": manifest.media_type}
        response: requests.Response = self._retrying(
            lambda: self._request("PUT", url, accept=(201,), headers=headers, data=manifest.content())
        )
        return response

    def _upload(self, blob: Blob) -> None:
        url = urljoin(self._base, f"blobs/{blob.digest}")
        if self._request("HEAD", url, accept=(200, 404)).status_code == 200:
            logger.info("blob is already there digest=%s bytes=%d", blob.digest, blob.size_bytes)
            return
        if blob.origin and self._mount(blob):
            return
        start = time.monotonic()
        if self._in_chunks:
            self._send_in_chunks(blob)
        else:
            try:
                self._send_at_once(blob)
            except _TooLarge as error:
                logger.warning("%s; sending it in pieces", error)
                self._in_chunks = True
                self._send_in_chunks(blob)
        logger.info(
            "blob pushed digest=%s bytes=%d seconds=%.1f", blob.digest, blob.size_bytes, time.monotonic() - start
        )

    def fetch_manifest(self, name: str) -> bytes:
        """The manifest or index `name` (a tag or a digest) of the repository."""
        url = urljoin(self._base, f"manifests/{name}")
        headers = {"Accept": ", ".join(ACCEPTED)}
        response: requests.Response = self._retrying(lambda: self._request("GET", url, accept=(200,), headers=headers))
        return response.content

    def fetch_blob(self, digest: str) -> Iterator[bytes]:
        """The blob `digest` of the repository, in blocks."""
        url = urljoin(self._base, f"blobs/{digest}")
        response: requests.Response = self._retrying(lambda: self._request("GET", url, accept=(200,), stream=True))
        with response, self._as_causes():
            yield from response.iter_content(_BLOCK_BYTES)

    def _mount(self, blob: Blob) -> bool:
        """Ask the registry to take `blob` from another of its repositories; False where it must be sent."""
        origin = parse_image_reference(blob.origin)
        if origin.registry != self._reference.registry:
            return False
        self._login.add_scope(f"repository:{origin.repository}:pull")
        url = urljoin(self._base, "blobs/uploads/") + f"?mount={blob.digest}&from={origin.repository}"
        response = self._request("POST", url, accept=(201, 202))
        if response.status_code == 201:
            logger.info("blob mounted digest=%s from=%s", blob.digest, origin.repository)
            return True
        self._request("DELETE", urljoin(response.url, response.headers["Location"]), accept=(200, 202, 204, 404, 405))
        return False

    def _send_at_once(self, blob: Blob) -> None:
        location = self._start_upload()
        separator = "&" if urlsplit(location).query else "?"
        self._request(
            "PUT",
            f"{location}{separator}digest={blob.digest}",
            accept=(201, 202, 204),
            headers={"Content-Type": "application/octet-stream"},
            data=_Body(blob),
        )

    def _send_in_chunks(self, blob: Blob) -> None:
        response = self._request("POST", urljoin(self._base, "blobs/uploads/"), accept=(202,))
        minimum = response.headers.get("OCI-Chunk-Min-Length", "")
        location = urljoin(response.url, response.headers["Location"])
        upload_in_chunks(blob, location, int(minimum) if minimum.isdigit() else 0, self._request)

    def _start_upload(self) -> str:
        response = self._request("POST", urljoin(self._base, "blobs/uploads/"), accept=(202,))
        return urljoin(response.url, response.headers["Location"])

    def _retrying(self, action: Any, deadline_seconds: float | None = None) -> Any:
        return retry(action, deadline_seconds=deadline_seconds or self._deadline_seconds)

    def _request(
        self,
        verb: str,
        url: str,
        *,
        accept: tuple[int, ...],
        headers: Mapping[str, str] | None = None,
        data: Any = None,
        stream: bool = False,
    ) -> requests.Response:
        while True:
            try:
                response = self._send(verb, url, headers, data, stream=stream)
                if response.status_code == 401 and self._login.answer(response):
                    response = self._send(verb, url, headers, data, stream=stream)
                if response.status_code in accept:
                    return response
                cause = self._cause(verb, response)
            except TokenRefused as error:
                cause = self._cause("token", error.response)
            if not (isinstance(cause, AccessDenied) and self._login.take_others()):
                raise cause

    def _send(
        self, verb: str, url: str, headers: Mapping[str, str] | None, data: Any, *, stream: bool
    ) -> requests.Response:
        headers = dict(headers or {})
        # A storage host that an upload is redirected to must not see the registry's credentials.
        if self._login.authorization and urlsplit(url).netloc == urlsplit(self._base).netloc:
            headers["Authorization"] = self._login.authorization
        with self._as_causes():
            return self._session.request(verb, url, headers=headers, data=data, timeout=TIMEOUT_SECONDS, stream=stream)

    def _cause(self, verb: str, response: requests.Response) -> Exception:
        status = response.status_code
        sentence = f"{self._reference}: the registry answered {status} to {verb}: {_words(response)}"
        if status in {401, 403}:
            who = f"no credentials in {self._secret}" if self._login.anonymous else f"the credentials in {self._secret}"
            where = f"{self._reference.registry} and may push to {self._reference.repository}"
            return AccessDenied(f"{sentence} ({who})", hint=f"check that the push secret is for {where}")
        if status in {408, 425, 429} or status >= 500:
            return TransientError(
                sentence,
                hint="see the registry's log",
                retry_after_seconds=retry_after_seconds(response.headers),
            )
        if status in {400, 404} and "BLOB_UNKNOWN" in response.text and verb == "PUT":
            return BlobsGone(sentence)
        if "DIGEST_INVALID" in response.text:
            return _Damaged(sentence)
        if status == 404:
            # An upload session that is gone is started anew; a repository that is not there stays away.
            if "BLOB_UPLOAD" in response.text:
                return TransientError(sentence)
            return InputNotFound(sentence, hint="create the repository (project) in the registry first")
        if status == 413:
            return _TooLarge(sentence, hint="raise the body limit of the proxy before the registry")
        return ConfigurationError(sentence, hint="check the output image's name")

    @contextmanager
    def _as_causes(self) -> Iterator[None]:
        registry = self._reference.registry
        try:
            yield
        except requests.exceptions.RequestException as error:
            if is_untrusted_certificate(error):
                raise ConfigurationError(
                    f"the TLS certificate of {registry} is not trusted",
                    hint="give its CA with REQUESTS_CA_BUNDLE",
                ) from error
            if is_plain_http(error):
                raise ConfigurationError(
                    f"{registry} does not speak TLS",
                    hint="if it is meant to be without, name it in PLAIN_HTTP_REGISTRIES",
                ) from error
            raise TransientError(
                f"{registry} cannot be reached: {first_cause(error)}", hint="check the registry's name and the network"
            ) from error


class _Body:
    """A blob as a request body with a length, so that it is streamed with Content-Length and not chunked."""

    def __init__(self, blob: Blob) -> None:
        self._blob = blob

    def __len__(self) -> int:
        return self._blob.size_bytes

    def __iter__(self) -> Iterator[bytes]:
        return self._blob.blocks()


def _keep_headers(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _is_loopback(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname or ""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _words(response: requests.Response) -> str:
    """The registry's own error words, `CODE: message`, or the start of the body."""
    try:
        errors = response.json()["errors"]
        return "; ".join(f"{error['code']}: {error.get('message', '')}" for error in errors)
    except (ValueError, KeyError, TypeError):
        return redact(response.text[:200].strip()) or response.reason
