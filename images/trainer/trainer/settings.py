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
