import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.unit.kaito_tuning.test_workspace import document


def kaito_tuning(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kaito_tuning.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_render_prints_manifests_and_nothing_else(root: Path) -> None:
    for example in (root / "deploy" / "examples").glob("*.yaml"):
        done = kaito_tuning("render", str(example), "--registry", "r.example.com/kt", "--tag", "v9")
        assert (done.returncode, done.stderr) == (0, "")
        job = list(yaml.safe_load_all(done.stdout))[-1]
        assert job["kind"] == "Job"
        assert "r.example.com/kt/pusher:v9" in done.stdout


def test_an_error_is_one_line_a_hint_and_its_exit_code(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(yaml.safe_dump(document(tuning__method="lorra")))
    done = kaito_tuning("render", str(tmp_path / "w.yaml"))
    assert done.returncode == 78
    assert done.stdout == ""
    assert done.stderr == "error: w.yaml: tuning.method 'lorra' is unknown\nhint: use lora or qlora\n"


@pytest.mark.parametrize("arguments", [["--help"], ["render", "--help"], ["run", "--help"]])
def test_help_is_useful(arguments: list[str]) -> None:
    done = kaito_tuning(*arguments)
    assert done.returncode == 0
    assert "Usage" in done.stdout


def test_the_verdict_of_a_run_is_the_exit_code(tmp_path: Path) -> None:
    changes = {"tuning__input": {"urls": ["ftp://h/x"]}, "tuning__output": {"image": "oci:/mnt/results/i:v"}}
    (tmp_path / "w.yaml").write_text(yaml.safe_dump(document(**changes)))
    done = kaito_tuning("run", str(tmp_path / "w.yaml"), "--work-dir", str(tmp_path / "pod"))
    assert done.returncode == 78
    assert "data-downloader" in done.stderr
