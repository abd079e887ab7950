"""Who we are to whom: credentials by host from mounted secrets, and the certificates we trust."""

import ssl
from collections.abc import Callable
from netrc import NetrcParseError, netrc
from pathlib import Path
from urllib.parse import urlsplit

import certifi
import requests.auth

from data_downloader.settings import Settings
from data_downloader.sources import Source
from tuning.errors import ConfigurationError


class Access:
    """The credentials for each host; none follows a redirect to another one."""

    def __init__(self, settings: Settings) -> None:
        self._tokens = _read_tokens(settings.tokens)
        if settings.hub_token:
            hub = urlsplit(settings.hub_endpoint).netloc
            self._tokens.setdefault(hub, _read_secret(settings.hub_token))
        self._netrc = _read_netrc(settings.netrc)
        self._granted: dict[str, Callable[[], str]] = {}

    def grant(self, prefix: str, authorization: Callable[[], str]) -> None:
        """Use `authorization` for the URLs that begin with `prefix`."""
        self._granted[prefix] = authorization

    def authorization(self, url: str, source: Source) -> str:
        """The Authorization header for `url`, fetched on behalf of `source`; empty where we have none."""
        parts = urlsplit(url)
        mine = urlsplit(source.url)
        if source.login and (parts.scheme, parts.netloc) == (mine.scheme, mine.netloc):
            return _basic(*source.login)
        granted = next((grant for prefix, grant in self._granted.items() if url.startswith(prefix)), None)
        if granted:
            return granted()
        token = self._tokens.get(parts.netloc) or self._tokens.get(parts.hostname or "")
        if token:
            return f"Bearer {token}"
        found = self._netrc.authenticators(parts.hostname or "") if self._netrc else None
        return _basic(found[0] or found[1] or "", found[2] or "") if found else ""


def trusted_certificates(settings: Settings) -> ssl.SSLContext:
    """A TLS context that trusts the well-known authorities and those of the settings."""
    context = ssl.create_default_context(cafile=certifi.where())
    for bundle in (settings.ca_bundle, settings.ssl_cert_file):
        if bundle is None:
            continue
        try:
            context.load_verify_locations(*((None, bundle) if bundle.is_dir() else (bundle,)))
        except OSError as error:
            raise ConfigurationError(
                f"the CA bundle {bundle} cannot be used: {error}", hint="it is a file with PEM certificates"
            ) from error
    return context


def _basic(user: str, password: str) -> str:
    return str(requests.auth._basic_auth_str(user.encode(), password.encode()))


def _read_tokens(folder: Path | None) -> dict[str, str]:
    if folder is None:
        return {}
    try:
        # A mounted Secret has dot-directories beside its keys.
        return {path.name: _read_secret(path) for path in folder.iterdir() if not path.name.startswith(".")}
    except OSError as error:
        raise ConfigurationError(
            f"cannot read the tokens in {folder}: {error.strerror}", hint="mount a Secret"
        ) from error


def _read_secret(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise ConfigurationError(f"cannot read the token {path}: {error.strerror}", hint="mount a Secret") from error


def _read_netrc(path: Path | None) -> netrc | None:
    if path is None:
        return None
    try:
        return netrc(str(path))
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}", hint="mount a Secret") from error
    except NetrcParseError as error:
        raise ConfigurationError(f"{path} is not a netrc file: line {error.lineno}", hint="see netrc(5)") from None
