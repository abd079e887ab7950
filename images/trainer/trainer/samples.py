"""What a row means: a conversation, an instruction with its completion, or plain text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.rows import Row
from tuning.errors import DatasetError

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

_FORMATS = "messages; prompt and completion; or text"


def parse_sample(row: Row) -> Sample:
    """The meaning of `row`, told by its fields. Raises DatasetError naming the row and the field that is wrong."""
    fields = row.fields
    if "messages" in fields:
        messages = _parse_messages(fields["messages"], "messages", row.place)
        return _with_an_assistant(Conversation(messages, row.place))
    if "prompt" in fields and "completion" in fields:
        prompt, completion = fields["prompt"], fields["completion"]
        if isinstance(prompt, list) and isinstance(completion, list):
            before = _parse_messages(prompt, "prompt", row.place)
            after = _parse_messages(completion, "completion", row.place)
            return _with_an_assistant(Conversation(before + after, row.place, learn_from=len(before)))
        completion = _parse_text(completion, "completion", row.place)
        return Instruction(_parse_text(prompt, "prompt", row.place, may_be_empty=True), completion, row.place)
    if "text" in fields:
        return PlainText(_parse_text(fields["text"], "text", row.place), row.place)
    raise DatasetError(
        f"{row.place} has the fields {', '.join(map(str, fields)) or 'none'}, which is no known format",
        hint=f"a row needs {_FORMATS}",
    )


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
