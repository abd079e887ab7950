"""What the pusher is told."""

from dataclasses import dataclass
from pathlib import Path

from tuning import environment, volumes
from tuning.environment import setting


@dataclass(frozen=True, kw_only=True)
class Settings:
    """See the variables' meanings in `tuning.environment`, or `pusher --help`."""

    output_image: str = setting(environment.OUTPUT_IMAGE)
    output_images: tuple[str, ...] = setting(environment.OUTPUT_IMAGES)
    base_image: str = setting(environment.BASE_IMAGE)
    compression: str = setting(environment.LAYER_COMPRESSION)
    referrers: bool = setting(environment.PUSH_REFERRERS)
    results_path: Path | None = setting(environment.RESULTS_PATH)
    docker_config: Path = setting(environment.DOCKER_CONFIG)
    backend: str = setting(environment.PUSH_BACKEND)
    docker_host: str = setting(environment.DOCKER_HOST)
    docker_certificates: Path | None = setting(environment.DOCKER_CERT_PATH)
    plain_http: tuple[str, ...] = setting(environment.PLAIN_HTTP_REGISTRIES)
    run_id: str = setting(environment.TUNING_RUN_ID)
    poll_seconds: float = setting(environment.POLL_SECONDS)
    start_timeout_seconds: float = setting(environment.TRAINER_START_TIMEOUT_SECONDS)
    deadline_seconds: float = setting(environment.PUSH_DEADLINE_SECONDS)
    preflight: str = setting(environment.PUSH_PREFLIGHT)
    preset: str = setting(environment.PRESET_NAME)
    node: int = setting(environment.JOB_COMPLETION_INDEX)

    @property
    def results(self) -> Path:
        """The folder of the adapter and the outcome."""
        return self.results_path or volumes.RESULTS

    @property
    def destinations(self) -> tuple[str, ...]:
        """Every place the image goes to, each once."""
        return tuple(dict.fromkeys(image for image in (self.output_image, *self.output_images) if image))
