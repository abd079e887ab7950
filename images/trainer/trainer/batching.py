"""Samples of like length in one batch, in an order that depends on the seed and the epoch alone."""

from collections.abc import Iterator, Sequence

import torch
from transformers.trainer_pt_utils import get_length_grouped_indices


class SimilarLengths(torch.utils.data.Sampler[int]):
    """Orders samples so that those of one step are about as long as each other.

    The library's own sampler draws from the global generator and groups by the batch of one process: its order changes
    when a run goes on from a checkpoint, with smaller batches, or on more GPUs. This one's does not.
    """

    def __init__(self, lengths: Sequence[int], samples_per_step: int, seed: int) -> None:
        self._lengths = list(lengths)
        self._samples_per_step = samples_per_step
        self._seed = seed
        self._epoch = 0

    def __len__(self) -> int:
        return len(self._lengths)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next; the library calls this."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed + self._epoch)
        return iter(get_length_grouped_indices(self._lengths, self._samples_per_step, generator=generator))
