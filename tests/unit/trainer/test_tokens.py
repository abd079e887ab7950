from pathlib import Path
from typing import Any

import pytest

from trainer.chat_template import TEMPLATES
from trainer.samples import Conversation, Instruction, PlainText, Tokens
from trainer.tokens import NOT_LEARNT, Encoded, Learnt, encode
from tuning.errors import DatasetError
from tuning.row_files import Place

PLACE = Place("x.jsonl", "line 1")

CONVERSATION = Conversation(
    (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is a pod?"},
        {"role": "assistant", "content": "A group of containers."},
        {"role": "user", "content": "And a node?"},
        {"role": "assistant", "content": "A machine."},
    ),
    PLACE,
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
    assert learnt(encoded, tokenizer) == "A group of containers.<|end|>A machine.<|end|>"
    text = tokenizer.apply_chat_template(list(CONVERSATION.messages), tokenize=False)
    assert tokenizer.decode(encoded.input_ids) == text


def test_a_conversation_is_learnt_from_where_its_completion_begins(tokenizer: Any) -> None:
    encoded = encode(Conversation(CONVERSATION.messages, PLACE, learn_from=3), tokenizer)
    assert learnt(encoded, tokenizer) == "A machine.<|end|>"


def test_the_default_template_ends_a_turn_with_the_end_token(tokenizer: Any) -> None:
    tokenizer.chat_template = (TEMPLATES / "chatml.jinja").read_text()
    assert learnt(encode(CONVERSATION, tokenizer), tokenizer) == (
        "A group of containers.<|im_end|><|end|>A machine.<|im_end|><|end|>"
    )


def test_a_template_that_rewrites_earlier_turns_still_shows_what_is_learnt(tokenizer: Any) -> None:
    tokenizer.chat_template = REWRITING
    # A token may begin with the space before its word.
    assert learnt(encode(CONVERSATION, tokenizer), tokenizer) == " A group of containers.<|end|> A machine.<|end|>"


def test_a_template_that_refuses_the_conversation_is_named_with_the_row(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(DatasetError, match=r"x\.jsonl line 1 is refused by the chat template: roles must alternate"):
        encode(CONVERSATION, tokenizer)


def test_a_template_without_the_answers_is_refused(tokenizer: Any) -> None:
    tokenizer.chat_template = "hello"
    with pytest.raises(DatasetError, match="no assistant turn that the chat template shows"):
        encode(CONVERSATION, tokenizer)


def test_of_an_instruction_the_completion_and_the_end_are_learnt(tokenizer: Any) -> None:
    encoded = encode(Instruction("Name a fruit.\n", "Apple", PLACE), tokenizer)
    assert learnt(encoded, tokenizer) == "Apple<|end|>"
    assert tokenizer.decode(encoded.input_ids) == "Name a fruit.\nApple<|end|>"


def test_a_text_is_learnt_whole_and_ends(tokenizer: Any) -> None:
    encoded = encode(PlainText("Once upon a time.", PLACE), tokenizer)
    assert learnt(encoded, tokenizer) == "Once upon a time.<|end|>"


def test_a_pad_token_that_is_the_end_token_never_hides_it(tokenizer: Any) -> None:
    tokenizer.pad_token = tokenizer.eos_token
    assert encode(PlainText("x", PLACE), tokenizer).labels[-1] == tokenizer.eos_token_id


def test_the_whole_text_is_learnt_where_it_was_asked_for(tokenizer: Any) -> None:
    whole = encode(CONVERSATION, tokenizer, Learnt(whole_conversations=True))
    assert whole.labels == whole.input_ids
    whole = encode(Instruction("Name a fruit.", " Apple", PLACE), tokenizer, Learnt(whole_instructions=True))
    assert whole.labels == whole.input_ids


def test_tokens_of_the_users_own_stay_as_they_are(tokenizer: Any) -> None:
    encoded = encode(Tokens((5, 6, 7), (-100, 6, 7), PLACE), tokenizer)
    assert (encoded.input_ids, encoded.labels) == ([5, 6, 7], [-100, 6, 7])


def test_an_answer_that_repeats_the_question_is_found_where_it_stands(tokenizer: Any) -> None:
    tokenizer.chat_template = REWRITING
    turns = ({"role": "user", "content": "yes"}, {"role": "assistant", "content": "yes"})
    encoded = encode(Conversation((*turns, *turns), PLACE), tokenizer)
    assert learnt(encoded, tokenizer) == "yes<|end|>yes<|end|>"
    assert [label for label in encoded.labels if label == NOT_LEARNT]
    # The first thing said is the question, which is not learnt.
    first = tokenizer("<|user|>4 yes", add_special_tokens=False)["input_ids"]
    assert encoded.input_ids[: len(first)] == first
    assert encoded.labels[: len(first)] == [NOT_LEARNT] * len(first)


@pytest.mark.parametrize(
    "conversation",
    [
        Conversation(CONVERSATION.messages, PLACE, tools=({"name": "now"},)),
        Conversation(
            (*CONVERSATION.messages[:-1], {"role": "assistant", "content": "x", "tool_calls": [{"name": "now"}]}), PLACE
        ),
    ],
)
def test_tools_that_the_template_does_not_know_are_refused(tokenizer: Any, conversation: Conversation) -> None:
    with pytest.raises(DatasetError, match=r"line 1 has the tool.* ignored by the chat template"):
        encode(conversation, tokenizer)


def test_tools_and_calls_are_shown_where_the_template_knows_them(tokenizer: Any) -> None:
    tokenizer.chat_template = (TEMPLATES / "qwen.jinja").read_text()
    call = {"type": "function", "function": {"name": "now", "arguments": {"zone": "UTC"}}}
    messages = (
        {"role": "user", "content": "What time is it?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "noon"},
        {"role": "assistant", "content": "It is noon."},
    )
    text = learnt(encode(Conversation(messages, PLACE, tools=({"name": "now"},)), tokenizer), tokenizer)
    assert '{"name": "now", "arguments": {"zone": "UTC"}}' in text
    assert text.count("<|im_end|>") == 2
    assert "What time" not in text
    assert "tool_response" not in text
