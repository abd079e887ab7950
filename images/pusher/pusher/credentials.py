"""The registry credentials: from the push secret's `config.json`, credential helpers included."""

from pathlib import Path

from tuning.docker_config import Credentials, find_credentials, read_docker_config
from tuning.errors import AccessDenied
from tuning.image_reference import DOCKER_HUB

# Docker's own name for Docker Hub in config.json.
_DOCKER_HUB_KEY = "https://index.docker.io/v1/"


def read_credentials(docker_config: Path, registry: str, repository: str) -> Credentials:
    """The credentials for `registry`/`repository` in `docker_config`/config.json.

    Raises ConfigurationError for an unreadable file, AccessDenied where a credential helper fails. A missing file, or
    no entry for the registry, gives empty credentials.
    """
    content = read_docker_config(docker_config)
    helpers, store = content.get("credHelpers") or {}, content.get("credsStore")
    if registry not in helpers and not store:
        return find_credentials(docker_config, registry, repository)
    # 0.1 s and 10 MB that most pushers do not need.
    from docker import auth
    from docker.errors import DockerException

    try:
        entry = auth.resolve_authconfig(
            auth.AuthConfig({"auths": {}, "credHelpers": helpers, "credsStore": store}),
            _DOCKER_HUB_KEY if registry == DOCKER_HUB else registry,
        )
    except DockerException as error:
        raise AccessDenied(
            f"the credentials for {registry} in {docker_config / 'config.json'} cannot be used: {error}",
            hint="check the push secret",
        ) from error
    if not entry:
        return find_credentials(docker_config, registry, repository)
    if token := entry.get("IdentityToken"):
        return Credentials(identity_token=token)
    return Credentials(entry.get("Username", ""), entry.get("Password", ""))
