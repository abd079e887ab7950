import json
import os
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
    changes = {
        "tuning__input": {"urls": ["https://h/x.jsonl#sha256=no"]},
        "tuning__output": {"image": "oci:/mnt/results/i:v"},
    }
    (tmp_path / "w.yaml").write_text(yaml.safe_dump(document(**changes)))
    done = kaito_tuning("run", str(tmp_path / "w.yaml"), "--work-dir", str(tmp_path / "pod"))
    assert done.returncode == 78
    assert "data-downloader" in done.stderr


def write(tmp_path: Path, **changes: object) -> str:
    path = tmp_path / "w.yaml"
    path.write_text(yaml.safe_dump(document(**changes)))
    return str(path)


def test_validate_says_that_it_is_valid_and_names_every_problem(tmp_path: Path) -> None:
    good = kaito_tuning("validate", write(tmp_path))
    assert (good.returncode, good.stdout) == (0, "w.yaml: the Workspace w is valid\n")
    as_json = kaito_tuning("validate", write(tmp_path), "--output", "json")
    assert json.loads(as_json.stdout) == {"valid": True, "name": "w", "warnings": []}
    bad = kaito_tuning("validate", write(tmp_path, tuning__method="dora", tuning__input={}))
    assert bad.returncode == 78
    assert bad.stderr.startswith("error: w.yaml has 2 problems: tuning.method 'dora' is unknown")
    assert "Traceback" not in bad.stderr


def test_validate_checks_the_configuration_of_a_second_file(tmp_path: Path) -> None:
    config = {
        "kind": "ConfigMap",
        "metadata": {"name": "c"},
        "data": {"training_config.yaml": "training_config: {LoraConfg: {}}"},
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    path = write(tmp_path, tuning__config="c")
    alone = kaito_tuning("validate", path)
    assert "the ConfigMap c is not at hand and was not checked" in alone.stdout
    both = kaito_tuning("validate", path, str(tmp_path / "c.yaml"))
    assert both.returncode == 78
    assert "did you mean LoraConfig?" in both.stderr


def test_validate_compares_with_the_workspace_before(tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text(yaml.safe_dump(document()))
    done = kaito_tuning("validate", write(tmp_path, tuning__method="qlora"), "--old", str(tmp_path / "old.yaml"))
    assert done.returncode == 78
    assert "tuning.method cannot be changed" in done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: Workspace\n\tmetadata: {}\n", "line 2"),
        ("kind: Job\n", "a document of the kind 'Job'"),
        ("", "has no Workspace"),
        ("- a\n", "a document of the kind None"),
    ],
)
def test_a_file_that_is_no_workspace_is_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "w.yaml").write_text(text)
    done = kaito_tuning("validate", str(tmp_path / "w.yaml"))
    assert done.returncode == 78
    assert said in done.stderr
    assert len(done.stderr.splitlines()) <= 2


def test_debug_shows_where_an_error_comes_from(tmp_path: Path) -> None:
    done = kaito_tuning("--debug", "validate", write(tmp_path, tuning__method="dora"))
    assert "Traceback" in done.stderr


def test_render_as_json_is_a_list_that_kubectl_takes(tmp_path: Path) -> None:
    done = kaito_tuning("render", write(tmp_path, resource__count=2), "-o", "json", "--gpus", "4", "--queue", "q")
    content = json.loads(done.stdout)
    assert content["kind"] == "List"
    assert [item["kind"] for item in content["items"]] == ["ConfigMap", "Service", "Job"]


def test_plan_is_a_table_for_people_and_json_for_programs(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"prompt": "a b c d", "completion": "e f g h"}\n' * 500)
    path = write(tmp_path, resource__instanceType="Standard_NC24ads_A100_v4")
    data = ["--data", str(tmp_path / "x.jsonl")]
    told = kaito_tuning("plan", path, *data)
    assert told.returncode == 0, told.stderr
    for words in ("500 of about 4 tokens", "1 x A100", "fits", "weights 7.1", "roughly"):
        assert words in told.stdout
    plan = json.loads(kaito_tuning("plan", path, *data, "-o", "json").stdout)
    assert (plan["rows"], plan["steps"], plan["fits"]) == (500, 189, True)
    assert plan["memory"]["total"] > plan["memory"]["weights"] > 0


def test_init_writes_what_validate_and_plan_take(tmp_path: Path) -> None:
    path = str(tmp_path / "mine.yaml")
    given = ["--preset", "phi-4", "--method", "qlora", "--data", "https://h/x.jsonl", "--to", "r.example.com/a/b:1"]
    done = kaito_tuning("init", *given, "--secret", "push", "--file", path)
    assert done.returncode == 0, done.stderr
    assert kaito_tuning("validate", path).stdout == "mine.yaml: the Workspace my-adapter is valid\n"
    assert kaito_tuning("plan", path, "--rows", "1000").returncode == 0
    again = kaito_tuning("init", *given, "--secret", "push", "--file", path)
    assert again.returncode == 78
    assert "exists already" in again.stderr
    wrong = kaito_tuning("init", *given[2:], "--preset", "phi-44", "--secret", "push")
    assert wrong.returncode == 78
    assert "did you mean phi-4?" in wrong.stderr
    local = kaito_tuning("init", *given[:5], "./x.jsonl", *given[6:], "--secret", "push")
    assert local.returncode == 78
    assert "./x.jsonl is a file of this machine" in local.stderr


def test_init_asks_only_for_what_is_not_given() -> None:
    command = [sys.executable, "-m", "kaito_tuning.cli", "init", "--preset", "phi-4", "--to", "oci:/mnt/results/i:v"]
    done = subprocess.run(command, input="https://h/x.jsonl\n", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Dataset" in done.stdout
    assert "imagePushSecret" not in done.stdout


def test_explain_tells_type_default_and_source() -> None:
    done = kaito_tuning("explain", "LoraConfig.r")
    assert "the rank" in done.stdout
    assert "takes:   int" in done.stdout
    assert "source:  peft, LoraConfig" in done.stdout
    assert json.loads(kaito_tuning("explain", "r", "-o", "json").stdout)[0]["default"] == 8
    assert "on_bad_rows" in kaito_tuning("explain", "DatasetConfig").stdout
    wrong = kaito_tuning("explain", "lora_alpa")
    assert (wrong.returncode, "did you mean lora_alpha?" in wrong.stderr) == (78, True)


def test_every_explained_key_is_an_accepted_one() -> None:
    from kaito_tuning.explain import _meanings
    from tuning.config_keys import accepted_keys

    for section, keys in _meanings().items():
        assert set(keys) <= set(accepted_keys()[section]), section
    assert set(_meanings()["DatasetConfig"]) == set(accepted_keys()["DatasetConfig"]), "our own keys have a meaning"


def test_presets_and_schema_are_printed() -> None:
    assert "microsoft/phi-4" in kaito_tuning("presets").stdout
    assert json.loads(kaito_tuning("schema").stdout)["properties"]["tuning"]
    assert yaml.safe_load(kaito_tuning("schema", "--crd").stdout)["kind"] == "CustomResourceDefinition"


def test_the_shell_completes_it() -> None:
    command = [str(Path(sys.executable).parent / "kaito-tuning")]
    environ = {
        **os.environ,
        "_KAITO_TUNING_COMPLETE": "complete_bash",
        "COMP_WORDS": "kaito-tuning va",
        "COMP_CWORD": "1",
    }
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["validate"]
