from typing import Any

import pytest

from trainer.rows import Row
from trainer.samples import Conversation, Instruction, PlainText, parse_sample
from tuning.errors import DatasetError

USER = {"role": "user", "content": "q"}
ASSISTANT = {"role": "assistant", "content": "a"}


def parse(**fields: Any) -> Conversation | Instruction | PlainText:
    return parse_sample(Row(fields, "x.jsonl line 3"))


def test_the_three_formats_are_told_by_their_fields() -> None:
    assert parse(messages=[USER, ASSISTANT], id=1) == Conversation((USER, ASSISTANT), "x.jsonl line 3")
    assert parse(prompt="p", completion="c") == Instruction("p", "c", "x.jsonl line 3")
    assert parse(text="t") == PlainText("t", "x.jsonl line 3")


def test_a_prompt_and_a_completion_of_messages_are_a_conversation_whose_end_is_learnt() -> None:
    assert parse(prompt=[USER, ASSISTANT, USER], completion=[ASSISTANT]) == Conversation(
        (USER, ASSISTANT, USER, ASSISTANT), "x.jsonl line 3", learn_from=3
    )


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"question": "q", "answer": "a"}, "x.jsonl line 3 has the fields question, answer, which is no known format"),
        ({}, "has the fields none"),
        ({"prompt": "p"}, "no known format"),
        ({"messages": []}, "messages must be a list of messages"),
        ({"messages": "[]"}, "messages must be a list"),
        ({"messages": [USER, "a"]}, r"messages\[1\] must have a role"),
        ({"messages": [USER, {"role": "assistant", "content": None}]}, r"messages\[1\].content must be a text"),
        ({"messages": [USER]}, "no message with the role assistant"),
        ({"prompt": [ASSISTANT], "completion": [USER]}, "no message with the role assistant"),
        ({"prompt": "p", "completion": 5}, "completion must be a text, not int"),
        ({"prompt": "p", "completion": ""}, "completion is empty"),
        ({"prompt": ["p"], "completion": "c"}, "prompt must be a text, not list"),
        ({"text": None}, "text must be a text, not NoneType"),
        ({"text": ""}, "text is empty"),
    ],
)
def test_a_row_that_cannot_be_learnt_is_named_with_its_field(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        parse(**fields)
