"""The trainer: `training_config.yaml` and `/data` → an adapter and an outcome."""

import os
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

from trainer.attempt import attempt, end_attempt, rank_of_attempt, results_folder
from trainer.processes import is_rank, launch, processes_of_node
from trainer.settings import Settings
from trainer.tuning_run import tune
from tuning.command import read_command
from tuning.entrypoint import run
from tuning.environment import read_settings


def main(environ: Mapping[str, str]) -> Mapping[str, Any] | None:
    """Tune, in one process or in one for each GPU, and announce the outcome whatever it is."""
    settings = read_settings(Settings, environ)
    results = results_folder(settings)
    if is_rank(environ):
        rank, processes = int(environ["RANK"]), int(environ["WORLD_SIZE"])
        with rank_of_attempt(results, rank, int(environ.get("LOCAL_RANK", 0))) as end:
            tune(settings, results, end, rank=rank, processes=processes)
        return None
    # A pod of several nodes has its first one speak for all.
    with attempt(results, settings.run_id):
        count = processes_of_node(settings)
        if count * settings.nodes > 1:
            return launch(settings, results, count)
        return tune(settings, results, partial(end_attempt, results, settings.run_id, environ))


if __name__ == "__main__":
    read_command("trainer", "Tune an adapter as training_config.yaml says.", Settings)
    sys.exit(run(main, os.environ))
