"""What the original gets wrong, by the numbers q1 to q32 of its study, and how it is right here.

Names after the behaviour; the number stands in the docstring. q28 (a pusher that waits for a dead trainer) is shown
with real processes in test_bad_input.py, q31 (one process for each GPU) where the trainer is started.
"""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tests.support.tuning import CHATS, QUICK, tune_here, write_rows

from tuning.errors import ConfigurationError, DatasetError, InputNotFound
from tuning.outcome import read_outcome
from tuning.training_config import parse_training_config


def refused(config: dict[str, Any]) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        parse_training_config(json.dumps({"training_config": config}), source="x")
    return caught.value


def report(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "results" / "label_report.json").read_text())
    return content


def learnt(folder: Path) -> list[str]:
    """The texts that were learnt of the first samples."""
    return [text for example in report(folder)["examples"] for text in example["learnt"]]


def test_every_option_of_the_libraries_is_accepted(tmp_path: Path, tiny_model: Path) -> None:
    """q1"""
    tune_here(
        tmp_path,
        tiny_model,
        ModelConfig={"attn_implementation": "eager", "local_files_only": True, "dtype": "float32"},
        QuantizationConfig={"load_in_4bit": True, "bnb_4bit_quant_storage": "uint8"},
    )


def test_an_unknown_section_is_an_error() -> None:
    """q2"""
    assert "did you mean LoraConfig?" in refused({"LoraConfg": {}}).hint


def test_a_prefix_of_a_key_is_not_the_key() -> None:
    """q3"""
    assert "TrainingArguments.num_train is unknown" in refused({"TrainingArguments": {"num_train": 5}}).message


def test_mappings_reach_the_libraries_as_mappings(tmp_path: Path, tiny_model: Path) -> None:
    """q4"""
    tune_here(
        tmp_path,
        tiny_model,
        LoraConfig={"r": 8, "rank_pattern": {"q_proj": 2}, "target_modules": ["q_proj", "v_proj"]},
        TrainingArguments={
            **QUICK,
            "lr_scheduler_type": "cosine_with_restarts",
            "lr_scheduler_kwargs": {"num_cycles": 2},
            "activation_checkpointing": True,
            "activation_checkpointing_kwargs": {"use_reentrant": False},
        },
    )
    weights = load_file(tmp_path / "results" / "adapter_model.safetensors")
    ranks = {name.split(".")[-3]: tensor.shape[0] for name, tensor in weights.items() if "lora_A" in name}
    assert ranks == {"q_proj": 2, "v_proj": 8}


def test_null_is_nothing_and_not_a_text(tmp_path: Path, tiny_model: Path) -> None:
    """q5"""
    done = tune_here(
        tmp_path, tiny_model, ModelConfig={"chat_template": None}, TrainingArguments={**QUICK, "warmup_steps": None}
    )
    assert done.steps == 4


def test_an_empty_section_and_an_empty_list_of_them_are_the_defaults(tmp_path: Path, tiny_model: Path) -> None:
    """q6"""
    assert parse_training_config("training_config:\n", source="x").method == "lora"
    assert tune_here(tmp_path, tiny_model, LoraConfig=None).steps == 4  # type: ignore[arg-type]


@pytest.mark.parametrize("targets", ["all-linear", r".*\.(q|v)_proj", ["q_proj", "v_proj"]])
def test_target_modules_are_a_name_a_pattern_or_a_list(tmp_path: Path, tiny_model: Path, targets: Any) -> None:
    """q7"""
    tune_here(tmp_path, tiny_model, LoraConfig={"target_modules": targets})
    names = {name.split(".")[-3] for name in load_file(tmp_path / "results" / "adapter_model.safetensors")}
    assert names == ({"q_proj", "v_proj"} if targets != "all-linear" else names)
    assert len(names) == (7 if targets == "all-linear" else 2)


def test_several_target_modules_in_one_text_are_refused_with_the_layers_of_the_model(
    tmp_path: Path, tiny_model: Path
) -> None:
    """q7"""
    with pytest.raises(ConfigurationError, match="target_modules: 'q_proj,v_proj'") as caught:
        tune_here(tmp_path, tiny_model, LoraConfig={"target_modules": "q_proj,v_proj"})
    assert "down_proj" in caught.value.hint


@pytest.mark.parametrize(
    "section",
    [
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "olora"},
        {"init_lora_weights": False},
        {"use_rslora": True},
        {"use_dora": True},
        {"loraplus_lr_ratio": 16},
        {"lora_dropout": 0.1, "bias": "lora_only"},
        {"loftq_config": {"loftq_bits": 4}},
    ],
    ids=str,
)
def test_every_way_to_make_an_adapter_works(tmp_path: Path, tiny_model: Path, section: dict[str, Any]) -> None:
    """q8"""
    tune_here(tmp_path, tiny_model, LoraConfig={"r": 4, **section}, ModelConfig={"dtype": "auto"})


def test_a_wrong_number_and_a_wrong_choice_are_configuration_errors() -> None:
    """q9"""
    error = refused({"TrainingArguments": {"per_device_train_batch_size": "two", "eval_strategy": "sometimes"}})
    assert error.exit_code == 78
    assert "per_device_train_batch_size" in error.message
    assert "eval_strategy" in error.message


def test_mlm_is_said_to_have_no_effect_and_its_absence_too_is_well(
    tmp_path: Path, tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """q10"""
    tune_here(tmp_path, tiny_model, DataCollator={"mlm": True})
    assert [record.getMessage() for record in caplog.records if "mlm" in record.getMessage()] == [
        "DataCollator.mlm has no effect: every base model here is causal, and its labels are made before the collator"
    ]


def test_every_file_is_learnt_from(tmp_path: Path, tiny_model: Path) -> None:
    """q11, q12"""
    write_rows(tmp_path / "data" / "b.jsonl", CHATS[:4])
    write_rows(tmp_path / "data" / "a.jsonl", CHATS[4:])
    (tmp_path / "data" / "c.tsv").write_text("prompt\tcompletion\none\ttwo\n")
    (tmp_path / "data" / "d.txt").write_text("three\n")
    write_rows(tmp_path / "data" / "train.parquet.jsonl", [{"text": "four"}])
    tune_here(tmp_path, tiny_model, None)
    assert {file["file"]: file["used"] for file in report(tmp_path)["files"]} == {
        "a.jsonl": 6,
        "b.jsonl": 4,
        "c.tsv": 1,
        "d.txt": 1,
        "train.parquet.jsonl": 1,
    }


def test_a_dataset_path_is_one_in_the_data_folder(tmp_path: Path, tiny_model: Path) -> None:
    """q13"""
    write_rows(tmp_path / "data" / "a" / "x.jsonl", CHATS)
    write_rows(tmp_path / "data" / "b" / "x.jsonl", [{"other": 1}])
    tune_here(tmp_path, tiny_model, None, DatasetConfig={"dataset_path": "a"})
    assert [file["file"] for file in report(tmp_path)["files"]] == ["a/x.jsonl"]


def test_the_columns_that_were_named_are_the_ones_learnt(tmp_path: Path, tiny_model: Path) -> None:
    """q14"""
    rows = [{"question": f"q{number}", "answer": f"a{number}", "text": "not this"} for number in range(4)]
    tune_here(tmp_path, tiny_model, rows, DatasetConfig={"context_column": "question", "response_column": "answer"})
    assert set(learnt(tmp_path)) <= {f"a{number}<|end|>" for number in range(4)}


def test_the_text_field_that_was_named_is_the_one_learnt(tmp_path: Path, tiny_model: Path) -> None:
    """q14"""
    rows = [{"body": f"body {number}"} for number in range(4)]
    tune_here(tmp_path, tiny_model, rows, TrainingArguments={**QUICK, "dataset_text_field": "body"})
    assert all(text.startswith("body") for text in learnt(tmp_path))


@pytest.mark.parametrize(
    "row",
    [
        {"text": "a b c"},
        {"prompt": "p", "completion": "a b c"},
        {"instruction": "i", "input": "j", "output": "a b c"},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a b c"}]},
        CHATS[0],
    ],
    ids=lambda row: next(iter(row)),
)
def test_every_documented_format_trains(tmp_path: Path, tiny_model: Path, row: dict[str, Any]) -> None:
    """q15"""
    assert tune_here(tmp_path, tiny_model, [row] * 6).steps == 4


def _digest(folder: Path) -> str:
    return hashlib.sha256((folder / "results" / "adapter_model.safetensors").read_bytes()).hexdigest()


def test_equal_runs_give_equal_adapters_and_another_seed_another_one(tmp_path: Path, tiny_model: Path) -> None:
    """q16"""
    digests = []
    for name, seed in (("one", 1), ("two", 1), ("three", 2)):
        (tmp_path / name).mkdir()
        tune_here(tmp_path / name, tiny_model, DatasetConfig={"shuffle_seed": seed})
        digests.append(_digest(tmp_path / name))
    assert digests[0] == digests[1]
    assert digests[1] != digests[2]


def test_a_split_is_checked_before_anything_is_loaded_and_its_rows_are_evaluated(
    tmp_path: Path, tiny_model: Path
) -> None:
    """q17"""
    assert "train_test_split must be" in refused({"DatasetConfig": {"train_test_split": 1.5}}).message
    done = tune_here(
        tmp_path,
        tiny_model,
        DatasetConfig={"train_test_split": 0.8},
        TrainingArguments={**QUICK, "eval_strategy": "steps", "eval_steps": 2},
    )
    assert done.metrics["eval_loss"] > 0
    lines = (tmp_path / "results" / "training_metrics.jsonl").read_text().splitlines()
    assert [record["step"] for line in lines if "eval_loss" in (record := json.loads(line))] == [2, 4]


def test_without_a_word_about_evaluation_each_epoch_and_the_end_are_evaluated(tmp_path: Path, tiny_model: Path) -> None:
    """q17"""
    arguments = {key: value for key, value in QUICK.items() if key != "max_steps"}
    tune_here(
        tmp_path,
        tiny_model,
        DatasetConfig={"train_test_split": 0.8},
        TrainingArguments={**arguments, "num_train_epochs": 2},
    )
    lines = (tmp_path / "results" / "training_metrics.jsonl").read_text().splitlines()
    assert [record["step"] for line in lines if "eval_loss" in (record := json.loads(line))] == [4, 8]


def test_wrong_data_never_costs_a_model_load(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """q18"""
    monkeypatch.setattr("trainer.tuning_run.load_base_model", lambda *_, **__: pytest.fail("the model was loaded"))
    with pytest.raises(DatasetError):
        tune_here(tmp_path, tiny_model, [{"strange": 1}])
    with pytest.raises(DatasetError):
        tune_here(tmp_path, tiny_model, CHATS, TrainingArguments={**QUICK, "max_length": 2})
    with pytest.raises(ConfigurationError):
        tune_here(tmp_path, tiny_model, CHATS, LoraConfig={"target_modules": ["query"]})


def test_the_length_comes_from_the_model_and_what_is_cut_is_said(
    tmp_path: Path, tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """q19"""
    rows = [{"text": "word " * 1500}, {"text": "short"}]
    tune_here(tmp_path, tiny_model, rows)
    assert report(tmp_path)["max_length"] == 1024
    assert report(tmp_path)["tokens"]["truncated"] > 0
    assert "longer than max_length were cut samples=1" in caplog.text


def test_the_end_is_learnt_also_where_it_is_the_pad_token(tmp_path: Path, tiny_model: Path) -> None:
    """q20"""
    tune_here(tmp_path, tiny_model, TrainingArguments={**QUICK, "pad_token": "<|end|>"})
    assert all(text.endswith("<|end|>") for text in learnt(tmp_path))


def test_prompts_are_not_learnt_unless_asked_for(tmp_path: Path, tiny_model: Path) -> None:
    """q21"""
    (tmp_path / "whole").mkdir()
    tune_here(tmp_path, tiny_model)
    assert "What is" not in str(learnt(tmp_path))
    arguments = {**QUICK, "assistant_only_loss": False, "completion_only_loss": False}
    tune_here(tmp_path / "whole", tiny_model, TrainingArguments=arguments)
    assert "What is" in str(learnt(tmp_path / "whole"))


def test_samples_of_unequal_length_train_together(tmp_path: Path, tiny_model: Path) -> None:
    """q22"""
    rows = [{"text": "word " * length} for length in (1, 30, 7, 60)]
    done = tune_here(tmp_path, tiny_model, rows, TrainingArguments={**QUICK, "per_device_train_batch_size": 4})
    assert done.steps == 4


def test_the_learning_rate_is_one_for_adapters_unless_it_was_set(tmp_path: Path, tiny_model: Path) -> None:
    """q23"""
    arguments = {key: value for key, value in QUICK.items() if key != "learning_rate"}
    (tmp_path / "set").mkdir()
    tune_here(tmp_path, tiny_model, TrainingArguments=arguments)
    assert "| `learning_rate` | `0.0002` |" in (tmp_path / "results" / "README.md").read_text()
    tune_here(tmp_path / "set", tiny_model, TrainingArguments={**arguments, "learning_rate": 1e-5})
    assert "| `learning_rate` | `1e-05` |" in (tmp_path / "set" / "results" / "README.md").read_text()


@pytest.mark.parametrize(("asked", "used"), [(None, False), (True, True), (False, False)])
def test_checkpointing_is_what_was_asked_for_and_off_by_default(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, asked: bool | None, used: bool
) -> None:
    """q24, q25"""
    from trainer import fitting

    seen = []
    fit = fitting.fit
    monkeypatch.setattr(fitting, "fit", lambda *args: seen.append(args[4].arguments) or fit(*args))  # type: ignore[func-returns-value]
    tune_here(tmp_path, tiny_model, TrainingArguments={**QUICK, "gradient_checkpointing": asked})
    assert bool(seen[0].activation_checkpointing) is used
    assert seen[0].torch_empty_cache_steps is None


def test_a_run_goes_on_from_the_checkpoint_that_was_named(tmp_path: Path, tiny_model: Path) -> None:
    """q26"""
    arguments = {**QUICK, "save_strategy": "steps", "save_steps": 2}
    tune_here(tmp_path, tiny_model, TrainingArguments=arguments)
    whole = _digest(tmp_path)
    for value in ("checkpoint-2", True):
        if value is True:
            for path in (tmp_path / "results" / "checkpoint-4").iterdir():
                path.unlink()
        tune_here(tmp_path, tiny_model, TrainingArguments={**arguments, "resume_from_checkpoint": value})
        assert _digest(tmp_path) == whole
        lines = (tmp_path / "results" / "training_metrics.jsonl").read_text().splitlines()
        assert json.loads(lines[-2])["step"] == 4


def test_a_checkpoint_that_is_not_there_is_named_before_anything_is_loaded(tmp_path: Path, tiny_model: Path) -> None:
    """q26"""
    for value, said in (("checkpoint-9", "checkpoint-9 does not exist"), (True, "there is no checkpoint")):
        with pytest.raises(InputNotFound, match=said):
            tune_here(tmp_path, tiny_model, TrainingArguments={**QUICK, "resume_from_checkpoint": value})


def test_the_sentinel_names_files_that_are_all_there(tmp_path: Path, tiny_model: Path) -> None:
    """q27, q29"""
    done = tune_here(tmp_path, tiny_model)
    assert {file.name for file in done.files} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "label_report.json",
        "loss.png",
        "provenance.json",
        "training_metrics.jsonl",
    }
    for file in done.files:
        path = tmp_path / "results" / file.name
        assert path.stat().st_mode & 0o444 == 0o444, f"{file.name} is readable by a pusher under another uid"
        assert hashlib.sha256(path.read_bytes()).hexdigest() == file.sha256
    assert read_outcome(tmp_path / "results") == done


def test_figures_are_numbers_with_step_and_loss(tmp_path: Path, tiny_model: Path) -> None:
    """q30"""
    tune_here(tmp_path, tiny_model)
    first = json.loads((tmp_path / "results" / "training_metrics.jsonl").read_text().splitlines()[0])
    assert first["step"] == 2
    assert isinstance(first["loss"], float)
    assert isinstance(first["learning_rate"], float)


def test_the_adapter_says_what_task_it_is_for_and_names_its_base_model(tmp_path: Path, tiny_model: Path) -> None:
    """q32"""
    tune_here(tmp_path, tiny_model, base_model_name="microsoft/phi-2")
    config = json.loads((tmp_path / "results" / "adapter_config.json").read_text())
    assert config["task_type"] == "CAUSAL_LM"
    assert config["base_model_name_or_path"] == "microsoft/phi-2"
    assert str(tiny_model) not in (tmp_path / "results" / "README.md").read_text()


def test_the_steps_are_told_before_the_first_one(
    tmp_path: Path, tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """total steps = epochs x samples / batch size, with the tokens and the parameters"""
    caplog.set_level(logging.INFO)
    arguments = {"num_train_epochs": 3, "per_device_train_batch_size": 5}
    tune_here(tmp_path, tiny_model, TrainingArguments=arguments)
    line = next(record.getMessage() for record in caplog.records if record.getMessage().startswith("training steps="))
    assert line.startswith("training steps=6 epochs=3 samples=10 tokens=")
    assert "batch=5" in line
    assert "trainable_parameters=" in line
