"""The formats that a dataset's row may have, told by its fields."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any


class RowFormat(StrEnum):
    """What a row means."""

    CONVERSATION = "messages"
    INSTRUCTION = "prompt and completion"
    TEXT = "text"


_FIELDS = {
    RowFormat.CONVERSATION: {"messages"},
    RowFormat.INSTRUCTION: {"prompt", "completion"},
    RowFormat.TEXT: {"text"},
}


def row_format(fields: Mapping[str, Any]) -> RowFormat | None:
    """The first format whose fields `fields` has; None where it is none that we know."""
    return next((kind for kind, needed in _FIELDS.items() if needed <= fields.keys()), None)
