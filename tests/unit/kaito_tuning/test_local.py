import io
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from kaito_tuning import local
from kaito_tuning.job import render
from kaito_tuning.local import Local
from kaito_tuning.local_volumes import Volumes
from kaito_tuning.processes import _environment, run_as_processes
from kaito_tuning.reading import parse_workspace
from tests.support.web import Web, content
from tests.unit.kaito_tuning.test_workspace import document
from tuning.errors import ConfigurationError, InputNotFound

ENVIRON = {"PATH": "/usr/bin:/bin", "DATA_URLS": "http://not-from-here/x", "LOG_LEVEL": "info"}


def rendered(**changes: Any) -> Any:
    return render(parse_workspace(document(**changes), source="w.yaml", local=True), None)


LAYOUT = {"image": "oci:/mnt/results/image:v1"}


def test_the_pod_runs_in_order_and_the_first_failure_is_the_verdict(web: Web, tmp_path: Path) -> None:
    url = web.serve("/x.jsonl", content(b"gone", status=404))
    output = io.StringIO()
    job = rendered(tuning__input={"urls": [url]}, tuning__output=LAYOUT)
    verdict = run_as_processes(job, Local(tmp_path / "pod"), ENVIRON, output)
    assert [ended.container for ended in verdict.ended] == ["push-preflight", "data-downloader"]
    assert verdict.exit_code == 66
    assert "answered 404" in verdict.ended[1].message
    lines = output.getvalue().splitlines()
    assert lines[0].startswith("[push-preflight] ")
    assert lines[-1].startswith("[data-downloader] ")


def test_a_broken_dataset_ends_trainer_and_pusher_with_its_cause(web: Web, tmp_path: Path, tiny_model: Path) -> None:
    url = web.serve("/x.jsonl", content(b'{"text": "a"}\n' * 11 + b'{"question": "q"}\n'))
    job = rendered(tuning__input={"urls": [url]}, tuning__output=LAYOUT)
    verdict = run_as_processes(job, Local(tmp_path / "pod", tiny_model), ENVIRON, io.StringIO())
    assert {ended.container: ended.exit_code for ended in verdict.ended} == {
        "push-preflight": 0,
        "data-downloader": 0,
        "w": 65,
        "pusher": 69,
    }
    assert verdict.exit_code == 65
    assert "x.jsonl line 12 has the fields question" in verdict.ended[2].message
    assert "x.jsonl line 12 has the fields question" in verdict.ended[3].message


def test_paths_are_mapped_and_settings_come_from_the_job_alone(tmp_path: Path) -> None:
    job = rendered(tuning__input={"urls": ["http://127.0.0.1:1/x"]}, tuning__output=LAYOUT)
    spec = job.job["spec"]["template"]["spec"]
    given = Local(tmp_path, weights=tmp_path / "weights")
    volumes = Volumes(job, given)
    trainer = _environment(spec["containers"][0], volumes, given, "run-1", ENVIRON)
    assert trainer["RESULTS_PATH"] == f"{tmp_path}/results-volume"
    assert trainer["YAML_FILE_PATH"] == f"{tmp_path}/config-volume/training_config.yaml"
    assert trainer["MODEL_WEIGHTS_PATH"] == f"{tmp_path}/weights"
    assert trainer["TUNING_RUN_ID"] == "run-1"
    assert trainer["PATH"] == "/usr/bin:/bin"
    assert "DATA_URLS" not in trainer
    pusher = _environment(spec["containers"][1], volumes, given, "run-1", ENVIRON)
    assert pusher["OUTPUT_IMAGE"] == f"oci:{tmp_path}/results-volume/image:v1"
    assert Path(trainer["YAML_FILE_PATH"]).read_text().startswith("training_config:")


def test_an_image_input_cannot_run_as_a_process(tmp_path: Path) -> None:
    job = rendered(tuning__input={"image": "r.example.com/d:1"}, tuning__output=LAYOUT)
    with pytest.raises(ConfigurationError, match="which no process can stand for"):
        run_as_processes(job, Local(tmp_path / "pod"), ENVIRON, io.StringIO())


def test_a_push_secret_that_is_not_at_hand_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputNotFound, match="the push secret push is not at hand"):
        run_as_processes(rendered(), Local(tmp_path / "pod"), ENVIRON, io.StringIO())


def test_a_configmap_that_is_not_at_hand_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="the ConfigMap mine is not at hand"):
        run_as_processes(rendered(tuning__config="mine", tuning__output=LAYOUT), Local(tmp_path), ENVIRON)


def test_a_volume_of_the_cluster_is_refused(tmp_path: Path) -> None:
    claim = {"volumeSource": {"persistentVolumeClaim": {"claimName": "c"}}}
    with pytest.raises(ConfigurationError, match="data-volume cannot be used on this machine"):
        run_as_processes(rendered(tuning__input=claim, tuning__output=LAYOUT), Local(tmp_path), ENVIRON)


def test_stopping_ends_what_runs_as_a_deletion_would(tmp_path: Path) -> None:
    (tmp_path / "termination").mkdir()
    processes = local._Processes(io.StringIO(), lambda: None)
    threading.Timer(0.5, processes.stop).start()
    start = time.monotonic()
    [ended] = processes.run([("sleeper", [sys.executable, "-c", "import time; time.sleep(60)"], {})], tmp_path)
    assert ended.exit_code == 143
    assert time.monotonic() - start < 30
    [after] = processes.run([("next", [sys.executable, "-c", "print(1)"], {})], tmp_path)
    assert after.exit_code == 143


def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "GRACE_SECONDS", 0.5)
    (tmp_path / "termination").mkdir()
    output = io.StringIO()
    processes = local._Processes(output, lambda: None)
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"

    def stop_when_up() -> None:
        while "up" not in output.getvalue():
            time.sleep(0.01)
        processes.stop()

    threading.Thread(target=stop_when_up).start()
    [ended] = processes.run([("stubborn", [sys.executable, "-c", code], {})], tmp_path)
    assert ended.exit_code == 137


def test_a_termination_message_is_told_as_its_sentence(tmp_path: Path) -> None:
    (tmp_path / "m").write_text(json.dumps({"exitCode": 65, "message": "is broken", "hint": "mend it"}))
    assert local._sentence(tmp_path / "m") == "is broken\nmend it"
    assert local._sentence(tmp_path / "none") == ""
