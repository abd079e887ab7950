"""One source, one part file: fetch, resume, and know when it is whole."""

import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, BinaryIO

import requests
import urllib3

from tuning.errors import (
    AccessDenied,
    ConfigurationError,
    DatasetError,
    InputNotFound,
    ResourceExhausted,
    TransientError,
)
from tuning.redaction import printable_url, redact

_BLOCK_BYTES = 1 << 16
_RETRYABLE = {408, 425, 429}

logger = logging.getLogger(__name__)


@dataclass
class Transfer:
    """The bytes of `url` so far, in `stream`, and the strong ETag that lets the server continue them."""

    url: str
    stream: BinaryIO
    timeout: tuple[float, float]
    etag: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    digest: Any = field(default_factory=hashlib.sha256)

    def advance(self, session: requests.Session) -> None:
        """Fetch what is missing.

        Raises TransientError where another call may go on, another cause where it cannot.
        """
        offset = self.stream.tell()
        headers = {"Accept-Encoding": "identity"}
        if offset and self.etag:
            headers |= {"Range": f"bytes={offset}-", "If-Range": self.etag}
        with (
            _as_causes(self.url),
            session.get(self.url, headers=headers, stream=True, timeout=self.timeout) as response,
        ):
            refuse_status(response, self.url)
            if response.status_code != HTTPStatus.PARTIAL_CONTENT:
                self._restart(response)
            elif not response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
                raise DatasetError(f"{printable_url(self.url)} answered with a wrong Content-Range")
            for block in response.raw.stream(_BLOCK_BYTES, decode_content=False):
                self.stream.write(block)
                self.digest.update(block)
        self.stream.flush()
        os.fsync(self.stream.fileno())

    def _restart(self, response: requests.Response) -> None:
        self.stream.seek(0)
        self.stream.truncate()
        self.digest = hashlib.sha256()
        etag = response.headers.get("ETag", "")
        self.etag = "" if etag.startswith("W/") else etag
        self.headers = dict(response.headers)


def refuse_status(response: requests.Response, url: str) -> None:
    """Raise the cause that an HTTP status stands for; return for 200 and 206."""
    status = response.status_code
    if status in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
        return
    sentence = f"{printable_url(url)} answered {status} {response.reason}"
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        raise AccessDenied(sentence, hint="the URL needs credentials, or a signed URL has expired")
    if status in _RETRYABLE or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise TransientError(sentence, retry_after_seconds=_retry_after(response))
    raise InputNotFound(sentence, hint="check the URL; open it in a browser that is not logged in")


def _retry_after(response: requests.Response) -> float | None:
    text = response.headers.get("Retry-After", "").strip()
    if text.isdigit():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


@contextmanager
def _as_causes(url: str) -> Iterator[None]:
    shown = printable_url(url)
    try:
        yield
    except (
        requests.exceptions.InvalidURL,
        requests.exceptions.InvalidSchema,
        requests.exceptions.MissingSchema,
    ) as error:
        raise ConfigurationError(f"{shown} is not a URL that can be fetched", hint="use http:// or https://") from error
    except requests.exceptions.SSLError as error:
        raise AccessDenied(
            f"{shown}: the TLS certificate is not trusted", hint="give the CA with REQUESTS_CA_BUNDLE"
        ) from error
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError) as error:
        raise TransientError(f"{shown}: {redact(str(error))}", hint="check that the host can be reached") from error
    except OSError as error:
        raise ResourceExhausted(
            f"cannot write what {shown} sends: {error.strerror}", hint="give the data volume more space"
        ) from error
