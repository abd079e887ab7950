"""Several samples in one row without one of them seeing another."""

from collections.abc import Sequence
from typing import Any

import torch

# Their attention takes a mask as it comes and does not look at position_ids, where packed samples begin anew (measured
# with transformers 5.23: logits of packed samples differ by 0.2 to 1.9 of their size, with the mask by 1e-6).
_NEED_A_MASK = ("bloom", "falcon", "gpt_oss", "mpt", "opt")
_SHORTEST_PACK = 2048


def pack_length(longest_sample: int, context: int) -> int:
    """The tokens of a pack where none were set: two thousand, or the longest sample, as far as the model reads."""
    return min(context, max(_SHORTEST_PACK, longest_sample))


class SeparatingCollator:
    """Gives packed rows a mask in which each token sees only the tokens before it in its own sample.

    The mask is additive, of shape (rows, 1, tokens, tokens), and sized tokens^2: for packs of a few thousand tokens.
    """

    def __init__(self, collate: Any, dtype: torch.dtype) -> None:
        self._collate = collate
        self._dtype = dtype

    def __call__(self, examples: Sequence[Any]) -> dict[str, Any]:
        """Collate `examples` and add the mask."""
        batch: dict[str, Any] = self._collate(examples)
        positions = batch["position_ids"]
        sample = (positions == 0).cumsum(dim=1)
        tokens = positions.shape[1]
        sees = (sample[:, :, None] == sample[:, None, :]) & torch.ones(tokens, tokens, dtype=torch.bool).tril()
        mask = torch.zeros(sees.shape, dtype=self._dtype).masked_fill(~sees, torch.finfo(self._dtype).min)
        return {**batch, "attention_mask": mask[:, None]}


def needs_a_mask(architecture: str) -> bool:
    """Whether packed samples of this architecture see each other without a mask."""
    return architecture in _NEED_A_MASK
