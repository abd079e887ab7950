"""Each template against a rendering written down from the model's documentation."""

import json
from pathlib import Path
from typing import Any

import pytest

from trainer.chat_template import TEMPLATES, choose_chat_template
from tuning.errors import ConfigurationError
from tuning.presets import find_preset, presets
from tuning.training_config import TrainingConfig, parse_training_config

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi?"},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "Why?"},
    {"role": "assistant", "content": "So."},
]
KNOWN = {
    "chatml": (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi?<|im_end|>\n"
        "<|im_start|>assistant\nYes.<|im_end|></s>\n<|im_start|>user\nWhy?<|im_end|>\n"
        "<|im_start|>assistant\nSo.<|im_end|></s>\n"
    ),
    "falcon": "Be brief.\n\nUser: Hi?\n\nAssistant: Yes.</s>\n\nUser: Why?\n\nAssistant: So.</s>",
    "gemma-3": (
        "<s><start_of_turn>user\nBe brief.\n\nHi?<end_of_turn>\n<start_of_turn>model\nYes.<end_of_turn>\n"
        "<start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\nSo.<end_of_turn>\n"
    ),
    "gpt-oss": (
        "<|start|>developer<|message|># Instructions\n\nBe brief.<|end|><|start|>user<|message|>Hi?<|end|>"
        "<|start|>assistant<|channel|>final<|message|>Yes.<|end|><|start|>user<|message|>Why?<|end|>"
        "<|start|>assistant<|channel|>final<|message|>So.<|return|>"
    ),
    "llama-3": (
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nYes.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nSo.<|eot_id|>"
    ),
    "mistral": "<s>[INST] Be brief.\n\nHi?[/INST] Yes.</s>[INST] Why?[/INST] So.</s>",
    "phi-2": "Be brief.\nInstruct: Hi?\nOutput: Yes.</s>\nInstruct: Why?\nOutput: So.</s>",
    "phi-3": (
        "<|system|>\nBe brief.<|end|>\n<|user|>\nHi?<|end|>\n<|assistant|>\nYes.<|end|>\n"
        "<|user|>\nWhy?<|end|>\n<|assistant|>\nSo.<|end|>\n"
    ),
    "phi-4": (
        "<|im_start|>system<|im_sep|>Be brief.<|im_end|><|im_start|>user<|im_sep|>Hi?<|im_end|>"
        "<|im_start|>assistant<|im_sep|>Yes.<|im_end|><|im_start|>user<|im_sep|>Why?<|im_end|>"
        "<|im_start|>assistant<|im_sep|>So.<|im_end|>"
    ),
    "phi-4-mini": (
        "<|system|>Be brief.<|end|><|user|>Hi?<|end|><|assistant|>Yes.<|end|><|user|>Why?<|end|><|assistant|>So.<|end|>"
    ),
    "qwen": (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi?<|im_end|>\n"
        "<|im_start|>assistant\nYes.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\nSo.<|im_end|>\n"
    ),
}


@pytest.fixture
def tokenizer(tiny_model: Path) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>"})
    return tokenizer


def config(**model: Any) -> TrainingConfig:
    return parse_training_config(json.dumps({"training_config": {"ModelConfig": model}}), source="x")


def test_every_template_has_a_known_rendering_and_every_presets_template_is_there() -> None:
    names = {path.stem for path in TEMPLATES.glob("*.jinja")}
    assert names == KNOWN.keys()
    assert {preset.template for preset in presets().values()} <= names


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_a_conversation_is_written_as_the_model_documents_it(name: str, tokenizer: Any) -> None:
    tokenizer.chat_template = (TEMPLATES / f"{name}.jinja").read_text()
    assert tokenizer.apply_chat_template(CHAT, tokenize=False) == KNOWN[name]


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_what_stands_before_an_answer_is_the_same_in_training_and_in_use(name: str, tokenizer: Any) -> None:
    tokenizer.chat_template = (TEMPLATES / f"{name}.jinja").read_text()
    asked = tokenizer.apply_chat_template(CHAT[:-1], tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template(CHAT, tokenize=False)
    assert whole.startswith(asked)
    assert whole[len(asked) :].lstrip().startswith("So.")


def test_qwen_shows_its_tools(tokenizer: Any) -> None:
    tokenizer.chat_template = (TEMPLATES / "qwen.jinja").read_text()
    text = tokenizer.apply_chat_template(CHAT[:3], tools=[{"name": "now"}], tokenize=False)
    assert '<tools>\n{"name": "now"}\n</tools>' in text
    assert text.startswith("<|im_start|>system\nBe brief.")


def test_the_configurations_template_wins_by_text_path_or_name(tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "template.jinja"
    path.write_text("{{ 'ü' }}", encoding="utf-8")
    for value in (str(path), "{{ 'ü' }}"):
        assert choose_chat_template(tokenizer, config(chat_template=value), None)
        assert tokenizer.chat_template == "{{ 'ü' }}"
    assert choose_chat_template(tokenizer, config(chat_template="phi-3"), None)
    assert tokenizer.apply_chat_template(CHAT, tokenize=False) == KNOWN["phi-3"]


def test_the_librarys_own_key_for_a_template_does_the_same(tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "template.jinja"
    path.write_text("{{ 'x' }}")
    text = json.dumps({"training_config": {"TrainingArguments": {"chat_template_path": str(path)}}})
    assert choose_chat_template(tokenizer, parse_training_config(text, source="x"), None)
    assert tokenizer.chat_template == "{{ 'x' }}"


def test_a_null_template_is_none(tokenizer: Any) -> None:
    assert not choose_chat_template(tokenizer, config(chat_template=None), None)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("/no/such.jinja", "ModelConfig.chat_template: cannot read /no/such.jinja"),
        ("{% for %}", "ModelConfig.chat_template is not a Jinja template"),
    ],
)
def test_a_template_that_cannot_be_used_is_named(tokenizer: Any, value: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        choose_chat_template(tokenizer, config(chat_template=value), None)


def test_the_models_own_comes_before_the_presets_and_chatml_is_the_last(
    tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    phi = find_preset("phi-2")
    own = tokenizer.chat_template
    assert not choose_chat_template(tokenizer, config(), phi)
    assert tokenizer.chat_template == own
    tokenizer.chat_template = None
    assert choose_chat_template(tokenizer, config(), phi)
    assert tokenizer.apply_chat_template(CHAT, tokenize=False) == KNOWN["phi-2"]
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    tokenizer.chat_template = None
    assert choose_chat_template(tokenizer, config(), None)
    assert tokenizer.apply_chat_template(CHAT, tokenize=False) == KNOWN["chatml"]
    assert "no chat template" in caplog.text
