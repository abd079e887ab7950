"""The registry credentials, from a docker `config.json` mounted from a Secret."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from tuning.errors import AccessDenied, ConfigurationError
from tuning.image_reference import DOCKER_HUB

# Docker's own name for Docker Hub in config.json.
_DOCKER_HUB_KEY = "https://index.docker.io/v1/"


@dataclass(frozen=True)
class Credentials:
    """What to log in with. Empty credentials mean: anonymously. The secrets stay out of every repr."""

    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    def __bool__(self) -> bool:
        return bool(self.username or self.identity_token)


def read_credentials(docker_config: Path, registry: str) -> Credentials:
    """The credentials for `registry` in `docker_config`/config.json, credential helpers included.

    Raises ConfigurationError for an unreadable file, AccessDenied where a credential helper fails. A missing file, or
    no entry for the registry, gives empty credentials.
    """
    path = docker_config / "config.json"
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise TypeError("not a mapping")
    except FileNotFoundError:
        return Credentials()
    except OSError as error:
        raise ConfigurationError(
            f"cannot read {path}: {error.strerror}", hint="check the push secret's mount"
        ) from error
    except (ValueError, TypeError):
        raise ConfigurationError(
            f"{path} is not a docker config file", hint="make the secret with `kubectl create secret docker-registry`"
        ) from None
    # 0.1 s and 10 MB that the waiting pusher does not need.
    from docker import auth
    from docker.errors import DockerException

    try:
        config = auth.AuthConfig(
            {
                "auths": auth.parse_auth(_with_auth(content.get("auths", {})), raise_on_error=True),
                "credsStore": content.get("credsStore"),
                "credHelpers": content.get("credHelpers", {}),
            }
        )
        entry = auth.resolve_authconfig(config, _DOCKER_HUB_KEY if registry == DOCKER_HUB else registry)
    except ValueError:
        # Its text would quote the entry.
        raise ConfigurationError(f"{path} has a malformed entry", hint="make the push secret anew") from None
    except DockerException as error:
        raise AccessDenied(
            f"the credentials for {registry} in {path} cannot be used: {error}", hint="check the push secret"
        ) from error
    if not entry:
        return Credentials()
    if token := entry.get("IdentityToken") or entry.get("identitytoken"):
        return Credentials(identity_token=token)
    return Credentials(
        entry.get("username") or entry.get("Username", ""), entry.get("password") or entry.get("Password", "")
    )


def _with_auth(auths: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """Entries with only `username` and `password`, which Kubernetes accepts and docker's parser does not."""
    import base64

    result = {}
    for key, entry in auths.items():
        if "auth" not in entry and "username" in entry and "password" in entry:
            pair = f"{entry['username']}:{entry['password']}".encode()
            entry = {**entry, "auth": base64.b64encode(pair).decode()}
        result[key] = entry
    return result
