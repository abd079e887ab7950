"""Printable forms of things that may carry a secret. What may be shown is listed; everything else is left out."""

import re
from urllib.parse import urlsplit

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>\\]+")
_AUTHORIZATION = re.compile(r"\b(Basic|Bearer)\s+[A-Za-z0-9+/=._~-]{4,}", re.IGNORECASE)
# Exception texts of urllib3 quote a URL's path and query without its host.
_QUERY = re.compile(r"(?<=[\w/])\?[\w.%~-]+=[^\s'\"<>)]*")
_SECRET_FIELD = re.compile(
    r"""(["']?\b(?:password|passwd|secret|token|access_token|refresh_token|identitytoken|auth|api_?key|signature|sig)\b["']?\s*[:=]\s*)"""
    r"""("[^"]*"|'[^']*'|[^\s,;&}]+)""",
    re.IGNORECASE,
)


def printable_url(url: str) -> str:
    """`url` without user, password, query and fragment: scheme, host, port and path, then `?…` if there was a query."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "<unreadable URL>"
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    if port is not None:
        host = f"{host}:{port}"
    query = "?…" if parts.query else ""
    return f"{parts.scheme}://{host}{parts.path}{query}"


def redact(text: str) -> str:
    """`text` with every URL made printable, and every credential that is recognisable as one, replaced."""
    text = _URL.sub(lambda match: printable_url(match.group()), text)
    text = _AUTHORIZATION.sub(r"\1 ***", text)
    text = _SECRET_FIELD.sub(r"\1***", text)
    return _QUERY.sub("?…", text)
