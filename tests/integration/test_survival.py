"""A run that loses its pod, its memory or its patience: it goes on, or ends with its cause."""

import json
import logging
import os
import signal
import subprocess
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file
from tests.support.apps import command, environment, run_app
from tests.support.tuning import CHATS, QUICK, tune_here, write_rows

from tuning.errors import ResourceExhausted, TransientError
from tuning.outcome import Completed, Failed, read_outcome

STEPS = {**QUICK, "max_steps": 8, "logging_steps": 1}


def losses(folder: Path) -> dict[int, float]:
    """The loss of each step; of a step that was done twice, the last."""
    lines = (folder / "results" / "training_metrics.jsonl").read_text().splitlines()
    return {record["step"]: record["loss"] for line in lines if "loss" in (record := json.loads(line))}


def folder(tmp_path: Path, name: str) -> Path:
    (tmp_path / name).mkdir()
    return tmp_path / name


@pytest.fixture
def unbroken(tmp_path: Path, tiny_model: Path) -> dict[int, float]:
    whole = folder(tmp_path, "whole")
    tune_here(whole, tiny_model, TrainingArguments=STEPS)
    return losses(whole)


def interrupt_after(monkeypatch: pytest.MonkeyPatch, step: int, action: Any) -> None:
    """Do `action` when `step` has ended, once."""
    from trainer.records import Records

    log, done = Records.on_log, []

    def on_log(self: Any, args: Any, state: Any, *rest: Any, **more: Any) -> None:
        log(self, args, state, *rest, **more)
        if state.global_step == step and not done:
            done.append(step)
            action()

    monkeypatch.setattr(Records, "on_log", on_log)


def test_a_preempted_run_saves_a_checkpoint_and_the_next_one_goes_on_from_it(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, unbroken: dict[int, float]
) -> None:
    interrupt_after(monkeypatch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    # As in the default ConfigMap: it asks for no checkpoints of its own.
    steps = {**STEPS, "save_strategy": "no"}
    with pytest.raises(TransientError, match="preempted"):
        tune_here(tmp_path, tiny_model, TrainingArguments=steps)
    [checkpoint] = (tmp_path / "results").glob("checkpoint-*")
    assert (checkpoint / "complete.json").is_file()
    assert max(losses(tmp_path)) < 8
    done = tune_here(tmp_path, tiny_model, TrainingArguments=steps)
    assert done.steps == 8
    assert losses(tmp_path) == pytest.approx(unbroken, rel=1e-6)
    assert done.metrics["train_loss"] == pytest.approx(sum(unbroken.values()) / 8, rel=1e-4)
    assert list((tmp_path / "results").glob("checkpoint-*")) == [], "a run that is over leaves none"
    ours, whole = (load_file(path / "results" / "adapter_model.safetensors") for path in (tmp_path, tmp_path / "whole"))
    assert all((ours[name] == whole[name]).all() for name in whole)


def test_of_a_step_that_was_done_twice_the_later_figures_count(tmp_path: Path) -> None:
    from trainer.records import read_records

    lines = [{"step": 1, "loss": 9.0}, {"step": 2, "loss": 8.0}, {"step": 1, "loss": 7.0}, {"step": 2, "loss": 6.0}]
    lines += [{"step": 2, "eval_loss": 5.0}, {"step": 2, "train_loss": 4.0}]
    (tmp_path / "training_metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_records(tmp_path) == [
        {"step": 1, "loss": 7.0},
        {"step": 2, "loss": 6.0},
        {"step": 2, "train_loss": 4.0},
        {"step": 2, "eval_loss": 5.0},
    ]


def test_checkpoints_are_saved_in_time_and_bounded(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[str]] = []
    interrupt_after(
        monkeypatch, 7, lambda: seen.append({path.name for path in (tmp_path / "results").glob("checkpoint-*")})
    )
    tune_here(tmp_path, tiny_model, TrainingArguments=STEPS, checkpoint_seconds=1e-6)
    assert seen == [{"checkpoint-5", "checkpoint-6"}]


def test_a_checkpoint_that_is_not_complete_or_not_ours_is_not_gone_on_from(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    interrupt_after(monkeypatch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(TransientError, match="preempted"):
        tune_here(tmp_path, tiny_model, TrainingArguments=STEPS)
    tune_here(tmp_path, tiny_model, TrainingArguments={**STEPS, "seed": 3})
    assert "is of another configuration or dataset" in caplog.text
    assert min(losses(tmp_path)) == 1, "it began anew"


def test_a_checkpoint_without_its_marker_is_none(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_after(monkeypatch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(TransientError, match="preempted"):
        tune_here(tmp_path, tiny_model, TrainingArguments=STEPS)
    [checkpoint] = (tmp_path / "results").glob("checkpoint-*")
    (checkpoint / "complete.json").unlink()
    (tmp_path / "results" / "training_metrics.jsonl").unlink()
    tune_here(tmp_path, tiny_model, TrainingArguments=STEPS)
    assert min(losses(tmp_path)) == 1


def out_of_memory(monkeypatch: pytest.MonkeyPatch, fails: Any) -> list[int]:
    """Make each forward pass fail for which `fails(samples, step)`; returns the sizes of those that did not."""
    import torch
    from trl import SFTTrainer

    step, sizes = SFTTrainer.training_step, []

    def training_step(self: Any, model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
        samples = len(inputs["input_ids"])
        if fails(samples, self.state.global_step, bool(self.args.activation_checkpointing)):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")
        sizes.append(samples)
        return step(self, model, inputs, *rest, **more)

    monkeypatch.setattr(SFTTrainer, "training_step", training_step)
    return sizes


@pytest.mark.parametrize("at_step", [0, 3])
def test_out_of_memory_it_goes_on_with_half_the_samples_at_a_time(
    tmp_path: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    at_step: int,
) -> None:
    arguments = {**STEPS, "per_device_train_batch_size": 4, "learning_rate": 1e-3}
    whole = folder(tmp_path, "whole")
    tune_here(whole, tiny_model, TrainingArguments=arguments)
    sizes = out_of_memory(monkeypatch, lambda samples, step, _: samples > 2 and step >= at_step)
    done = tune_here(tmp_path, tiny_model, TrainingArguments=arguments)
    assert done.steps == 8
    assert "going on with per_device_train_batch_size 2, gradient_accumulation_steps 2" in caplog.text
    assert sizes.count(4) <= at_step
    assert losses(tmp_path) == pytest.approx(losses(whole), rel=1e-4)


def test_out_of_memory_with_one_sample_it_turns_on_checkpointing(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, unbroken: dict[int, float]
) -> None:
    out_of_memory(monkeypatch, lambda samples, step, checkpointing: not checkpointing)
    tune_here(tmp_path, tiny_model, TrainingArguments=STEPS)
    assert losses(tmp_path) == pytest.approx(unbroken, rel=1e-4)


@pytest.mark.parametrize("retry", [True, False])
def test_out_of_memory_for_good_is_told_with_the_step(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, retry: bool
) -> None:
    out_of_memory(monkeypatch, lambda *_: True)
    with pytest.raises(ResourceExhausted, match="out of memory in step 1 with batch size") as caught:
        tune_here(tmp_path, tiny_model, TrainingArguments=STEPS, oom_retry=retry)
    assert f"batch size {1 if retry else 2} " in caught.value.message
    assert caught.value.exit_code == 71
    assert "max_length" in caught.value.hint


def test_what_would_not_fit_is_refused_before_the_weights_are_loaded(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.tuning_run.load_base_model", lambda *_, **__: pytest.fail("the model was loaded"))
    monkeypatch.setattr("trainer.choices._free_memory", lambda: 1_000_000)
    with pytest.raises(ResourceExhausted, match=r"would not fit into memory: \d+ bytes .* 1000000 bytes") as caught:
        tune_here(tmp_path, tiny_model)
    assert "nothing fits" in caught.value.hint


def test_a_deterministic_run_is_the_same_to_the_byte(tmp_path: Path, tiny_model: Path) -> None:
    adapters = []
    for name in ("one", "two"):
        arguments = {**STEPS, "full_determinism": True}
        tune_here(folder(tmp_path, name), tiny_model, TrainingArguments=arguments, LoraConfig={"lora_dropout": 0.1})
        adapters.append((tmp_path / name / "results" / "adapter_model.safetensors").read_bytes())
    assert adapters[0] == adapters[1]


def test_a_step_that_hangs_ends_the_run_with_its_cause() -> None:
    from trainer.watchdog import Watchdog

    causes: list[Exception] = []
    watchdog = Watchdog(0.2, causes.append)
    with watchdog.watching():
        deadline = time.monotonic() + 20
        while not causes and time.monotonic() < deadline:
            time.sleep(0.05)
    assert "no step has ended for 0 s" in str(causes[0])
    calm: list[Exception] = []
    watchdog = Watchdog(30, calm.append)
    with watchdog.watching():
        pass
    assert calm == []
    assert not [thread for thread in threading.enumerate() if thread.name == "watchdog"]


def write_run(folder: Path, **arguments: Any) -> dict[str, str]:
    """The files of a run and the variables of its process."""
    # Eight samples: two processes fill a last batch that is short with samples from the first.
    write_rows(folder / "data" / "x.jsonl", CHATS[:8])
    config = {"TrainingArguments": {**STEPS, **arguments}}
    (folder / "training_config.yaml").write_text(yaml.safe_dump({"training_config": config}))
    (folder / "results").mkdir()
    return {
        "YAML_FILE_PATH": str(folder / "training_config.yaml"),
        "DATASET_FOLDER_PATH": str(folder / "data"),
        "RESULTS_PATH": str(folder / "results"),
        "METRICS_PORT": "0",
    }


def test_the_process_itself_ends_with_75_and_a_checkpoint_when_its_pod_must_go(
    tmp_path: Path, tiny_model: Path
) -> None:
    variables = {**write_run(tmp_path, max_steps=100_000), "MODEL_WEIGHTS_PATH": str(tiny_model), "METRICS_PORT": "0"}
    with subprocess.Popen(
        command("trainer"), env=environment(tmp_path, variables), stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if " step 2/" in line:
                break
        process.send_signal(signal.SIGTERM)
        log = process.stderr.read()
    assert process.returncode == 75, log
    outcome = read_outcome(tmp_path / "results")
    assert isinstance(outcome, Failed)
    assert (outcome.exit_code, outcome.message.split(":")[0]) == (75, "preempted")
    assert len(list((tmp_path / "results").glob("checkpoint-*/complete.json"))) == 1


def test_metrics_and_health_are_served_while_training(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer.metrics_server import Metrics, serving

    metrics = Metrics()
    metrics.loss.set(1.5)
    with serving(metrics, _free_port()) as port:
        assert urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5).read() == b"ok\n"
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
        assert "kaito_tuning_loss 1.5" in text
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5)
        with serving(Metrics(), port) as other:
            assert other == 0, "a port in use costs the metrics, not the run"


def _free_port() -> int:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_a_run_sets_its_gauges(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer import metrics_server

    made: list[Any] = []
    original = metrics_server.Metrics

    def metrics() -> Any:
        made.append(original())
        return made[-1]

    monkeypatch.setattr(metrics_server, "Metrics", metrics)
    done = tune_here(tmp_path, tiny_model, DatasetConfig={"train_test_split": 0.8}, TrainingArguments=STEPS)
    value = {family.name: family.samples[0].value for family in made[0].registry.collect()}
    assert value["kaito_tuning_step"] == value["kaito_tuning_steps_total"] == 8
    assert value["kaito_tuning_eval_loss"] == pytest.approx(done.metrics["eval_loss"], rel=1e-3)
    assert value["kaito_tuning_loss"] > 0
    assert value["kaito_tuning_learning_rate"] >= 0
    assert value["kaito_tuning_tokens"] > 0
    assert value["kaito_tuning_tokens_per_second"] > 0


def test_the_log_is_never_silent_for_long(
    tmp_path: Path, tiny_model: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer.progress import Progress

    start = Progress.__init__
    monkeypatch.setattr(Progress, "__init__", lambda self, metrics, _: start(self, metrics, 0.0))
    caplog.set_level(logging.INFO)
    tune_here(tmp_path, tiny_model, TrainingArguments={**STEPS, "logging_steps": 100})
    said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("step ")]
    assert len(said) >= 7


@pytest.mark.timeout(300)
def test_two_processes_learn_what_one_does_and_one_of_them_writes(tmp_path: Path, tiny_model: Path) -> None:
    alone, both = folder(tmp_path, "alone"), folder(tmp_path, "both")
    common = {"learning_rate": 1e-3, "max_length": 64}
    done = run_app(
        "trainer",
        alone,
        **write_run(alone, per_device_train_batch_size=4, **common),
        MODEL_WEIGHTS_PATH=str(tiny_model),
    )
    assert done.exit_code == 0, done.log
    done = run_app(
        "trainer",
        both,
        **write_run(both, per_device_train_batch_size=2, **common),
        MODEL_WEIGHTS_PATH=str(tiny_model),
        TUNING_PROCESSES="2",
    )
    assert done.exit_code == 0, done.log
    assert losses(both) == pytest.approx(losses(alone), rel=2e-3)
    assert len((both / "results" / "training_metrics.jsonl").read_text().splitlines()) == len(
        (alone / "results" / "training_metrics.jsonl").read_text().splitlines()
    )
    outcome = read_outcome(both / "results")
    assert isinstance(outcome, Completed)
    assert outcome.steps == 8


@pytest.mark.timeout(300)
def test_two_nodes_meet_as_the_indexed_job_tells_them(tmp_path: Path, tiny_model: Path) -> None:
    nodes, port = [], str(_free_port())
    for number in range(2):
        node = folder(tmp_path, f"node-{number}")
        variables = {
            **write_run(node, max_steps=2),
            "MODEL_WEIGHTS_PATH": str(tiny_model),
            "TUNING_PROCESSES": "1",
            "TUNING_NODES": "2",
            "JOB_COMPLETION_INDEX": str(number),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        nodes.append(subprocess.Popen(command("trainer"), env=environment(node, variables), stderr=subprocess.PIPE))
    for process in nodes:
        _, log = process.communicate(timeout=200)
        assert process.returncode == 0, log
    assert isinstance(read_outcome(tmp_path / "node-0" / "results"), Completed)
    assert not (tmp_path / "node-1" / "results" / "adapter_model.safetensors").exists()


def test_nodes_that_are_not_told_where_to_meet_are_refused(tmp_path: Path, tiny_model: Path) -> None:
    variables = write_run(tmp_path)
    done = run_app("trainer", tmp_path, **variables, MODEL_WEIGHTS_PATH=str(tiny_model), TUNING_NODES="2")
    assert (done.exit_code, done.message["message"]) == (78, "TUNING_NODES is 2 and MASTER_ADDR is not set")


@pytest.mark.timeout(300)
def test_a_rank_that_fails_ends_all_with_its_cause(tmp_path: Path, tiny_model: Path) -> None:
    variables = write_run(tmp_path, max_length=2)
    done = run_app("trainer", tmp_path, **variables, MODEL_WEIGHTS_PATH=str(tiny_model), TUNING_PROCESSES="2")
    assert done.exit_code == 65, done.log
    assert "no sample has a token to learn within max_length 2" in done.message["message"]
    outcome = read_outcome(tmp_path / "results")
    assert isinstance(outcome, Failed)
    assert outcome.exit_code == 65
    assert not list((tmp_path / "results").glob(".cause*"))


@pytest.mark.timeout(300)
def test_a_rank_that_is_killed_ends_all(tmp_path: Path, tiny_model: Path) -> None:
    variables = {
        **write_run(tmp_path, max_steps=100_000),
        "MODEL_WEIGHTS_PATH": str(tiny_model),
        "TUNING_PROCESSES": "2",
    }
    with subprocess.Popen(
        command("trainer"), env=environment(tmp_path, variables), stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if " step 2/" in line:
                break
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        ranks = [pid for pid in children if "RANK=1" in Path(f"/proc/{pid}/environ").read_text()]
        os.kill(int(ranks[0]), signal.SIGKILL)
        log = process.stderr.read()
    assert process.returncode == 71, log
    outcome = read_outcome(tmp_path / "results")
    assert isinstance(outcome, Failed)
    assert "rank 1 was killed (SIGKILL)" in outcome.message
