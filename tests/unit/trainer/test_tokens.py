from pathlib import Path
from typing import Any

import pytest

from trainer.samples import Conversation, Instruction, PlainText
from trainer.tokens import NOT_LEARNT, Encoded, encode, encode_samples
from trainer.tuning_run import DEFAULT_CHAT_TEMPLATE
from tuning.errors import DatasetError

CONVERSATION = Conversation(
    (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is a pod?"},
        {"role": "assistant", "content": "A group of containers."},
        {"role": "user", "content": "And a node?"},
        {"role": "assistant", "content": "A machine."},
    ),
    "x.jsonl line 1",
)
# One that rewrites earlier turns, so that turn-by-turn rendering is no prefix of the whole.
REWRITING = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ loop.revindex }} {{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture
def tokenizer(tiny_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


def learnt(encoded: Encoded, tokenizer: Any) -> str:
    return str(tokenizer.decode([label for label in encoded.labels if label != NOT_LEARNT]))


def test_of_a_conversation_the_assistants_turns_with_their_end_are_learnt(tokenizer: Any) -> None:
    encoded = encode(CONVERSATION, tokenizer)
    assert learnt(encoded, tokenizer) == "A group of containers.<|end|>\nA machine.<|end|>\n"
    text = tokenizer.apply_chat_template(list(CONVERSATION.messages), tokenize=False)
    assert tokenizer.decode(encoded.input_ids) == text


def test_a_conversation_is_learnt_from_where_its_completion_begins(tokenizer: Any) -> None:
    encoded = encode(Conversation(CONVERSATION.messages, "x", learn_from=3), tokenizer)
    assert learnt(encoded, tokenizer) == "A machine.<|end|>\n"


def test_the_default_template_ends_a_turn_with_the_end_token(tokenizer: Any) -> None:
    tokenizer.chat_template = DEFAULT_CHAT_TEMPLATE.read_text()
    assert learnt(encode(CONVERSATION, tokenizer), tokenizer) == (
        "A group of containers.<|im_end|><|end|>A machine.<|im_end|><|end|>"
    )


def test_a_template_that_rewrites_earlier_turns_still_shows_what_is_learnt(tokenizer: Any) -> None:
    tokenizer.chat_template = REWRITING
    text = learnt(encode(CONVERSATION, tokenizer), tokenizer)
    assert "A group of containers." in text
    assert "A machine." in text
    assert "What is a pod?" not in text


def test_a_template_that_refuses_the_conversation_is_named_with_the_row(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(DatasetError, match=r"x\.jsonl line 1: the chat template refuses.*roles must alternate"):
        encode(CONVERSATION, tokenizer)


def test_a_template_without_the_answers_is_refused(tokenizer: Any) -> None:
    tokenizer.chat_template = "hello"
    with pytest.raises(DatasetError, match="no assistant turn that could be learnt"):
        encode(CONVERSATION, tokenizer)


def test_of_an_instruction_the_completion_and_the_end_are_learnt(tokenizer: Any) -> None:
    encoded = encode(Instruction("Name a fruit.\n", "Apple", "x"), tokenizer)
    assert learnt(encoded, tokenizer) == "Apple<|end|>"
    assert tokenizer.decode(encoded.input_ids) == "Name a fruit.\nApple<|end|>"


def test_a_text_is_learnt_whole_and_ends(tokenizer: Any) -> None:
    encoded = encode(PlainText("Once upon a time.", "x"), tokenizer)
    assert learnt(encoded, tokenizer) == "Once upon a time.<|end|>"


def test_a_pad_token_that_is_the_end_token_never_hides_it(tokenizer: Any) -> None:
    tokenizer.pad_token = tokenizer.eos_token
    assert encode(PlainText("x", "x"), tokenizer).labels[-1] == tokenizer.eos_token_id


def test_samples_are_cut_and_those_with_nothing_left_are_dropped(
    tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    long_prompt = Instruction("many words " * 20, "Apple", "x")
    kept = encode_samples([long_prompt, PlainText("one two three four five six seven", "y")], tokenizer, 6)
    assert [len(sample.input_ids) for sample in kept] == [6]
    assert "cut samples=2" in caplog.text
    assert "dropped samples=1" in caplog.text
    with pytest.raises(DatasetError, match="no sample has a token to learn"):
        encode_samples([long_prompt], tokenizer, 6)
