from typing import Any

import pytest

from trainer.targets import check_targets, choose_targets, linear_layers
from tuning.errors import ConfigurationError
from tuning.presets import find_preset


@pytest.fixture(scope="module")
def phi3() -> Any:
    import torch
    from transformers import AutoModelForCausalLM, Phi3Config

    shape = Phi3Config(
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocab_size=64,
        pad_token_id=0,
    )
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(shape)


def test_the_configuration_comes_before_the_preset_and_all_linear_is_the_last() -> None:
    gpt_oss = find_preset("gpt-oss-20b")
    assert choose_targets({"target_modules": ["x"]}, gpt_oss) == ["x"]
    assert choose_targets({"target_modules": "q_proj,v_proj"}, gpt_oss) == "q_proj,v_proj"
    assert choose_targets({}, gpt_oss) == ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert choose_targets({}, None) == "all-linear"
    assert choose_targets({"target_modules": None}, None) == "all-linear"
    assert choose_targets({"target_parameters": ["x.weight"]}, None) == []


def test_the_layers_of_a_model_are_listed_without_its_head(phi3: Any) -> None:
    assert linear_layers(phi3) == ["down_proj", "gate_up_proj", "o_proj", "qkv_proj"]


def test_names_that_match_nothing_are_refused_although_others_match(phi3: Any) -> None:
    with pytest.raises(ConfigurationError, match="does not have: target_modules: q_proj, target_modules: v_proj") as e:
        check_targets(["q_proj", "v_proj", "o_proj"], {}, phi3)
    assert "qkv_proj" in e.value.hint


@pytest.mark.parametrize("good", ["all-linear", ["o_proj"], ["layers.0.mlp.down_proj"], r".*\.(qkv|o)_proj"])
def test_names_that_match_pass(phi3: Any, good: Any) -> None:
    check_targets(good, {"rank_pattern": {"o_proj": 4}, "modules_to_save": ["lm_head"]}, phi3)


@pytest.mark.parametrize(
    ("targets", "section", "said"),
    [
        ("q_proj,v_proj", {}, "regular expression of the whole name"),
        ("*_proj", {}, "is not a regular expression"),
        ("all-linear", {"modules_to_save": ["head"]}, "modules_to_save: head"),
        ("all-linear", {"rank_pattern": {"q_proj": 4}}, "rank_pattern: q_proj"),
        ("all-linear", {"alpha_pattern": {"q_proj": 4}}, "alpha_pattern: q_proj"),
        ([], {"target_parameters": ["x.weight"]}, "target_parameters: x.weight"),
    ],
)
def test_whatever_names_a_layer_is_checked(phi3: Any, targets: Any, section: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said.replace("*", r"\*")):
        check_targets(targets, section, phi3)
