"""The formats that a dataset's row may have, told by its fields."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any


class RowFormat(StrEnum):
    """What a row means."""

    CONVERSATION = "messages"
    SHAREGPT = "conversations"
    INSTRUCTION = "prompt and completion"
    ALPACA = "instruction and output"
    TOKENS = "input_ids"
    TEXT = "text"


_FIELDS = {
    RowFormat.CONVERSATION: {"messages"},
    RowFormat.SHAREGPT: {"conversations"},
    RowFormat.INSTRUCTION: {"prompt", "completion"},
    RowFormat.ALPACA: {"instruction", "output"},
    RowFormat.TOKENS: {"input_ids"},
    RowFormat.TEXT: {"text"},
}


def row_format(fields: Mapping[str, Any]) -> RowFormat | None:
    """The first format whose fields `fields` has; None where it is none that we know."""
    return next((kind for kind, needed in _FIELDS.items() if needed <= fields.keys()), None)
