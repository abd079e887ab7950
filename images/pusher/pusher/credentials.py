"""The registry credentials: from the files of the push secret, credential helpers included."""

from pathlib import Path

from tuning.docker_config import Credentials, config_files, find_credentials, read_docker_config
from tuning.errors import AccessDenied
from tuning.image_reference import DOCKER_HUB

# Docker's own name for Docker Hub in config.json.
_DOCKER_HUB_KEY = "https://index.docker.io/v1/"


def read_credentials(docker_config: Path, registry: str, repository: str) -> tuple[Credentials, ...]:
    """All credentials for `registry`/`repository` in the folder `docker_config`, the likeliest first.

    Helpers come first, then the entries of config.json and of the files in config.d. Raises ConfigurationError for an
    unreadable file, AccessDenied where a credential helper fails. Missing files, or no entry for the registry, give
    none.
    """
    helped = [
        credentials for path in config_files(docker_config) if (credentials := _ask_helper(path, registry)) is not None
    ]
    return tuple(dict.fromkeys([*helped, *find_credentials(docker_config, registry, repository)]))


def _ask_helper(path: Path, registry: str) -> Credentials | None:
    content = read_docker_config(path)
    helpers, store = content.get("credHelpers") or {}, content.get("credsStore")
    if registry not in helpers and not store:
        return None
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
            f"the credentials for {registry} in {path} cannot be used: {error}", hint="check the push secret"
        ) from error
    if not entry:
        return None
    if token := entry.get("IdentityToken"):
        return Credentials(identity_token=token)
    return Credentials(entry.get("Username", ""), entry.get("Password", ""))
