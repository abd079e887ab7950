"""Ask a web server for bytes: redirects followed with care, statuses turned into causes."""

import json
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from requests.utils import get_environ_proxies

from data_downloader.access import Access, trusted_certificates
from data_downloader.peers import PeerAdapter, refuse_address
from data_downloader.settings import Settings
from data_downloader.sources import Source
from tuning.errors import AccessDenied, ConfigurationError, DatasetError, InputNotFound, TransientError, TuningError
from tuning.failures import first_cause, is_untrusted_certificate
from tuning.redaction import printable_url, redact
from tuning.retry import retry_after_seconds

_MOST_REDIRECTS = 10
_REDIRECTS = {301, 302, 303, 307, 308}
_RETRYABLE = {408, 425, 429}
_QUOTED_CHARACTERS = 200


@dataclass
class Answer:
    """A response whose body is still to be read, from `raw`. `linked` are the headers of the redirect that led here."""

    status: int
    headers: Mapping[str, str]
    linked: Mapping[str, str]
    raw: Any


class Web:
    """The one client of a download; its threads share it."""

    def __init__(self, settings: Settings) -> None:
        self._access = Access(settings)
        self._timeout = (settings.connect_timeout_seconds, settings.idle_timeout_seconds)
        self._allow_link_local = settings.allow_link_local
        self._settings = settings
        self._lock = threading.Lock()
        # Without a session: it would merge cookies, netrc entries and the environment into every request, which we
        # choose ourselves.
        self._adapters = {"http": PeerAdapter(None, settings.connections, allow_link_local=self._allow_link_local)}
        # requests reads the whole environment for every request.
        self._proxies = cache(get_environ_proxies)

    @contextmanager
    def get(
        self, source: Source, url: str, headers: Mapping[str, str], accept: Collection[int] = (200, 206, 412, 416)
    ) -> Iterator[Answer]:
        """GET `url` on behalf of `source`, over at most ten redirects; the statuses in `accept` reach the caller.

        Raises the cause that another status, or a failing connection, stands for.
        """
        with as_causes(source.shown):
            response, linked = self._follow(source, url, headers)
            try:
                if response.status_code not in accept:
                    raise _cause(source.shown, response)
                yield Answer(response.status_code, response.headers, linked, response.raw)
            finally:
                response.close()

    def grant(self, prefix: str, authorization: Callable[[], str]) -> None:
        """From now on, ask for URLs that begin with `prefix` with what `authorization` returns."""
        self._access.grant(prefix, authorization)

    def get_json(self, source: Source, url: str, headers: Mapping[str, str] | None = None) -> Any:
        """GET `url` and parse its body as JSON."""
        with self.get(source, url, headers or {}) as answer:
            try:
                return json.loads(answer.raw.read(decode_content=True))
            except ValueError:
                raise DatasetError(f"{printable_url(url)} did not answer with JSON", hint="check the URL") from None

    def _follow(
        self, source: Source, url: str, headers: Mapping[str, str]
    ) -> tuple[requests.Response, Mapping[str, str]]:
        linked: Mapping[str, str] = {}
        for _ in range(_MOST_REDIRECTS + 1):
            response = self._ask(source, url, headers)
            target = response.headers.get("Location")
            if response.status_code not in _REDIRECTS or not target:
                return response, linked
            linked = {**response.headers, **linked}
            response.raw.drain_conn()
            response.close()
            target = urljoin(url, target)
            _refuse_redirect(source, url, target)
            url = target
        raise DatasetError(
            f"{source.shown} is redirected more than {_MOST_REDIRECTS} times", hint="check the URL; it may need a login"
        )

    def _adapter(self, scheme: str) -> PeerAdapter:
        with self._lock:
            if scheme not in self._adapters:
                # Loading the certificates takes a while, and many downloads need none.
                context = trusted_certificates(self._settings)
                adapter = PeerAdapter(context, self._settings.connections, allow_link_local=self._allow_link_local)
                self._adapters[scheme] = adapter
            return self._adapters[scheme]

    def _ask(self, source: Source, url: str, headers: Mapping[str, str]) -> requests.Response:
        sent = {"Accept-Encoding": "identity", "User-Agent": "kaito-tuning data-downloader", **headers}
        if authorization := self._access.authorization(url, source):
            sent["Authorization"] = authorization
        if not self._allow_link_local:
            _refuse_literal(url)
        parts = urlsplit(url)
        request = requests.Request("GET", url, headers=sent).prepare()
        proxies = self._proxies(f"{parts.scheme}://{parts.netloc}/")
        return self._adapter(parts.scheme).send(request, stream=True, timeout=self._timeout, proxies=proxies)


def _refuse_redirect(source: Source, url: str, target: str) -> None:
    before, after = urlsplit(url), urlsplit(target)
    if after.scheme not in {"http", "https"}:
        raise DatasetError(f"{source.shown} is redirected to a {after.scheme}: URL, which is not followed")
    if before.scheme == "https" and after.scheme == "http":
        raise AccessDenied(
            f"{source.shown} is redirected from https to http, which is not followed", hint="use the final URL"
        )
    if _is_loopback_name(after.hostname) and not _is_loopback_name(before.hostname):
        raise AccessDenied(f"{source.shown} is redirected to this machine itself, which is not followed")


def _is_loopback_name(host: str | None) -> bool:
    return host is not None and (host == "localhost" or host.startswith("127.") or host == "::1")


def _refuse_literal(url: str) -> None:
    """Refuse an address that is written in the URL; behind a proxy it is all that can be checked."""
    try:
        refuse_address(urlsplit(url).hostname or "")
    except ValueError:
        return


@contextmanager
def as_causes(shown: str) -> Iterator[None]:
    """Turn what requests and urllib3 raise into causes that name `shown` and no query."""
    try:
        yield
    except TuningError as error:
        if shown not in error.message:
            error.message = f"{shown}: {error.message}"
        raise
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
        raise ConfigurationError(
            f"{shown} cannot be fetched: {redact(str(error))}", hint="write https://host/path"
        ) from error
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        if is_untrusted_certificate(error):
            raise AccessDenied(
                f"{shown}: the TLS certificate is not trusted: {first_cause(error)}",
                hint="give the CA that signed it with REQUESTS_CA_BUNDLE",
            ) from error
        raise TransientError(f"{shown}: {first_cause(error)}", hint="check that the host can be reached") from error


def _cause(shown: str, response: requests.Response) -> TuningError:
    status = response.status_code
    try:
        quoted = response.raw.read(_QUOTED_CHARACTERS * 4, decode_content=True).decode(errors="replace")
    except (urllib3.exceptions.HTTPError, OSError):
        quoted = ""
    quoted = " ".join(redact(quoted).split())[:_QUOTED_CHARACTERS]
    sentence = f"{shown} answered {status} {response.reason}" + (f": {quoted}" if quoted else "")
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return AccessDenied(
            sentence, hint="the URL needs credentials (see DATA_TOKENS_PATH), or a signed URL has expired"
        )
    if status in _RETRYABLE or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return TransientError(sentence, hint="try later", retry_after_seconds=retry_after_seconds(response.headers))
    if status >= HTTPStatus.BAD_REQUEST:
        return InputNotFound(sentence, hint="check the URL; open it in a browser that is not logged in")
    return DatasetError(f"{sentence}, which brings no data", hint="check the URL")
