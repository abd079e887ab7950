"""The proof of the labels: what of the data is learnt, masked, cut and dropped, shown before anything is trained."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.dataset import FileReport
from trainer.encoding import encode_all
from trainer.samples import Conversation, Sample
from trainer.tokens import NOT_LEARNT, Encoded, Learnt, end_tokens
from tuning.errors import DatasetError
from tuning.files import write_json
from tuning.row_files import BadRow, refuse_rows

FILE = "label_report.json"
_SHOWN_SAMPLES = 3
_SHOWN_ROWS = 10
_SHOWN_CHARACTERS = 200

logger = logging.getLogger(__name__)


@dataclass
class TokenCount:
    """What became of a file's tokens; the four add up to all of them."""

    trained: int = 0
    masked: int = 0
    truncated: int = 0
    dropped: int = 0

    @property
    def total(self) -> int:
        """All tokens, as the samples were before anything was cut."""
        return self.trained + self.masked + self.truncated + self.dropped


@dataclass
class Labels:
    """Encodes samples and keeps the books. `max_length` is in tokens; `truncation` is keep_start or keep_end."""

    tokenizer: Any
    max_length: int
    learnt: Learnt = field(default_factory=Learnt)
    truncation: str = "keep_start"
    skip_bad_rows: bool = False
    counts: dict[str, TokenCount] = field(default_factory=dict)
    cut: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    refused: list[BadRow] = field(default_factory=list)
    longest: int = 0

    def encode(self, samples: Sequence[Sample]) -> list[Encoded]:
        """Encode `samples`, cut to `max_length`; those in which the cut leaves nothing to learn are dropped.

        Raises DatasetError where the chat template refuses samples and they are not to be skipped, or nothing is left.
        """
        kept = []
        before = len(self.refused)
        for encoded in encode_all(samples, self.tokenizer, self.learnt):
            if isinstance(encoded, BadRow):
                self.refused.append(encoded)
            elif (fitting := self._fit(encoded)) is not None:
                kept.append(fitting)
        if not self.skip_bad_rows:
            refuse_rows(self.refused)
        for row in self.refused[before:][:_SHOWN_ROWS]:
            logger.warning("skipped a row: %s", row)
        if not kept and len(self.refused) > before:
            raise DatasetError(
                f"every row was skipped; the first: {self.refused[before]}", hint=self.refused[before].hint
            )
        if not kept:
            raise DatasetError(
                f"no sample has a token to learn within max_length {self.max_length}",
                hint=f"raise TrainingArguments.max_length: the longest sample has {self.longest} tokens",
            )
        return kept

    def _fit(self, encoded: Encoded) -> Encoded | None:
        file = encoded.place.file
        count = self.counts.setdefault(file, TokenCount())
        length = len(encoded.input_ids)
        self.longest = max(self.longest, length)
        if length > self.max_length:
            self.cut[file] += 1
            part = slice(self.max_length) if self.truncation == "keep_start" else slice(-self.max_length, None)
            encoded = Encoded(encoded.input_ids[part], encoded.labels[part], encoded.place)
        # The first token is predicted from nothing, so it is never learnt.
        if all(label == NOT_LEARNT for label in encoded.labels[1:]):
            self.dropped[file] += 1
            count.dropped += length
            return None
        trained = sum(label != NOT_LEARNT for label in encoded.labels)
        count.trained += trained
        count.masked += len(encoded.labels) - trained
        count.truncated += length - len(encoded.labels)
        return encoded

    def prove(
        self, samples: Sequence[Sample], encoded: Sequence[Encoded], files: Sequence[FileReport]
    ) -> Mapping[str, Any]:
        """Log what the first samples teach and return the report for `label_report.json`.

        Raises DatasetError where the end of a turn is never learnt: the adapter would never stop.
        """
        end = self._learnt_end(samples, encoded)
        examples = [{"place": str(sample.place), "learnt": self._spans(sample)} for sample in encoded[:_SHOWN_SAMPLES]]
        for example in examples:
            text = " … ".join(example["learnt"])
            shown = text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"
            logger.info("learnt of %s: %r", example["place"], shown)
        total = TokenCount(*map(sum, zip(*(vars(count).values() for count in self.counts.values()), strict=True)))
        logger.info(
            "labels tokens=%d trained=%s masked=%s truncated=%s dropped=%s max_length=%d longest=%d",
            total.total,
            *(f"{share:.1%}" for share in _shares(total).values()),
            self.max_length,
            self.longest,
        )
        if self.cut:
            logger.warning(
                "samples longer than max_length were cut samples=%d tokens=%d max_length=%d; the longest has %d tokens",
                self.cut.total(),
                total.truncated,
                self.max_length,
                self.longest,
            )
        if self.dropped:
            logger.warning("samples with nothing left to learn were dropped samples=%d", self.dropped.total())
        return {
            "max_length": self.max_length,
            "longest_sample": self.longest,
            "learnt": {
                "conversations": "all" if self.learnt.whole_conversations else "assistant turns",
                "instructions": "all" if self.learnt.whole_instructions else "completions",
            },
            "end_of_turn": end,
            "tokens": {**vars(total), "total": total.total, "shares": _shares(total)},
            "files": [self._describe(file) for file in files],
            "examples": examples,
        }

    def _describe(self, file: FileReport) -> dict[str, Any]:
        count = self.counts.get(file.name, TokenCount())
        bad = [*file.bad_rows, *(row for row in self.refused if row.place.file == file.name)]
        return {
            "file": file.name,
            "rows": file.rows,
            "formats": dict(file.formats),
            "used": file.rows - len(bad) - self.dropped[file.name],
            "cut": self.cut[file.name],
            "dropped": {
                "nothing left to learn within max_length": self.dropped[file.name],
                "cannot be learnt from": len(bad),
            },
            "first_bad_rows": [str(row) for row in bad[:_SHOWN_ROWS]],
            "tokens": {**vars(count), "total": count.total, "shares": _shares(count)},
        }

    def _learnt_end(self, samples: Sequence[Sample], encoded: Sequence[Encoded]) -> str | None:
        """The token at which the adapter learns to stop; None where only the user's own tokens are trained."""
        ends = end_tokens(self.tokenizer)
        found: Counter[int] = Counter()
        for sample in encoded:
            found.update(label for label in set(sample.labels) if label in ends)
        eos = self.tokenizer.eos_token_id
        if eos in found:
            return str(self.tokenizer.eos_token)
        if found:
            token = str(self.tokenizer.convert_ids_to_tokens(found.most_common(1)[0][0]))
            logger.warning(
                "the end of a turn is learnt as %s, not as %s: a server must stop there",
                token,
                self.tokenizer.eos_token,
            )
            return token
        if self.cut and self.cut.total() >= len(encoded):
            raise DatasetError(
                f"every sample is cut before its end at max_length {self.max_length}: the adapter would never stop",
                hint=f"raise TrainingArguments.max_length: the longest sample has {self.longest} tokens",
            )
        if any(isinstance(sample, Conversation) for sample in samples):
            raise DatasetError(
                "the chat template writes no end-of-turn token behind an answer: the adapter would never stop",
                hint=f"end assistant turns with {self.tokenizer.eos_token} in ModelConfig.chat_template",
            )
        return None

    def _spans(self, encoded: Encoded) -> list[str]:
        """The texts that are learnt, one for each stretch of tokens."""
        spans: list[list[int]] = []
        before = NOT_LEARNT
        for label in encoded.labels:
            if label != NOT_LEARNT:
                if before == NOT_LEARNT:
                    spans.append([])
                spans[-1].append(label)
            before = label
        return [str(self.tokenizer.decode(span)) for span in spans]


def write_report(results: Path, report: Mapping[str, Any]) -> None:
    """Put the report into the results folder, whole."""
    write_json(results / FILE, dict(report))


def _shares(count: TokenCount) -> dict[str, float]:
    total = max(count.total, 1)
    return {name: round(value / total, 4) for name, value in vars(count).items()}
