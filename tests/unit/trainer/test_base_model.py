import json
from pathlib import Path
from typing import Any

import pytest

from trainer.base_model import find_base_model, load_shape, load_tokenizer
from tuning.errors import ConfigurationError, InputNotFound
from tuning.training_config import TrainingConfig, parse_training_config


def config(**model: Any) -> TrainingConfig:
    return parse_training_config(json.dumps({"training_config": {"ModelConfig": model}}), source="x")


def arguments(**section: Any) -> TrainingConfig:
    return parse_training_config(json.dumps({"training_config": {"TrainingArguments": section}}), source="x")


def test_a_folder_with_a_model_is_found(tiny_model: Path) -> None:
    assert find_base_model(config(), str(tiny_model)) == str(tiny_model)


def test_the_configuration_wins_over_the_environment(tiny_model: Path) -> None:
    assert find_base_model(config(pretrained_model_name_or_path=str(tiny_model)), "/nowhere") == str(tiny_model)


def test_a_hub_id_is_taken_as_it_is() -> None:
    assert find_base_model(config(), "org/model") == "org/model"


@pytest.mark.parametrize("missing", ["config.json", "tokenizer_config.json", "model.safetensors"])
def test_a_folder_without_a_part_of_the_model_is_named_with_the_part(
    tiny_model: Path, tmp_path: Path, missing: str
) -> None:
    for path in tiny_model.iterdir():
        if path.name != missing:
            (tmp_path / path.name).symlink_to(path)
    with pytest.raises(InputNotFound, match=f"no base model at {tmp_path}: {missing} is missing"):
        find_base_model(config(), str(tmp_path))


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer_config.json", "model-1.safetensors"):
        (tmp_path / name).write_text("{}")
    weights = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    with pytest.raises(InputNotFound, match=r"model-2\.safetensors is missing"):
        find_base_model(config(), str(tmp_path))


def test_a_folder_that_is_not_there_is_named() -> None:
    with pytest.raises(InputNotFound, match="no base model at /no/such: no such folder"):
        find_base_model(config(), "/no/such")


def test_a_model_that_is_only_pickled_is_refused_unless_allowed(tiny_model: Path, tmp_path: Path) -> None:
    for path in tiny_model.iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(InputNotFound, match=r"no safetensors, only pytorch_model\.bin"):
        find_base_model(config(), str(tmp_path))
    assert find_base_model(config(use_safetensors=False), str(tmp_path)) == str(tmp_path)


def test_code_of_a_models_own_is_not_run_unasked(tiny_model: Path, tmp_path: Path) -> None:
    for path in tiny_model.iterdir():
        if path.name != "config.json":
            (tmp_path / path.name).symlink_to(path)
    ours = json.loads((tiny_model / "config.json").read_text())
    ours = {**ours, "model_type": "strange", "auto_map": {"AutoConfig": "code.Strange"}}
    (tmp_path / "config.json").write_text(json.dumps(ours))
    (tmp_path / "code.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(ConfigurationError, match="needs code of its own") as caught:
        load_shape(str(tmp_path), config())
    assert "trust_remote_code" in caught.value.hint


def test_the_end_token_can_be_chosen_from_the_vocabulary(tiny_model: Path) -> None:
    assert load_tokenizer(str(tiny_model), arguments(eos_token="<|user|>")).eos_token == "<|user|>"
    with pytest.raises(ConfigurationError, match="TrainingArguments.eos_token: '<stop>' is not in the vocabulary"):
        load_tokenizer(str(tiny_model), arguments(eos_token="<stop>"))


def test_a_tokenizer_without_an_end_token_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    for path in tiny_model.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "tokenizer_config.json").unlink()
    settings = json.loads((tiny_model / "tokenizer_config.json").read_text())
    without = {key: value for key, value in settings.items() if key not in ("eos_token", "pad_token")}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(without))
    with pytest.raises(ConfigurationError, match="no end-of-sequence token"):
        load_tokenizer(str(tmp_path), config())
    assert load_tokenizer(str(tmp_path), arguments(eos_token="<|end|>")).pad_token == "<|end|>"
