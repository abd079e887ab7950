"""Each wrong input, given to the app as a process: one sentence that names it, its exit code, nothing half-written."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from tests.support.apps import Done, command, environment, run_app
from tests.support.registry import FakeRegistry
from tests.support.web import Web, content

from tuning.outcome import Completed, Failed, announce, describe_files, read_outcome
from tuning.volumes import LEASE

GOOD = b'{"text": "hello"}\n'
LORA = "training_config: {QuantizationConfig: {load_in_4bit: false}}"


def one_sentence(done: Done, exit_code: int, *said: str) -> None:
    """Assert that the app ended with `exit_code` and that log and termination message say one and the same."""
    assert done.exit_code == exit_code, done.log
    errors = [line for line in done.log.splitlines() if " ERROR " in line]
    assert len(errors) == 1, done.log
    assert "Traceback" not in done.log
    for words in said:
        assert words in done.message["message"] + done.message["hint"]
        assert words in errors[0]
    assert done.message["hint"], "it says what to do"


def train(tmp_path: Path, config: str, rows: bytes | None = GOOD, **variables: str) -> Done:
    (tmp_path / "training_config.yaml").write_text(config)
    data = tmp_path / "data"
    data.mkdir()
    if rows is not None:
        (data / "x.jsonl").write_bytes(rows)
    done = run_app(
        "trainer",
        tmp_path,
        python=("-X", "importtime"),
        YAML_FILE_PATH=str(tmp_path / "training_config.yaml"),
        DATASET_FOLDER_PATH=str(data),
        RESULTS_PATH=str(tmp_path / "results"),
        **variables,
    )
    imported = {line.rpartition("|")[2].strip() for line in done.log.splitlines() if line.startswith("import time:")}
    assert "json" in imported
    # What makes an error show in under a second: the libraries that take seconds are not imported.
    assert not imported & {"torch", "transformers", "peft", "trl", "datasets", "bitsandbytes"}
    outcome = read_outcome(tmp_path / "results")
    assert isinstance(outcome, Failed)
    assert outcome.exit_code == done.exit_code
    assert outcome.message == done.message["message"]
    log = "\n".join(line for line in done.log.splitlines() if not line.startswith("import time:"))
    return Done(done.exit_code, log, done.message)


def test_no_urls(tmp_path: Path) -> None:
    one_sentence(run_app("data_downloader", tmp_path, DATA_VOLUME_PATH=str(tmp_path)), 78, "DATA_URLS is not set")


def test_a_url_that_answers_404(web: Web, tmp_path: Path) -> None:
    url = web.serve("/x.jsonl", content(b"<html>", status=404))
    data = tmp_path / "data"
    data.mkdir()
    done = run_app("data_downloader", tmp_path, DATA_URLS=url, DATA_VOLUME_PATH=str(data))
    one_sentence(done, 66, f"{url} answered 404")
    assert [path for path in data.rglob("*") if path.is_file()] == []


def test_an_empty_data_folder(tmp_path: Path, tiny_model: Path) -> None:
    one_sentence(train(tmp_path, LORA, None, MODEL_WEIGHTS_PATH=str(tiny_model)), 66, "data", "is empty")


def test_a_line_that_is_not_json(tmp_path: Path, tiny_model: Path) -> None:
    done = train(tmp_path, LORA, GOOD * 11 + b"{oops\n", MODEL_WEIGHTS_PATH=str(tiny_model))
    one_sentence(done, 65, "x.jsonl line 12 is not JSON")


def test_a_row_of_no_known_format(tmp_path: Path, tiny_model: Path) -> None:
    done = train(tmp_path, LORA, GOOD + b'{"question": "q", "answer": "a"}\n', MODEL_WEIGHTS_PATH=str(tiny_model))
    one_sentence(done, 65, "x.jsonl line 2", "question, answer", "prompt and completion")


def test_a_single_line_of_200_megabytes(tmp_path: Path, tiny_model: Path) -> None:
    done = train(tmp_path, LORA, b'{"text": "' + b"x" * 200_000_000 + b'"}', MODEL_WEIGHTS_PATH=str(tiny_model))
    one_sentence(done, 65, "x.jsonl line 1 is longer than 64 MiB", "one row a line")


def test_a_rank_of_nothing(tmp_path: Path) -> None:
    done = train(tmp_path, "training_config: {LoraConfig: {r: 0}}")
    assert (done.exit_code, done.message["message"]) == (
        78,
        "training_config.yaml: LoraConfig.r must be at least 1, not 0",
    )


def test_an_unknown_section(tmp_path: Path) -> None:
    one_sentence(train(tmp_path, "training_config: {LoraConfg: {}}"), 78, "LoraConfg", "did you mean LoraConfig?")


def test_an_unknown_key(tmp_path: Path) -> None:
    done = train(tmp_path, "training_config: {TrainingArguments: {learning_rat: 1}}")
    one_sentence(done, 78, "TrainingArguments.learning_rat is unknown", "did you mean learning_rate?")


def test_four_bits_with_the_method_lora(tmp_path: Path) -> None:
    done = train(tmp_path, "training_config: {QuantizationConfig: {load_in_4bit: true}}", TUNING_METHOD="lora")
    one_sentence(done, 78, "load_in_4bit must not be true with method lora", "use method qlora")


def test_a_weights_path_without_a_model(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    done = train(tmp_path, LORA, MODEL_WEIGHTS_PATH=str(tmp_path / "weights"))
    one_sentence(done, 66, f"there is no base model at {tmp_path / 'weights'}", "config.json is missing")


def test_a_configuration_that_is_not_there(tmp_path: Path) -> None:
    done = run_app("trainer", tmp_path, YAML_FILE_PATH=str(tmp_path / "no.yaml"), RESULTS_PATH=str(tmp_path / "r"))
    one_sentence(done, 66, "cannot read the training configuration", "YAML_FILE_PATH")


@pytest.mark.parametrize("arguments", [["preflight"], []])
def test_wrong_push_credentials(registry: FakeRegistry, tmp_path: Path, arguments: list[str]) -> None:
    config = registry.write_config(tmp_path, password="wr0ng-pass")
    (tmp_path / "adapter").write_text("x")
    announce(tmp_path, Completed("", describe_files(tmp_path, ["adapter"]), "org/model", 1))
    image = f"{registry.host}/adapters/phi:v1"
    variables = {"OUTPUT_IMAGE": image, "DOCKER_CONFIG": str(config), "RESULTS_PATH": str(tmp_path)}
    done = run_app("pusher", tmp_path, *arguments, **variables)
    one_sentence(done, 77, "UNAUTHORIZED", str(config / "config.json"), "check that the push secret")
    assert "wr0ng-pass" not in done.log + str(done.message)
    assert registry.manifests == {}


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)


def test_a_trainer_killed_with_sigkill(tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    # A pipe in place of the configuration: the trainer has taken its lease and waits for what never comes.
    os.mkfifo(tmp_path / "training_config.yaml")
    trainer_variables = {
        "YAML_FILE_PATH": str(tmp_path / "training_config.yaml"),
        "RESULTS_PATH": str(results),
        "TUNING_RUN_ID": "pod-1",
    }
    pusher_variables = {
        "OUTPUT_IMAGE": f"oci:{results}/image:v1",
        "RESULTS_PATH": str(results),
        "TUNING_RUN_ID": "pod-1",
        "POLL_SECONDS": "0.2",
    }
    with (
        subprocess.Popen(
            command("pusher"), env=environment(tmp_path, pusher_variables), stderr=subprocess.PIPE
        ) as pusher,
        subprocess.Popen(command("trainer"), env=environment(results, trainer_variables)) as trainer,
    ):
        _wait_for(results / LEASE)
        assert pusher.poll() is None
        trainer.send_signal(signal.SIGKILL)
        trainer.wait()
        killed = time.monotonic()
        _, log = pusher.communicate(timeout=60)
        seconds = time.monotonic() - killed
    assert pusher.returncode == 69
    assert b"the trainer died without a word" in log
    # The promise is 2 s; what is above it here is for a busy machine.
    assert seconds < 10
    assert not (results / "image").exists()


def test_a_second_run_into_results_that_hold_an_old_outcome(tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    (results / "adapter").write_text("old")
    announce(results, Completed("pod-1", describe_files(results, ["adapter"]), "org/model", 1))
    pusher_variables = {
        "OUTPUT_IMAGE": f"oci:{results}/image:v1",
        "RESULTS_PATH": str(results),
        "TUNING_RUN_ID": "pod-2",
        "POLL_SECONDS": "0.1",
    }
    with subprocess.Popen(
        command("pusher"), env=environment(tmp_path, pusher_variables), stderr=subprocess.PIPE
    ) as pusher:
        # The new trainer fails: what the pusher must tell is this, and not push what lies there.
        trained = run_app(
            "trainer",
            tmp_path,
            YAML_FILE_PATH=str(tmp_path / "no.yaml"),
            RESULTS_PATH=str(results),
            TUNING_RUN_ID="pod-2",
        )
        _, log = pusher.communicate(timeout=60)
    assert trained.exit_code == 66
    assert pusher.returncode == 69
    assert b"66 InputNotFound" in log
    assert not (results / "image").exists()


@pytest.mark.parametrize(
    ("app", "summary"), [("data_downloader", "DATA_URLS"), ("trainer", "YAML_FILE_PATH"), ("pusher", "preflight")]
)
def test_help_tells_what_an_app_reads(tmp_path: Path, app: str, summary: str) -> None:
    done = run_app(app, tmp_path, "--help")
    assert done.exit_code == 0
    assert summary in done.log


def test_an_argument_that_is_no_command(tmp_path: Path) -> None:
    assert run_app("pusher", tmp_path, "perflight").exit_code == 2
