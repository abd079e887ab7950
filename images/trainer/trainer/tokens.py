"""Samples as token ids and labels: what is read, and which part of it is learnt.

A label of -100 is not learnt (torch.nn.CrossEntropyLoss, ignore_index).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.samples import ASSISTANT, Conversation, Instruction, Message, PlainText, Sample, Tokens
from tuning.errors import DatasetError
from tuning.row_files import BadRow, Place

NOT_LEARNT = -100

# Stands for an answer while the template is asked what it writes around it. No text holds it by chance.
_MARKER = "\ue000answer\ue001"


@dataclass(frozen=True)
class Encoded:
    """One sample: `labels[i]` is `input_ids[i]` where the token is learnt, else -100."""

    input_ids: list[int]
    labels: list[int]
    place: Place


@dataclass(frozen=True)
class Learnt:
    """Of which parts the loss is taken: the answers only, or the whole text, prompts included."""

    whole_conversations: bool = False
    whole_instructions: bool = False


class RefusedSample(DatasetError):
    """The chat template refuses a sample, or does not show what it is to teach."""

    def __init__(self, row: BadRow) -> None:
        super().__init__(str(row), hint=row.hint)
        self.row = row


def encode(sample: Sample, tokenizer: Any, learnt: Learnt | None = None) -> Encoded:
    """Encode one sample: of a conversation the assistant's turns are learnt, of an instruction the completion.

    Raises RefusedSample naming the row that the chat template refuses, or of which it shows no answer.
    """
    learnt = learnt or Learnt()
    match sample:
        case Tokens():
            return Encoded(list(sample.input_ids), list(sample.labels), sample.place)
        case PlainText():
            ids = _without_eos(tokenizer(sample.text)["input_ids"], tokenizer) + _eos(tokenizer)
            return Encoded(ids, list(ids), sample.place)
        case Instruction():
            prompt = _without_eos(tokenizer(sample.prompt)["input_ids"], tokenizer)
            completion = tokenizer(sample.completion, add_special_tokens=False)["input_ids"] + _eos(tokenizer)
            before = prompt if learnt.whole_instructions else [NOT_LEARNT] * len(prompt)
            return Encoded(prompt + completion, before + completion, sample.place)
        case Conversation():
            return _encode_conversation(sample, tokenizer, whole=learnt.whole_conversations)


def end_tokens(tokenizer: Any) -> frozenset[int]:
    """The tokens that may end a turn: all special ones, and those that were added to the vocabulary."""
    return frozenset({*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()})


def _encode_conversation(conversation: Conversation, tokenizer: Any, *, whole: bool) -> Encoded:
    template = _Template(conversation, tokenizer)
    text = template.render(conversation.messages)
    template.check_tools(text)
    spans = [(0, len(text))] if whole else _learnt_spans(conversation, text, template)
    # The template has written the special tokens already.
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids: list[int] = encoding["input_ids"]
    labels = [
        # A token may reach over the edge of a turn, as one that begins with the space before a word.
        token if any(max(begin, start) < min(stop, end) for start, end in spans) else NOT_LEARNT
        for token, (begin, stop) in zip(ids, encoding["offset_mapping"], strict=True)
    ]
    if all(label == NOT_LEARNT for label in labels):
        problem = "has no assistant turn that the chat template shows, so nothing could be learnt"
        raise RefusedSample(BadRow(conversation.place, problem, "check ModelConfig.chat_template"))
    return Encoded(ids, labels, conversation.place)


class _Template:
    """The chat template for one conversation."""

    def __init__(self, conversation: Conversation, tokenizer: Any) -> None:
        self._conversation = conversation
        self._tokenizer = tokenizer
        self.end_marks = [*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()]

    def check_tools(self, text: str) -> None:
        """Refuse a conversation of whose tools, or calls to them, the template shows nothing."""
        messages = self._conversation.messages
        if self._conversation.tools and self.render(messages, tools=False) == text:
            self._ignored("the tools")
        for number, message in enumerate(messages):
            if calls := message.get("tool_calls"):
                without = [*messages[:number], {**message, "tool_calls": []}, *messages[number + 1 :]]
                if calls and self.render(without) == text:
                    self._ignored("the tool calls")

    def _ignored(self, what: str) -> None:
        hint = "choose a template that knows them, with ModelConfig.chat_template"
        raise RefusedSample(BadRow(self._conversation.place, f"has {what} ignored by the chat template", hint))

    def render(self, messages: Sequence[Message], *, prompt: bool = False, tools: bool = True) -> str:
        """The text of `messages`; with `prompt` what stands before the next answer, too."""
        from jinja2 import TemplateError

        try:
            return str(
                self._tokenizer.apply_chat_template(
                    list(messages),
                    tools=(list(self._conversation.tools) or None) if tools else None,
                    tokenize=False,
                    add_generation_prompt=prompt,
                )
            )
        except (TemplateError, ValueError, TypeError, KeyError, AttributeError) as error:
            hint = "roles mostly have to alternate user, assistant; not every template knows system or tool"
            problem = f"is refused by the chat template: {error}"
            raise RefusedSample(BadRow(self._conversation.place, problem, hint)) from error


def _learnt_spans(conversation: Conversation, text: str, template: _Template) -> list[tuple[int, int]]:
    """Where the assistant's turns stand in `text`, end-of-turn token included."""
    spans = []
    for number, message in enumerate(conversation.messages):
        if message["role"] == ASSISTANT and number >= conversation.learn_from:
            span = _by_turns(conversation.messages, number, text, template) or _by_marker(
                conversation.messages, number, text, template
            )
            if span:
                spans.append(_to_the_end_of_turn(text, span, template.end_marks))
    return spans


def _by_turns(messages: Sequence[Message], number: int, text: str, template: _Template) -> tuple[int, int] | None:
    """The turn as what is added by it, for the many templates that write a turn behind the turns before it."""
    try:
        through = template.render(messages[: number + 1])
        before = template.render(messages[:number], prompt=True) if number else ""
    except RefusedSample:
        # Some templates refuse the beginning of a conversation that they take as a whole.
        return None
    if text.startswith(through) and through.startswith(before):
        return len(before), len(through)
    return None


def _by_marker(messages: Sequence[Message], number: int, text: str, template: _Template) -> tuple[int, int] | None:
    """The answer as what changes when it is another one, for templates that rewrite earlier turns."""
    marked = [*messages[:number], {**messages[number], "content": _MARKER}, *messages[number + 1 :]]
    before, found, after = template.render(marked).partition(_MARKER)
    if not found or not text.startswith(before) or not text.endswith(after):
        return None
    start, end = len(before), len(text) - len(after)
    return (start, end) if start < end else None


def _to_the_end_of_turn(text: str, span: tuple[int, int], end_marks: Sequence[str]) -> tuple[int, int]:
    """The span up to the token that ends the turn: a server stops there, what follows is never written by a model."""
    start, end = span
    inside = text[start:end].rstrip()
    if _ends(inside.endswith, end_marks):
        return start, start + len(inside)
    following = text[end:]
    blank = len(following) - len(following.lstrip())
    mark = next((mark for mark in end_marks if mark and following.startswith(mark, blank)), "")
    return (start, end + blank + len(mark)) if mark else (start, end)


def _ends(matches: Callable[[str], bool], marks: Sequence[str]) -> bool:
    return any(mark and matches(mark) for mark in marks)


def _eos(tokenizer: Any) -> list[int]:
    return [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]


def _without_eos(ids: list[int], tokenizer: Any) -> list[int]:
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids
