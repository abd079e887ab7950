"""The trainer: `training_config.yaml` and `/data` → an adapter and an outcome."""

import os
import sys
from collections.abc import Mapping
from typing import Any

from trainer.attempt import attempt, results_folder
from trainer.settings import Settings
from trainer.tuning_run import tune
from tuning.command import read_command
from tuning.entrypoint import run
from tuning.environment import read_settings


def main(environ: Mapping[str, str]) -> Mapping[str, Any]:
    """Tune, and announce the outcome whatever it is."""
    settings = read_settings(Settings, environ)
    results = results_folder(settings)
    with attempt(results, settings.run_id):
        return tune(settings, results)


if __name__ == "__main__":
    read_command("trainer", "Tune an adapter as training_config.yaml says.", Settings)
    sys.exit(run(main, os.environ))
