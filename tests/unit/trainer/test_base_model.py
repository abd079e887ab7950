import json
from pathlib import Path

import pytest

from trainer.base_model import find_base_model, load_tokenizer
from trainer.tuning_run import DEFAULT_CHAT_TEMPLATE
from tuning.errors import ConfigurationError, InputNotFound
from tuning.training_config import TrainingConfig, parse_training_config


def config(**model: str) -> TrainingConfig:
    return parse_training_config(json.dumps({"training_config": {"ModelConfig": model}}), source="x")


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


def test_the_chat_template_of_the_configuration_wins(tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "template.jinja"
    path.write_text("{{ 'ü' }}", encoding="utf-8")
    for value in (str(path), "{{ 'ü' }}"):
        tokenizer = load_tokenizer(str(tiny_model), config(chat_template=value), DEFAULT_CHAT_TEMPLATE)
        assert tokenizer.chat_template == "{{ 'ü' }}"
    with pytest.raises(ConfigurationError, match=r"cannot read /no/such\.jinja"):
        load_tokenizer(str(tiny_model), config(chat_template="/no/such.jinja"), DEFAULT_CHAT_TEMPLATE)


def test_a_model_without_a_template_gets_the_default_one_with_a_warning(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path in tiny_model.iterdir():
        if path.name != "chat_template.jinja":
            (tmp_path / path.name).symlink_to(path)
    tokenizer = load_tokenizer(str(tmp_path), config(), DEFAULT_CHAT_TEMPLATE)
    assert tokenizer.chat_template == DEFAULT_CHAT_TEMPLATE.read_text()
    assert "no chat template" in caplog.text
