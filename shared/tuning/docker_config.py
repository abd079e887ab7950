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


def read_docker_config(path: Path) -> Mapping[str, Any]:
    """The content of the docker config file `path`; empty where there is none. Raises ConfigurationError for others."""
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


def config_files(folder: Path) -> tuple[Path, ...]:
    """The files with credentials in `folder`: config.json, then those of config.d (several secrets), by name."""
    more = folder / "config.d"
    # A mounted secret has dot-directories beside its keys.
    visible = (
        path
        for path in sorted(more.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(more).parts)
    )
    return (folder / "config.json", *visible)


def find_credentials(folder: Path, registry: str, repository: str) -> tuple[Credentials, ...]:
    """All credentials for `registry`/`repository` in the files of `folder`, each once; the longest key that fits first.

    Raises ConfigurationError for an unreadable file or a malformed entry.
    """
    found = [entry for path in config_files(folder) for entry in entries_for(path, registry, repository)]
    found.sort(key=lambda entry: len(entry[0]), reverse=True)
    return tuple(dict.fromkeys(credentials for _, credentials in found))


def entries_for(path: Path, registry: str, repository: str) -> list[tuple[str, Credentials]]:
    """The entries of one file that fit `registry`/`repository`: the bare key, and what it gives."""
    auths = read_docker_config(path).get("auths") or {}
    wanted = f"{registry}/{repository}/"
    hub = {_bare(key) for key in _DOCKER_HUB_KEYS} if registry == DOCKER_HUB else set()
    return [
        (bare, _credentials(path, registry, entry))
        for key, entry in auths.items()
        if wanted.startswith(f"{(bare := _bare(key))}/") or bare in hub
    ]


def _credentials(path: Path, registry: str, entry: Mapping[str, Any]) -> Credentials:
    if token := entry.get("identitytoken"):
        return Credentials(identity_token=token)
    if "username" in entry and "password" in entry:
        return Credentials(entry["username"], entry["password"])
    try:
        username, _, password = base64.b64decode(entry.get("auth", ""), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError, TypeError):
        # Its text would quote the entry.
        raise ConfigurationError(f"{path} has a malformed entry for {registry}", hint="make the secret anew") from None
    return Credentials(username, password.rstrip("\0"))


def _bare(key: str) -> str:
    """A key without scheme and API version: `https://host/v1/` is `host`."""
    bare = key.partition("://")[2] or key
    return bare.rstrip("/").removesuffix("/v1").removesuffix("/v2").rstrip("/")
