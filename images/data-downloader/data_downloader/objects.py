"""`s3://`, `gs://` and `az://`: objects of a store, through obstore, with its chains of credentials.

obstore is an optional dependency of 15 MB; without it such a URL is refused with what to install.
"""

import importlib
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from data_downloader.content_check import HEAD_BYTES, refuse_page
from data_downloader.part import Head, Part, Span
from data_downloader.sources import Source
from tuning.errors import AccessDenied, ConfigurationError, DatasetError, InputNotFound, TransientError, TuningError
from tuning.redaction import redact
from tuning.retry import retry

_BLOCK_BYTES = 1 << 20


class ObjectTransfer:
    """The way of one object into its part: one stream, which the store continues where it broke."""

    can_be_taken = True

    def __init__(
        self,
        source: Source,
        part: Part,
        *,
        attempts: int,
        pause: Callable[[float], None],
        reserve: Callable[[Any, int], None],
    ) -> None:
        self.source = source
        self.part = part
        self._attempts = attempts
        self._pause = pause
        self._reserve = reserve
        self._over = threading.Event()
        parts = urlsplit(source.url)
        self._path = parts.path.lstrip("/")
        self._obstore = _import_obstore(source)
        self._errors = (importlib.import_module("obstore.exceptions").BaseError, OSError)
        try:
            self._store = importlib.import_module("obstore.store").from_url(f"{parts.scheme}://{parts.netloc}")
        except self._errors as error:
            raise ConfigurationError(f"{source.shown}: {redact(str(error))}", hint="write s3://BUCKET/KEY") from error

    def fetch(self, span: Span) -> None:
        """Fetch the object into `span`."""
        retry(lambda: self._advance(span), attempts=self._attempts, sleep=self._pause)

    def wants_help(self) -> bool:
        """The store's client opens what connections it needs."""
        return False

    def help(self) -> None:
        """Nothing to share."""

    def cut_stalled(self, now: float) -> None:
        """obstore has time-outs of its own."""

    def cut_all(self) -> None:
        """Let the stream end at its next block."""
        self._over.set()

    def _advance(self, span: Span) -> None:
        try:
            self._read(span)
        except self._errors as error:
            raise self._cause(error) from error

    def _read(self, span: Span) -> None:
        head = self.part.head
        options: dict[str, Any] = {}
        if head is not None and span.position:
            options = {"if_match": head.etag, "range": {"offset": span.position}}
        answer = self._obstore.get(self._store, self._path, options=options or None)
        if not options:
            meta = answer.meta
            size = int(meta["size"])
            expected = self.source.size_bytes
            if expected is not None and size != expected:
                raise DatasetError(f"{self.source.shown} has {size} bytes, {expected} were expected")
            self._reserve(self, size)
            headers = {"ETag": meta.get("e_tag") or "", "Last-Modified": str(meta.get("last_modified") or "")}
            self.part.restart(span, Head(size, meta.get("e_tag") or "", headers))
        for block in answer.stream(min_chunk_size=_BLOCK_BYTES):
            data = bytes(block)
            if span.position == 0:
                refuse_page(data[:HEAD_BYTES], self.source.shown, self.source.url)
            if self._over.is_set() or not self.part.write(span, data):
                break
        if not self._over.is_set() and not self.part.is_done(span):
            raise TransientError(f"{self.source.shown} ended {span.missing} bytes too early")

    def _cause(self, error: Exception) -> TuningError:
        text = (
            f"{self.source.shown}: {redact(str(error)).splitlines()[0][:300] if str(error) else type(error).__name__}"
        )
        match type(error).__name__:
            case "NotFoundError" | "FileNotFoundError":
                return InputNotFound(f"{self.source.shown} is not in the store", hint="check bucket and key")
            case "PermissionDeniedError" | "UnauthenticatedError" | "PermissionError":
                return AccessDenied(text, hint="give the store's usual variables, or a workload identity")
            case "PreconditionError":
                return TransientError(f"{self.source.shown} changed while it was downloaded")
            case _:
                return TransientError(text, hint="check the store's name, region and endpoint")


def _import_obstore(source: Source) -> Any:
    try:
        return importlib.import_module("obstore")
    except ImportError:
        raise ConfigurationError(
            f"{source.shown}: this image cannot read {source.scheme}://",
            hint="build it with the extra `object-stores`, or use a presigned https URL",
        ) from None
