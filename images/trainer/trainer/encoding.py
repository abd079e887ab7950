"""Encode many samples, on all processors, before the GPU is touched."""

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from typing import Any

from trainer.samples import Sample
from trainer.tokens import Encoded, Learnt, RefusedSample, encode
from tuning.row_files import BadRow

# Below, processes take longer to start than to work: a thousand conversations take half a second.
_WORTH_PROCESSES = 8000
_CHUNK = 500


def encode_all(samples: Sequence[Sample], tokenizer: Any, learnt: Learnt) -> Iterator[Encoded | BadRow]:
    """Encode `samples` in their order; one that the chat template refuses is a bad row."""
    processors = len(os.sched_getaffinity(0))
    if len(samples) < _WORTH_PROCESSES or processors < 2:
        for sample in samples:
            yield _encode(sample, tokenizer, learnt)
        return
    chunks = (samples[start : start + _CHUNK] for start in range(0, len(samples), _CHUNK))
    # Forked: the tokenizer is inherited and not made anew, and CUDA has not been started yet.
    context = multiprocessing.get_context("fork")
    with context.Pool(processors, initializer=_Worker.start, initargs=(tokenizer, learnt)) as pool:
        for encoded in pool.imap(_Worker.encode, chunks):
            yield from encoded


def _encode(sample: Sample, tokenizer: Any, learnt: Learnt) -> Encoded | BadRow:
    try:
        return encode(sample, tokenizer, learnt)
    except RefusedSample as refused:
        return refused.row


class _Worker:
    """What a process of the pool keeps between its chunks."""

    tokenizer: Any
    learnt: Learnt

    @classmethod
    def start(cls, tokenizer: Any, learnt: Learnt) -> None:
        cls.tokenizer, cls.learnt = tokenizer, learnt

    @classmethod
    def encode(cls, samples: Sequence[Sample]) -> list[Encoded | BadRow]:
        return [_encode(sample, cls.tokenizer, cls.learnt) for sample in samples]
