from typing import Any

import pytest

from trainer.samples import Columns, Conversation, Instruction, PlainText, Sample, Tokens, parse_sample
from tuning.row_files import BadRow, Place, Row

PLACE = Place("x.jsonl", "line 3")

USER = {"role": "user", "content": "q"}
SYSTEM = {"role": "system", "content": "s"}
ASSISTANT = {"role": "assistant", "content": "a"}


def parse(columns: Columns | None = None, **fields: Any) -> Sample:
    parsed = parse_sample(Row(fields, PLACE), columns)
    assert not isinstance(parsed, BadRow), parsed
    return parsed[1]


def test_the_three_formats_are_told_by_their_fields() -> None:
    assert parse(messages=[USER, ASSISTANT], id=1) == Conversation((USER, ASSISTANT), PLACE)
    assert parse(prompt="p", completion="c") == Instruction("p", "c", PLACE)
    assert parse(text="t") == PlainText("t", PLACE)


def test_a_prompt_and_a_completion_of_messages_are_a_conversation_whose_end_is_learnt() -> None:
    assert parse(prompt=[USER, ASSISTANT, USER], completion=[ASSISTANT]) == Conversation(
        (USER, ASSISTANT, USER, ASSISTANT), PLACE, learn_from=3
    )


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"question": "q", "answer": "a"}, "x.jsonl line 3 has the fields question, answer, which is no known format"),
        ({}, "has the fields none"),
        ({"prompt": "p"}, "no known format"),
        ({"messages": []}, "messages must be a list of messages"),
        ({"messages": "[]"}, "messages must be a list"),
        ({"messages": [USER, "a"]}, "messages[1] must have a role"),
        ({"messages": [USER, {"role": "assistant", "content": None}]}, "messages[1].content must be a text"),
        ({"messages": [USER]}, "no message with the role assistant"),
        ({"prompt": [ASSISTANT], "completion": [USER]}, "no message with the role assistant"),
        ({"prompt": "p", "completion": 5}, "completion must be a text, not int"),
        ({"prompt": "p", "completion": ""}, "completion is empty"),
        ({"prompt": ["p"], "completion": "c"}, "prompt must be a text, not list"),
        ({"text": None}, "text must be a text, not NoneType"),
        ({"text": ""}, "text is empty"),
        ({"messages": [ASSISTANT]}, "has only assistant messages"),
        ({"messages": [ASSISTANT, USER, ASSISTANT]}, "out of order: assistant speaks first"),
        ({"messages": [USER, SYSTEM, ASSISTANT]}, "out of order: message 1 is system"),
        ({"messages": [{"role": "usr", "content": "q"}, ASSISTANT]}, "messages[0] has the unknown role 'usr'"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}, ASSISTANT]}, "a part that is not text"),
        ({"messages": [{"role": "user", "content": 5}, ASSISTANT]}, "messages[0].content must be a text, not int"),
        ({"messages": [USER, ASSISTANT], "tools": "x"}, "tools must be a list"),
        ({"instruction": "i", "output": ""}, "output is empty"),
        ({"input_ids": [1, 2], "labels": [1]}, "2 input_ids and 1 labels"),
        ({"input_ids": ["a"]}, "input_ids must be a list of whole numbers"),
    ],
)
def test_a_row_that_cannot_be_learnt_is_named_with_its_field(fields: dict[str, Any], said: str) -> None:
    parsed = parse_sample(Row(fields, PLACE))
    assert isinstance(parsed, BadRow)
    assert said in str(parsed)
    assert str(parsed).startswith("x.jsonl line 3 ")


def test_alpaca_is_a_conversation() -> None:
    assert parse(instruction="Add.", input="1 2", output="3") == Conversation(
        ({"role": "user", "content": "Add.\n\n1 2"}, {"role": "assistant", "content": "3"}), PLACE
    )
    short = parse(instruction="Go.", input="", output="a", system="Be brief.")
    assert isinstance(short, Conversation)
    assert [message["content"] for message in short.messages] == ["Be brief.", "Go.", "a"]


def test_sharegpt_gets_the_roles_that_templates_know() -> None:
    rows = [{"from": "system", "value": "s"}, {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    assert parse(conversations=rows) == Conversation((SYSTEM, USER, ASSISTANT), PLACE)
    assert parse(conversations=[USER, ASSISTANT]) == Conversation((USER, ASSISTANT), PLACE)


def test_columns_do_what_they_say() -> None:
    assert parse(Columns(messages="chat"), chat=[USER, ASSISTANT], text="x") == Conversation((USER, ASSISTANT), PLACE)
    assert parse(Columns(prompt="q", completion="a"), q="p", a="c", text="x") == Instruction("p", "c", PLACE)
    assert parse(Columns(completion="body"), body="t", messages=[]) == PlainText("t", PLACE)
    assert parse(Columns(text="body"), body="t") == PlainText("t", PLACE)
    missing = parse_sample(Row({"quest": 1}, PLACE), Columns(prompt="question", completion="a"))
    assert isinstance(missing, BadRow)
    assert str(missing) == "x.jsonl line 3 has no field question, only quest"
    assert missing.hint == "did you mean quest?"


def test_content_in_parts_and_lists_written_as_text_are_read() -> None:
    parts = [{"type": "text", "text": "q"}]
    assert parse(messages=[{"role": "user", "content": parts}, ASSISTANT]) == Conversation((USER, ASSISTANT), PLACE)
    text = '[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]'
    assert parse(messages=text) == Conversation((USER, ASSISTANT), PLACE)


def test_nulls_of_columnar_formats_are_no_values() -> None:
    padded = {**USER, "tool_calls": None, "name": None}
    assert parse(messages=[padded, ASSISTANT], tools=None) == Conversation((USER, ASSISTANT), PLACE)


def test_tokens_are_taken_as_they_are() -> None:
    assert parse(input_ids=[1, 2], labels=[-100, 2]) == Tokens((1, 2), (-100, 2), PLACE)
    assert parse(input_ids=[1, 2]) == Tokens((1, 2), (1, 2), PLACE)
