"""Our trainer's image under the original's controller: its command line, its paths."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tests.support.tuning import CHATS, QUICK, write_rows

from tuning.outcome import Completed, read_outcome

SHIM = Path(__file__).parents[2] / "images" / "trainer" / "kaito" / "fine_tuning.py"


@pytest.mark.timeout(300)
def test_its_command_line_tunes(tiny_model: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "data" / "x.jsonl", CHATS)
    config = {"training_config": {"TrainingArguments": QUICK}}
    (tmp_path / "training_config.yaml").write_text(yaml.safe_dump(config))
    variables = {
        "YAML_FILE_PATH": str(tmp_path / "training_config.yaml"),
        "DATASET_FOLDER_PATH": str(tmp_path / "data"),
        "MODEL_WEIGHTS_PATH": str(tiny_model),
        "RESULTS_PATH": str(tmp_path / "results"),
        "METRICS_PORT": "0",
        "TERMINATION_MESSAGE_PATH": str(tmp_path / "message"),
        "DEFAULT_TARGET_MODULES": "q_proj",
    }
    (tmp_path / "results").mkdir()
    launch = f"cd {SHIM.parent} && {sys.executable} metrics_server.py & accelerate launch --num_processes=1 {SHIM}"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["/bin/sh", "-c", launch],
        env={**os.environ, **variables, "PATH": path},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert isinstance(read_outcome(tmp_path / "results"), Completed)


def test_what_the_launcher_set_does_not_reach_the_trainer() -> None:
    environment = runpy.run_path(str(SHIM))["environment"]
    launched = {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "MASTER_ADDR": "x", "TORCHELASTIC_RUN_ID": "1"}
    assert environment({**launched, "HOME": "/tmp"}) == {
        "DATASET_FOLDER_PATH": "/mnt/data",
        "TUNING_PROCESSES": "4",
        "HOME": "/tmp",
    }
    assert environment({"DATASET_FOLDER_PATH": "/data", "TUNING_PROCESSES": "2"})["TUNING_PROCESSES"] == "2"


def test_a_second_rank_has_nothing_to_do() -> None:
    done = subprocess.run([sys.executable, str(SHIM)], env={**os.environ, "LOCAL_RANK": "1"}, timeout=30, check=False)
    assert done.returncode == 0
