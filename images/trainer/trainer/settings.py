"""What the trainer is told beside the training configuration."""

from dataclasses import dataclass
from pathlib import Path

from tuning import environment
from tuning.environment import setting


@dataclass(frozen=True, kw_only=True)
class Settings:
    """See the variables' meanings in `tuning.environment`, or `trainer --help`."""

    config_path: Path = setting(environment.YAML_FILE_PATH)
    dataset_folder: Path = setting(environment.DATASET_FOLDER_PATH)
    weights: str = setting(environment.MODEL_WEIGHTS_PATH)
    base_model_name: str = setting(environment.BASE_MODEL_NAME)
    method: str = setting(environment.TUNING_METHOD)
    results_path: Path | None = setting(environment.RESULTS_PATH)
    run_id: str = setting(environment.TUNING_RUN_ID)
    oom_retry: bool = setting(environment.TUNING_OOM_RETRY)
    checkpoint_seconds: float | None = setting(environment.CHECKPOINT_SECONDS)
    step_timeout_seconds: float = setting(environment.STEP_TIMEOUT_SECONDS)
    progress_seconds: float = setting(environment.PROGRESS_SECONDS)
    metrics_port: int = setting(environment.METRICS_PORT)
    processes: int = setting(environment.TUNING_PROCESSES)
    nodes: int = setting(environment.TUNING_NODES)
    node: int = setting(environment.JOB_COMPLETION_INDEX)
    master_address: str = setting(environment.MASTER_ADDR)
    master_port: int = setting(environment.MASTER_PORT)
