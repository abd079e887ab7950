"""What the data-downloader is told."""

from dataclasses import dataclass
from pathlib import Path

from tuning import environment
from tuning.environment import setting


@dataclass(frozen=True, kw_only=True)
class Settings:
    """See the variables' meanings in `tuning.environment`, or `data-downloader --help`."""

    urls: tuple[str, ...] = setting(environment.DATA_URLS)
    folder: Path = setting(environment.DATA_VOLUME_PATH)
    attempts: int = setting(environment.DOWNLOAD_ATTEMPTS)
    connections: int = setting(environment.DOWNLOAD_CONNECTIONS)
    connect_timeout_seconds: float = setting(environment.DOWNLOAD_CONNECT_TIMEOUT_SECONDS)
    idle_timeout_seconds: float = setting(environment.DOWNLOAD_IDLE_TIMEOUT_SECONDS)
    deadline_seconds: float | None = setting(environment.DOWNLOAD_DEADLINE_SECONDS)
    progress_seconds: float = setting(environment.DOWNLOAD_PROGRESS_SECONDS)
    lock: Path | None = setting(environment.DATA_LOCK)
    tokens: Path | None = setting(environment.DATA_TOKENS_PATH)
    bad_rows: str = setting(environment.DATA_BAD_ROWS)
    allow_file: bool = setting(environment.DATA_ALLOW_FILE)
    allow_link_local: bool = setting(environment.DATA_ALLOW_LINK_LOCAL)
    docker_config: Path = setting(environment.DOCKER_CONFIG)
    hub_endpoint: str = setting(environment.HF_ENDPOINT)
    hub_token: Path | None = setting(environment.HF_TOKEN_PATH)
    netrc: Path | None = setting(environment.NETRC)
    ca_bundle: Path | None = setting(environment.REQUESTS_CA_BUNDLE)
    ssl_cert_file: Path | None = setting(environment.SSL_CERT_FILE)
