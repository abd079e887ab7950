from pathlib import Path
from typing import Any

import pytest

from trainer import encoding
from trainer.dataset import FileReport
from trainer.labels import Labels
from trainer.samples import Conversation, Instruction, PlainText, Sample
from trainer.tokens import Learnt
from tuning.errors import DatasetError
from tuning.row_files import Place

ONE, TWO = Place("a.jsonl", "line 1"), Place("b.jsonl", "line 1")
CHAT = Conversation(({"role": "user", "content": "q"}, {"role": "assistant", "content": "An answer."}), ONE)
LONG = Instruction("many words " * 20, "Apple", TWO)
TEXT = PlainText("one two three four five six seven", TWO)


@pytest.fixture
def tokenizer(tiny_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


def prove(labels: Labels, *samples: Sample) -> Any:
    files = [FileReport("a.jsonl"), FileReport("b.jsonl")]
    for sample in samples:
        files[sample.place.file == "b.jsonl"].formats["any"] += 1
    return labels.prove(samples, labels.encode(samples), files)


def test_the_books_of_every_token_are_kept_by_file(tokenizer: Any) -> None:
    report = prove(Labels(tokenizer, 6), CHAT, LONG, PlainText("one", TWO), TEXT)
    tokens = report["tokens"]
    assert tokens["trained"] + tokens["masked"] + tokens["truncated"] + tokens["dropped"] == tokens["total"]
    for share in ("trained", "masked", "truncated", "dropped"):
        assert tokens[share] == sum(file["tokens"][share] for file in report["files"])
    b = report["files"][1]
    assert (b["rows"], b["used"], b["cut"]) == (3, 2, 2)
    assert b["dropped"]["nothing left to learn within max_length"] == 1
    assert b["tokens"]["dropped"] > 20
    assert report["max_length"] == 6
    assert report["longest_sample"] > 20


def test_what_is_learnt_is_shown(tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    report = prove(Labels(tokenizer, 100), CHAT)
    assert report["examples"] == [{"place": "a.jsonl line 1", "learnt": ["An answer.<|end|>"]}]
    assert report["end_of_turn"] == "<|end|>"
    assert "learnt of a.jsonl line 1: 'An answer.<|end|>'" in caplog.text


def test_what_is_cut_and_dropped_is_said(tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    prove(Labels(tokenizer, 6), CHAT, LONG, PlainText("one", TWO), TEXT)
    assert "were cut samples=" in caplog.text
    assert "dropped samples=2" in caplog.text


def test_the_end_of_a_sample_is_kept_where_it_was_asked_for(tokenizer: Any) -> None:
    [start] = Labels(tokenizer, 4).encode([TEXT])
    [end] = Labels(tokenizer, 4, truncation="keep_end").encode([TEXT])
    assert tokenizer.decode(start.input_ids).startswith("one")
    assert end.input_ids[-1] == tokenizer.eos_token_id


def test_samples_that_are_all_longer_than_max_length_are_refused(tokenizer: Any) -> None:
    with pytest.raises(DatasetError, match="no sample has a token to learn within max_length 6"):
        Labels(tokenizer, 6).encode([LONG])
    with pytest.raises(DatasetError, match="every sample is cut before its end at max_length 4") as caught:
        prove(Labels(tokenizer, 4), TEXT)
    assert "the longest sample has" in caught.value.hint


def test_a_template_without_an_end_of_turn_is_refused(tokenizer: Any) -> None:
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    with pytest.raises(DatasetError, match="writes no end-of-turn token") as caught:
        prove(Labels(tokenizer, 100), CHAT)
    assert "<|end|>" in caught.value.hint


def test_another_end_of_turn_than_the_tokenizers_is_said(tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<|user|>{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    assert prove(Labels(tokenizer, 100), CHAT)["end_of_turn"] == "<|user|>"
    assert "a server must stop there" in caplog.text


def test_samples_that_the_template_refuses_are_listed_or_skipped(
    tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer.chat_template = (
        "{% if messages | length > 2 %}{{ raise_exception('too long') }}{% endif %}"
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<|end|>{% endfor %}"
    )
    longer = Conversation(CHAT.messages * 2, TWO)
    with pytest.raises(DatasetError, match=r"b.jsonl line 1 is refused by the chat template: too long"):
        Labels(tokenizer, 100).encode([CHAT, longer])
    labels = Labels(tokenizer, 100, skip_bad_rows=True)
    report = prove(labels, CHAT, longer)
    assert report["files"][1]["dropped"]["cannot be learnt from"] == 1
    assert "skipped a row: b.jsonl line 1" in caplog.text
    with pytest.raises(DatasetError, match="every row was skipped; the first: b.jsonl line 1"):
        Labels(tokenizer, 100, skip_bad_rows=True).encode([longer])


def test_many_samples_are_encoded_by_several_processes_in_their_order(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples: list[Sample] = [PlainText(f"text {number}", Place("a.jsonl", f"line {number}")) for number in range(60)]
    samples[7] = Conversation(({"role": "nobody", "content": "x"}, *CHAT.messages), Place("a.jsonl", "line 7"))
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'nobody' %}{{ raise_exception('who?') }}{% endif %}"
        "{{ m['content'] }}<|end|>{% endfor %}"
    )
    alone = list(encoding.encode_all(samples, tokenizer, Learnt()))
    monkeypatch.setattr(encoding, "_WORTH_PROCESSES", 10)
    monkeypatch.setattr(encoding, "_CHUNK", 9)
    assert list(encoding.encode_all(samples, tokenizer, Learnt())) == alone
    assert str(alone[7]).startswith("a.jsonl line 7 is refused by the chat template")
