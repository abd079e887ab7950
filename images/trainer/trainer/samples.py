"""What a row means: a conversation, an instruction with its completion, or plain text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.rows import Row
from tuning.errors import DatasetError
from tuning.row_format import RowFormat, row_format

Message = Mapping[str, Any]

ASSISTANT = "assistant"


@dataclass(frozen=True)
class Conversation:
    """Messages in order. The assistant's turns from `learn_from` on are learnt."""

    messages: tuple[Message, ...]
    place: str
    learn_from: int = 0


@dataclass(frozen=True)
class Instruction:
    """A prompt and the completion that is learnt."""

    prompt: str
    completion: str
    place: str


@dataclass(frozen=True)
class PlainText:
    """A text that is learnt whole."""

    text: str
    place: str


Sample = Conversation | Instruction | PlainText


def parse_sample(row: Row) -> Sample:
    """The meaning of `row`, told by its fields. Raises DatasetError naming the row and the field that is wrong."""
    fields = row.fields
    match row_format(fields):
        case RowFormat.CONVERSATION:
            messages = _parse_messages(fields["messages"], "messages", row.place)
            return _with_an_assistant(Conversation(messages, row.place))
        case RowFormat.INSTRUCTION:
            return _parse_instruction(fields["prompt"], fields["completion"], row.place)
        case RowFormat.TEXT:
            return PlainText(_parse_text(fields["text"], "text", row.place), row.place)
    raise DatasetError(
        f"{row.place} has the fields {', '.join(map(str, fields)) or 'none'}, which is no known format",
        hint=f"a row needs {'; '.join(RowFormat)}",
    )


def _parse_instruction(prompt: Any, completion: Any, place: str) -> Sample:
    if isinstance(prompt, list) and isinstance(completion, list):
        before = _parse_messages(prompt, "prompt", place)
        after = _parse_messages(completion, "completion", place)
        return _with_an_assistant(Conversation(before + after, place, learn_from=len(before)))
    completion = _parse_text(completion, "completion", place)
    return Instruction(_parse_text(prompt, "prompt", place, may_be_empty=True), completion, place)


def _parse_messages(value: Any, field: str, place: str) -> tuple[Message, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise DatasetError(f"{place}: {field} must be a list of messages with role and content")
    for number, message in enumerate(value):
        where = f"{field}[{number}]"
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise DatasetError(f"{place}: {where} must have a role", hint="roles are system, user, assistant, tool")
        if not isinstance(message.get("content"), str) and not message.get("tool_calls"):
            raise DatasetError(f"{place}: {where}.content must be a text")
    return tuple(value)


def _with_an_assistant(conversation: Conversation) -> Conversation:
    if not any(message["role"] == ASSISTANT for message in conversation.messages[conversation.learn_from :]):
        raise DatasetError(
            f"{conversation.place} has no message with the role {ASSISTANT}: there is nothing to learn from it"
        )
    return conversation


def _parse_text(value: Any, field: str, place: str, *, may_be_empty: bool = False) -> str:
    if not isinstance(value, str):
        raise DatasetError(f"{place}: {field} must be a text, not {type(value).__name__}")
    if not value and not may_be_empty:
        raise DatasetError(f"{place}: {field} is empty")
    return value
