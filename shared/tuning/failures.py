"""What lies beneath an exception of a network library, which wraps the reason several times."""

import ssl
from collections.abc import Iterator
from typing import Any

from tuning.redaction import redact

# OpenSSL's words for it, by version.
_NOT_TLS = {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"}


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """`error`, and every exception that it was raised from or carries; the outermost first."""
    seen: set[int] = set()
    queue: list[Any] = [error]
    while queue:
        cause = queue.pop(0)
        if isinstance(cause, BaseException) and id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            queue += [cause.__cause__, cause.__context__, getattr(cause, "reason", None), *cause.args]


def first_cause(error: BaseException) -> str:
    """The words of the cause beneath all others; those around it repeat it with the URL and its query."""
    *_, last = causes_of(error)
    return redact(str(getattr(last, "strerror", None) or last)) or type(last).__name__


def is_untrusted_certificate(error: BaseException) -> bool:
    """Whether a peer's certificate was refused. Any other TLS error may be a connection cut while a body was sent."""
    return any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes_of(error))


def is_plain_http(error: BaseException) -> bool:
    """Whether a TLS handshake was answered by something that is not TLS, as a server of plain HTTP does."""
    return any(getattr(cause, "reason", None) in _NOT_TLS for cause in causes_of(error))
