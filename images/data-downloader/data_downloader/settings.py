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
    connect_timeout_seconds: float = setting(environment.DOWNLOAD_CONNECT_TIMEOUT_SECONDS)
    idle_timeout_seconds: float = setting(environment.DOWNLOAD_IDLE_TIMEOUT_SECONDS)
