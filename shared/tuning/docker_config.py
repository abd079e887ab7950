"""The credentials in a docker `config.json`, in every form that Kubernetes accepts. Helpers are not asked."""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuning.errors import ConfigurationError
from tuning.image_reference import DOCKER_HUB

_DOCKER_HUB_KEYS = ("https://index.docker.io/v1/", "index.docker.io", "docker.io")


@dataclass(frozen=True)
class Credentials:
    """What to log in with. Empty credentials mean: anonymously. The secrets stay out of every repr."""

    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    def __bool__(self) -> bool:
        return bool(self.username or self.identity_token)


def read_docker_config(folder: Path) -> Mapping[str, Any]:
    """The content of `folder`/config.json; empty where there is none. Raises ConfigurationError for another file."""
    path = folder / "config.json"
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise TypeError("not a mapping")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}", hint="check the secret's mount") from error
    except (ValueError, TypeError):
        raise ConfigurationError(
            f"{path} is not a docker config file", hint="make the secret with `kubectl create secret docker-registry`"
        ) from None
    return content


def find_credentials(folder: Path, registry: str, repository: str) -> Credentials:
    """The credentials for `registry`/`repository` in `folder`/config.json; of several keys the longest that fits.

    Raises ConfigurationError for an unreadable file or a malformed entry.
    """
    auths = read_docker_config(folder).get("auths") or {}
    wanted = f"{registry}/{repository}/"
    keys = {_bare(key): key for key in auths}
    fitting = [bare for bare in keys if wanted.startswith(f"{bare}/")]
    if registry == DOCKER_HUB:
        fitting += [_bare(key) for key in _DOCKER_HUB_KEYS if _bare(key) in keys]
    if not fitting:
        return Credentials()
    entry = auths[keys[max(fitting, key=len)]]
    if token := entry.get("identitytoken"):
        return Credentials(identity_token=token)
    if "username" in entry and "password" in entry:
        return Credentials(entry["username"], entry["password"])
    try:
        username, _, password = base64.b64decode(entry.get("auth", ""), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError, TypeError):
        # Its text would quote the entry.
        raise ConfigurationError(
            f"{folder / 'config.json'} has a malformed entry for {registry}", hint="make the secret anew"
        ) from None
    return Credentials(username, password.rstrip("\0"))


def _bare(key: str) -> str:
    """A key without scheme and API version: `https://host/v1/` is `host`."""
    bare = key.partition("://")[2] or key
    return bare.rstrip("/").removesuffix("/v1").removesuffix("/v2").rstrip("/")
