"""What a row means: a conversation, an instruction with its completion, plain text, or tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuning.row_files import BadRow, Place, Row, parse_json
from tuning.row_format import RowFormat, row_format
from tuning.suggestion import did_you_mean

Message = Mapping[str, Any]

ASSISTANT = "assistant"
_OPENING = ("system", "developer")
ROLES = (*_OPENING, "user", ASSISTANT, "tool", "function")
# The names of ShareGPT's `from`, and other names in use for the same.
_OTHER_ROLES = {
    "human": "user",
    "gpt": ASSISTANT,
    "chatgpt": ASSISTANT,
    "bot": ASSISTANT,
    "model": ASSISTANT,
    "observation": "tool",
}


@dataclass(frozen=True)
class Columns:
    """Which fields of a row hold what, where DatasetConfig or TrainingArguments name them."""

    messages: str = ""
    prompt: str = ""
    completion: str = ""
    text: str = "text"


@dataclass(frozen=True)
class Conversation:
    """Messages in order. The assistant's turns from `learn_from` on are learnt. `tools` are what it may call."""

    messages: tuple[Message, ...]
    place: Place
    learn_from: int = 0
    tools: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Instruction:
    """A prompt and the completion that is learnt."""

    prompt: str
    completion: str
    place: Place


@dataclass(frozen=True)
class PlainText:
    """A text that is learnt whole."""

    text: str
    place: Place


@dataclass(frozen=True)
class Tokens:
    """What the user tokenised: it goes to the library as it is."""

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]
    place: Place


Sample = Conversation | Instruction | PlainText | Tokens


class _Wrong(ValueError):
    """What is wrong with a field, as `BadRow` says it."""

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(problem)
        self.hint = hint


def parse_sample(row: Row, columns: Columns | None = None) -> tuple[RowFormat, Sample] | BadRow:
    """The meaning of `row` and the format it was told by, or what is wrong with it and where.

    The format is that of `columns` where they name a field, else it is told by the row's fields.
    """
    try:
        return _parse(row.fields, columns or Columns(), row.place)
    except _Wrong as wrong:
        return BadRow(row.place, str(wrong), wrong.hint)


def _parse(fields: Mapping[str, Any], columns: Columns, place: Place) -> tuple[RowFormat, Sample]:
    if columns.messages:
        messages = _messages(_field(fields, columns.messages), columns.messages)
        return RowFormat.CONVERSATION, _conversation(messages, place, fields)
    if columns.prompt:
        prompt, completion = _field(fields, columns.prompt), _field(fields, columns.completion)
        return RowFormat.INSTRUCTION, _instruction(prompt, completion, columns.prompt, columns.completion, place)
    if columns.completion:
        return RowFormat.TEXT, PlainText(_text(_field(fields, columns.completion), columns.completion), place)
    kind = row_format(fields)
    match kind:
        case RowFormat.CONVERSATION:
            return kind, _conversation(_messages(fields["messages"], "messages"), place, fields)
        case RowFormat.SHAREGPT:
            return kind, _conversation(_messages(fields["conversations"], "conversations"), place, fields)
        case RowFormat.INSTRUCTION:
            return kind, _instruction(fields["prompt"], fields["completion"], "prompt", "completion", place)
        case RowFormat.ALPACA:
            return kind, _alpaca(fields, place)
        case RowFormat.TOKENS:
            return kind, _tokens(fields, place)
        case _ if columns.text in fields:
            return RowFormat.TEXT, PlainText(_text(fields[columns.text], columns.text), place)
    raise _Wrong(
        f"has the fields {_names(fields)}, which is no known format",
        f"a row needs {'; '.join(RowFormat)}; or name the columns in DatasetConfig",
    )


def _field(fields: Mapping[str, Any], name: str) -> Any:
    if name not in fields:
        hint = did_you_mean(name, map(str, fields)) or "check the columns in DatasetConfig"
        raise _Wrong(f"has no field {name}, only {_names(fields)}", hint)
    return fields[name]


def _names(fields: Mapping[str, Any]) -> str:
    return ", ".join(map(str, fields)) or "none"


def _instruction(prompt: Any, completion: Any, prompt_name: str, completion_name: str, place: Place) -> Sample:
    if isinstance(prompt, list) and isinstance(completion, list):
        before, after = _messages(prompt, prompt_name), _messages(completion, completion_name)
        _check_conversation((*before, *after), len(before))
        return Conversation((*before, *after), place, learn_from=len(before))
    completion = _text(completion, completion_name)
    return Instruction(_text(prompt, prompt_name, may_be_empty=True), completion, place)


def _alpaca(fields: Mapping[str, Any], place: Place) -> Conversation:
    """Alpaca's instruction and input are what the user says (Taori et al., 2023), in the base model's own format."""
    question = _text(fields["instruction"], "instruction")
    if extra := fields.get("input"):
        question += "\n\n" + _text(extra, "input")
    messages: list[Message] = [
        {"role": "user", "content": question},
        {"role": ASSISTANT, "content": _text(fields["output"], "output")},
    ]
    return _conversation(tuple(messages), place, fields)


def _conversation(messages: tuple[Message, ...], place: Place, fields: Mapping[str, Any]) -> Conversation:
    system = fields.get("system")
    if isinstance(system, str) and system and messages[0]["role"] not in _OPENING:
        messages = ({"role": "system", "content": system}, *messages)
    _check_conversation(messages, 0)
    return Conversation(messages, place, tools=_tools(fields.get("tools")))


def _tools(value: Any) -> tuple[Mapping[str, Any], ...]:
    value = _parsed(value)
    if not value:
        return ()
    if not isinstance(value, list) or not all(isinstance(tool, Mapping) for tool in value):
        raise _Wrong("tools must be a list of JSON schemas")
    return tuple(value)


def _messages(value: Any, field: str) -> tuple[Message, ...]:
    value = _parsed(value)
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise _Wrong(f"{field} must be a list of messages with role and content")
    return tuple(_message(message, f"{field}[{number}]") for number, message in enumerate(value))


def _message(message: Any, where: str) -> Message:
    if not isinstance(message, Mapping):
        raise _Wrong(f"{where} must have a role", f"roles are {', '.join(ROLES)}")
    # Columnar formats fill absent fields with nulls, which a template would take for values.
    present = {str(key): value for key, value in message.items() if value is not None}
    role = present.pop("from", None) or present.pop("role", None)
    content = present.pop("value", None) if "content" not in present else present.pop("content")
    role = _OTHER_ROLES.get(role, role) if isinstance(role, str) else None
    if role is None:
        raise _Wrong(f"{where} must have a role", f"roles are {', '.join(ROLES)}")
    if role not in ROLES:
        hint = did_you_mean(role, ROLES) or f"roles are {', '.join(ROLES)}"
        raise _Wrong(f"{where} has the unknown role {role!r}", hint)
    if isinstance(content, list):
        content = _joined(content, where)
    if not isinstance(content, str):
        if not present.get("tool_calls"):
            raise _Wrong(f"{where}.content must be a text, not {type(content).__name__}")
        content = ""
    return {"role": role, "content": content, **present}


def _joined(parts: list[Any], where: str) -> str:
    """The text of content in parts, as OpenAI's API writes it; nothing but text can be learnt here."""
    texts = [part.get("text") for part in parts if isinstance(part, Mapping) and part.get("type", "text") == "text"]
    if len(texts) != len(parts) or not all(isinstance(text, str) for text in texts):
        raise _Wrong(f"{where}.content has a part that is not text", "images and sounds cannot be learnt from")
    return "".join(map(str, texts))


def _check_conversation(messages: Sequence[Message], learn_from: int) -> None:
    roles = [message["role"] for message in messages]
    late = next((number for number, role in enumerate(roles) if role in _OPENING and number > 0), None)
    if late is not None and roles[late - 1] not in _OPENING:
        raise _Wrong(f"has its roles out of order: message {late} is {roles[late]}", "it must come first")
    turns = [role for role in roles if role not in _OPENING]
    if ASSISTANT not in roles[learn_from:]:
        raise _Wrong(f"has no message with the role {ASSISTANT}: there is nothing to learn from it")
    if all(role == ASSISTANT for role in turns):
        raise _Wrong("has only assistant messages: it answers nothing", "use the field text for texts without a prompt")
    if turns[0] == ASSISTANT:
        raise _Wrong(f"has its roles out of order: {ASSISTANT} speaks first", "begin with system or user")


def _tokens(fields: Mapping[str, Any], place: Place) -> Tokens:
    ids = fields["input_ids"]
    labels = fields.get("labels", ids)
    for name, value in (("input_ids", ids), ("labels", labels)):
        if not isinstance(value, list) or not value or not all(type(token) is int for token in value):
            raise _Wrong(f"{name} must be a list of whole numbers")
    if len(ids) != len(labels):
        raise _Wrong(f"has {len(ids)} input_ids and {len(labels)} labels", "they must be as many")
    return Tokens(tuple(ids), tuple(labels), place)


def _text(value: Any, field: str, *, may_be_empty: bool = False) -> str:
    if not isinstance(value, str):
        raise _Wrong(f"{field} must be a text, not {type(value).__name__}")
    if not value and not may_be_empty:
        raise _Wrong(f"{field} is empty")
    return value


def _parsed(value: Any) -> Any:
    """A list written as JSON in a text, as CSV has to."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return parse_json(value)
        except ValueError:
            return value
    return value
