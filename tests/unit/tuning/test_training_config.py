import pytest

from tuning.errors import ConfigurationError
from tuning.training_config import SECTIONS, TrainingConfig, accepted_keys, parse_training_config


def parse(text: str, method: str = "") -> TrainingConfig:
    return parse_training_config(text, source="training_config.yaml", method=method)


def refused(text: str, method: str = "") -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        parse(text, method)
    return caught.value


def test_the_six_sections_are_read_as_written() -> None:
    config = parse(
        """
        training_config:
          ModelConfig: {dtype: bfloat16}
          QuantizationConfig: {load_in_4bit: true}
          LoraConfig: {r: 8, rank_pattern: {q_proj: 4}}
          TrainingArguments: {learning_rate: 2e-4, max_steps: null}
          DataCollator: {mlm: true}
          DatasetConfig: {train_test_split: 0.8}
        """
    )
    assert config.model == {"dtype": "bfloat16"}
    assert config.lora["rank_pattern"] == {"q_proj": 4}
    assert config.arguments == {"learning_rate": 2e-4, "max_steps": None}
    assert config.method == "qlora"


def test_an_empty_section_and_an_absent_one_are_the_same() -> None:
    empty, absent = parse("training_config: {LoraConfig: }"), parse("training_config:")
    assert empty.lora == absent.lora == {}
    assert absent.method == "lora"


def test_an_unknown_key_is_refused_with_the_nearest_one() -> None:
    error = refused("training_config: {LoraConfig: {lora_alfa: 64}}")
    assert error.message == "training_config.yaml: LoraConfig.lora_alfa is unknown"
    assert error.hint == "did you mean lora_alpha?"
    assert error.exit_code == 78


def test_an_unknown_section_is_refused_with_the_nearest_one() -> None:
    error = refused("training_config: {LoraConfg: {r: 8}}")
    assert "LoraConfg is an unknown section" in error.message
    assert error.hint == "did you mean LoraConfig?"


def test_all_problems_are_reported_at_once() -> None:
    error = refused(
        "training_config: {LoraConfig: {lora_alfa: 1, r: 0}, Model: {}, TrainingArguments: [1],"
        " QuantizationConfig: {load_in_4bit: true, load_in_8bit: true}, DatasetConfig: {train_test_split: 2}}"
    )
    for said in ("lora_alfa", "LoraConfig.r must be", "Model is", "must be a mapping", "both true", "at most 1"):
        assert said in error.message


@pytest.mark.parametrize("section", list(SECTIONS))
def test_every_section_knows_its_keys(section: str) -> None:
    assert accepted_keys()[section]


@pytest.mark.parametrize("key", ["load_in_4bit", "load_in_8bit"])
def test_quantization_contradicts_the_method_lora(key: str) -> None:
    error = refused(f"training_config: {{QuantizationConfig: {{{key}: true}}}}", "lora")
    assert error.message == f"training_config.yaml: QuantizationConfig.{key} must not be true with method lora"
    assert "qlora" in error.hint


def test_the_method_qlora_needs_quantization() -> None:
    assert "must set load_in_4bit or load_in_8bit" in refused("training_config: {}", "qlora").message


@pytest.mark.parametrize("value", ['"true"', "1", "yes please"])
def test_quantization_flags_are_true_or_false(value: str) -> None:
    error = refused(f"training_config: {{QuantizationConfig: {{load_in_4bit: {value}}}}}")
    assert "load_in_4bit must be true or false" in error.message


@pytest.mark.parametrize("output_dir", ["/mnt", "..", "/mnt/../etc", "/mnt/data/x", "config", "5"])
def test_an_output_dir_outside_its_place_is_refused(output_dir: str) -> None:
    text = f"training_config: {{TrainingArguments: {{output_dir: {output_dir}}}}}"
    assert "TrainingArguments.output_dir must" in refused(text).message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no top-level key training_config"),
        ("[]", "no top-level key training_config"),
        ("training_config: 5", "must be a mapping of sections"),
        ("training_config: {}\nother: 1", "other is unknown"),
        ("training_config:\n\tLoraConfig: {}", "line 2 is not YAML"),
        ("training_config: {LoraConfig: {r: 8, r: 9}}", "'r' stands twice"),
        ("training_config: {LoraConfig: {r: 8}", "is not YAML"),
    ],
)
def test_a_text_of_another_shape_is_refused(text: str, said: str) -> None:
    assert said in refused(text).message


def test_the_digest_tells_two_configurations_apart() -> None:
    assert parse("training_config: {}").digest != parse("training_config: {LoraConfig: {r: 4}}").digest
