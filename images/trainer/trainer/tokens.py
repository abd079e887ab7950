"""Samples as token ids and labels: what is read, and which part of it is learnt.

A label of -100 is not learnt (torch.nn.CrossEntropyLoss, ignore_index).
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.samples import ASSISTANT, Conversation, Instruction, Message, PlainText, Sample
from tuning.errors import DatasetError

NOT_LEARNT = -100

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Encoded:
    """One sample: `labels[i]` is `input_ids[i]` where the token is learnt, else -100."""

    input_ids: list[int]
    labels: list[int]


def encode_samples(samples: Iterable[Sample], tokenizer: Any, max_length: int) -> list[Encoded]:
    """Encode `samples`, cut to `max_length` tokens. Those in which the cut leaves nothing to learn are dropped.

    Logs what was cut and dropped. Raises DatasetError where nothing is left.
    """
    kept: list[Encoded] = []
    cut = dropped = 0
    for sample in samples:
        encoded = encode(sample, tokenizer)
        if len(encoded.input_ids) > max_length:
            cut += 1
            encoded = Encoded(encoded.input_ids[:max_length], encoded.labels[:max_length])
        if all(label == NOT_LEARNT for label in encoded.labels[1:]):
            dropped += 1
        else:
            kept.append(encoded)
    if cut:
        logger.warning("samples longer than max_length were cut samples=%d max_length=%d", cut, max_length)
    if dropped:
        logger.warning("samples with nothing left to learn were dropped samples=%d", dropped)
    if not kept:
        raise DatasetError(
            f"no sample has a token to learn within max_length {max_length}", hint="raise TrainingArguments.max_length"
        )
    return kept


def encode(sample: Sample, tokenizer: Any) -> Encoded:
    """Encode one sample: of a conversation the assistant's turns are learnt, of an instruction the completion."""
    match sample:
        case PlainText():
            ids = _without_eos(tokenizer(sample.text)["input_ids"], tokenizer) + _eos(tokenizer)
            return Encoded(ids, list(ids))
        case Instruction():
            prompt = _without_eos(tokenizer(sample.prompt)["input_ids"], tokenizer)
            completion = tokenizer(sample.completion, add_special_tokens=False)["input_ids"] + _eos(tokenizer)
            return Encoded(prompt + completion, [NOT_LEARNT] * len(prompt) + completion)
        case Conversation():
            return _encode_conversation(sample, tokenizer)


def _encode_conversation(conversation: Conversation, tokenizer: Any) -> Encoded:
    text = _render(conversation.messages, tokenizer, conversation.place)
    spans = _learnt_spans(conversation, text, tokenizer)
    # The template has written the special tokens already.
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids: list[int] = encoding["input_ids"]
    labels = [
        # A token may reach over the edge of a turn, as one that begins with the space before a word.
        token if any(max(begin, start) < min(stop, end) for start, end in spans) else NOT_LEARNT
        for token, (begin, stop) in zip(ids, encoding["offset_mapping"], strict=True)
    ]
    if all(label == NOT_LEARNT for label in labels):
        raise DatasetError(
            f"{conversation.place}: the chat template shows no assistant turn that could be learnt",
            hint="check ModelConfig.chat_template",
        )
    return Encoded(ids, labels)


def _learnt_spans(conversation: Conversation, text: str, tokenizer: Any) -> list[tuple[int, int]]:
    """Where the assistant's turns stand in `text`, end-of-turn token included.

    Found by rendering the conversation turn by turn, which works for any template that writes a turn after the turns
    before it; for others (some rewrite earlier turns) the content itself is looked for.
    """
    spans = []
    position = 0
    for number, message in enumerate(conversation.messages):
        if message["role"] != ASSISTANT or number < conversation.learn_from:
            continue
        through = _render(conversation.messages[: number + 1], tokenizer, conversation.place)
        before = _render(conversation.messages[:number], tokenizer, conversation.place, prompt=True) if number else ""
        if text.startswith(through) and through.startswith(before) and len(before) >= position:
            spans.append((len(before), len(through)))
            position = len(through)
            continue
        content = str(message.get("content") or "").strip()
        found = text.find(content, position) if content else -1
        if found >= 0:
            position = found + len(content)
            spans.append((found, position))
    return spans


def _render(messages: Sequence[Message], tokenizer: Any, place: str, *, prompt: bool = False) -> str:
    from jinja2 import TemplateError

    try:
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=prompt))
    except (TemplateError, ValueError, TypeError, KeyError) as error:
        raise DatasetError(
            f"{place}: the chat template refuses this conversation: {error}",
            hint="roles mostly have to alternate user, assistant; not every template knows system or tool",
        ) from error


def _eos(tokenizer: Any) -> list[int]:
    return [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]


def _without_eos(ids: list[int], tokenizer: Any) -> list[int]:
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids
