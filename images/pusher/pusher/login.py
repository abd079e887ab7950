"""Log in to a registry: answer its challenges, with one of the credentials that the push secret holds.

Source: RFC 7617 (Basic); token authentication as distribution's docs/spec/auth/token.md and oauth.md say.
"""

import base64
import binascii
import json
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from urllib.parse import urlsplit

import requests

from tuning.docker_config import Credentials
from tuning.errors import AccessDenied

TIMEOUT_SECONDS = (15.0, 300.0)
_CHALLENGE_FIELD = re.compile(r'(\w+)="([^"]*)"')
# A training is seldom shorter.
_SHORT_SECONDS = 3600.0

logger = logging.getLogger(__name__)


class Login:
    """The Authorization header of one registry, kept up to date.

    `read` gives the credentials to try, and is asked again when all are refused: a mounted secret may have changed.
    """

    def __init__(
        self,
        registry: str,
        scope: str,
        read: Callable[[], Sequence[Credentials]],
        session: requests.Session,
        as_causes: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._registry = registry
        self._scopes = [scope]
        self._read = read
        self._session = session
        self._as_causes = as_causes
        self._refused: set[Credentials] = set()
        self._credentials = next(iter(read()), Credentials())
        self.authorization = ""

    @property
    def anonymous(self) -> bool:
        """Whether there is nothing to log in with."""
        return not self._credentials

    def add_scope(self, scope: str) -> None:
        """Ask for `scope` too, from the next request on."""
        if scope not in self._scopes:
            self._scopes.append(scope)
            self.authorization = ""

    def answer(self, response: requests.Response) -> bool:
        """Answer the challenge of a 401. False where nothing new can be offered. Raises AccessDenied for no token."""
        challenge = response.headers.get("WWW-Authenticate", "")
        scheme, _, rest = challenge.partition(" ")
        if scheme.lower() == "basic" and self._credentials.username:
            authorization = _basic(self._credentials)
        elif scheme.lower() == "bearer":
            authorization = "Bearer " + self._fetch_token(dict(_CHALLENGE_FIELD.findall(rest)))
        else:
            return False
        changed = authorization != self.authorization
        self.authorization = authorization
        return changed

    def take_others(self) -> bool:
        """Go on with credentials that were not refused yet; False where the secret holds none."""
        self._refused.add(self._credentials)
        others = [credentials for credentials in self._read() if credentials not in self._refused]
        if not others:
            return False
        logger.info("refused, trying other credentials registry=%s", self._registry)
        self._credentials, self.authorization = others[0], ""
        return True

    def check_lifetime(self) -> None:
        """Warn of credentials that end soon, as far as they tell; raise AccessDenied for those that have ended."""
        ends = expiry(self._credentials)
        if ends is None:
            return
        left = ends - time.time()
        when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(ends))
        if left <= 0:
            raise AccessDenied(
                f"the credentials for {self._registry} ended at {when}", hint="renew the push secret before the Job"
            )
        if left < _SHORT_SECONDS:
            logger.warning(
                "the credentials end soon; a training that takes longer needs a secret that is renewed "
                "registry=%s ends=%s",
                self._registry,
                when,
            )

    def _fetch_token(self, challenge: Mapping[str, str]) -> str:
        realm = challenge.get("realm", "")
        if urlsplit(realm).scheme not in {"http", "https"}:
            raise AccessDenied(f"{self._registry} asks for a token without saying where to get it")
        query = {"service": challenge.get("service", ""), "scope": " ".join(self._scopes)}
        with self._as_causes():
            if self._credentials.identity_token:
                form = {**query, "grant_type": "refresh_token", "client_id": "kaito-tuning"}
                form["refresh_token"] = self._credentials.identity_token
                response = self._session.post(realm, data=form, timeout=TIMEOUT_SECONDS)
            else:
                headers = {"Authorization": _basic(self._credentials)} if self._credentials else {}
                response = self._session.get(realm, params=query, headers=headers, timeout=TIMEOUT_SECONDS)
        if response.status_code != 200:
            raise TokenRefused(response)
        content = response.json()
        return str(content.get("token") or content.get("access_token") or "")


class TokenRefused(Exception):
    """The token server did not give a token."""

    def __init__(self, response: requests.Response) -> None:
        super().__init__(response.status_code)
        self.response = response


def expiry(credentials: Credentials) -> float | None:
    """When the credentials end, in seconds since the epoch, if they are a JSON Web Token that says so (RFC 7519)."""
    for secret in (credentials.identity_token, credentials.password):
        parts = secret.split(".")
        if len(parts) != 3:
            continue
        try:
            claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
            return float(claims["exp"])
        except (binascii.Error, ValueError, KeyError, TypeError):
            continue
    return None


def _basic(credentials: Credentials) -> str:
    return str(requests.auth._basic_auth_str(credentials.username, credentials.password))
