import pytest

from tuning.config_keys import accepted_keys
from tuning.errors import ConfigurationError
from tuning.training_config import SECTIONS, TrainingConfig, parse_training_config


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
    assert config.arguments == {"learning_rate": 2e-4}
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


@pytest.mark.parametrize(
    ("section", "value", "said", "hint"),
    [
        ("LoraConfig", '{r: "8"}', "LoraConfig.r must be a whole number, not the text '8'", "without quotes"),
        ("LoraConfig", "{r: 8.5}", "LoraConfig.r must be a whole number, not 8.5", ""),
        ("LoraConfig", "{r: 0}", "LoraConfig.r must be at least 1, not 0", ""),
        ("LoraConfig", "{lora_alpha: 0}", "LoraConfig.lora_alpha must be at least 1", ""),
        ("LoraConfig", "{lora_dropout: 1}", "LoraConfig.lora_dropout must be at least 0 and below 1", ""),
        ("LoraConfig", "{bias: some}", "LoraConfig.bias has no such choice: 'some'", "all, lora_only, none"),
        ("LoraConfig", "{rank_pattern: [1]}", "LoraConfig.rank_pattern must be a mapping, not a list", ""),
        ("LoraConfig", "{target_modules: []}", "target_modules is empty", "all-linear"),
        ("LoraConfig", "{task_type: SEQ_CLS}", "task_type must be CAUSAL_LM", "leave it out"),
        ("LoraConfig", "{peft_type: ADALORA}", "peft_type must be LORA", ""),
        ("LoraConfig", "{inference_mode: true}", "nothing would be trained", ""),
        ("TrainingArguments", "{num_train_epochs: 0}", "must be greater than 0", ""),
        ("TrainingArguments", "{per_device_train_batch_size: 0}", "must be at least 1, not 0", ""),
        ("TrainingArguments", "{max_steps: 0}", "at least 1, or -1", ""),
        ("TrainingArguments", "{learning_rate: .inf}", "must be a finite number", ""),
        ("TrainingArguments", "{lr_scheduler_type: cosin}", "no such choice: 'cosin'", "did you mean cosine?"),
        ("TrainingArguments", "{optim: adamw_tourch}", "no such choice", "did you mean adamw_torch"),
        ("TrainingArguments", "{bf16: true, fp16: true}", "bf16 and fp16 both true", "choose one"),
        ("TrainingArguments", "{eval_strategy: steps}", "no row is held out", "train_test_split"),
        ("TrainingArguments", "{dataset_kwargs: {a: 1}}", "cannot be carried out", "remove it"),
        ("TrainingArguments", "{model_init_kwargs: {a: 1}}", "cannot be carried out", "ModelConfig"),
        ("TrainingArguments", "{lora_alpha: 8}", "lora_alpha is unknown", "it belongs to LoraConfig"),
        ("TrainingArguments", "{num_train: 5}", "num_train is unknown", "num_train_epochs"),
        ("QuantizationConfig", "{bnb_4bit_quant_type: nf5}", "no such choice: 'nf5'", "nf4"),
        ("ModelConfig", "{dtype: bf16}", "no such choice: 'bf16'", "bfloat16"),
        ("ModelConfig", "{trust_remote_code: 'false'}", "must be true or false, not the text 'false'", "quotes"),
        ("DatasetConfig", "{on_bad_rows: ignore}", "no such choice", "fail, skip"),
        ("DatasetConfig", "{context_column: q}", "needs response_column", ""),
        ("DatasetConfig", "{messages_column: m, context_column: q, response_column: a}", "both set", "keep one"),
        ("DatasetConfig", "{train_test_split: 0}", "must be greater than 0 and at most 1, not 0", ""),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_its_path(section: str, value: str, said: str, hint: str) -> None:
    error = refused(f"training_config: {{{section}: {value}}}")
    assert said in error.message
    assert hint in error.hint


def test_values_mean_what_yaml_says() -> None:
    config = parse(
        """
        training_config:
          ModelConfig: {device_map: {"": 0}, chat_template: null, dtype: auto}
          LoraConfig: {r: 1.6e1, init_lora_weights: pissa, target_modules: all-linear, rank_pattern: {q_proj: 4}}
          TrainingArguments:
            learning_rate: 2e-4
            num_train_epochs: 2
            lr_scheduler_kwargs: {num_cycles: 2}
            max_length: null
            max_steps: null
            save_strategy: no
            report_to: [tensorboard]
        """
    )
    assert config.model == {"device_map": {"": 0}, "chat_template": None, "dtype": "auto"}
    assert config.lora["r"] == 16
    assert isinstance(config.lora["r"], int)
    assert config.arguments == {
        "learning_rate": 2e-4,
        "num_train_epochs": 2,
        "lr_scheduler_kwargs": {"num_cycles": 2},
        "max_length": None,
        "save_strategy": "no",
        "report_to": ["tensorboard"],
    }


def test_a_collator_of_the_users_own_contradicts_packing() -> None:
    text = "training_config: {TrainingArguments: {packing: true}, DataCollator: {pad_to_multiple_of: 8}}"
    assert "DataCollator cannot be combined with packing" in refused(text).message
