import gzip
import logging
from pathlib import Path

import pytest

from data_downloader import first_look
from data_downloader.first_look import MOST_BAD_ROWS, look_at
from tuning.errors import DatasetError
from tuning.row_files import refuse_rows


def write(tmp_path: Path, name: str, text: str | bytes) -> Path:
    (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return tmp_path / name


def look(tmp_path: Path, name: str, text: str | bytes) -> first_look.FirstLook:
    return look_at(write(tmp_path, name, text), name)


def test_rows_are_counted_by_format(tmp_path: Path) -> None:
    text = '{"text": "a"}\n\n{"messages": []}\n{"prompt": "p", "completion": "c"}\n{"question": "q", "answer": "a"}\n'
    seen = look(tmp_path, "x.jsonl", text)
    assert (seen.rows, seen.complete) == (4, True)
    assert seen.formats == {"text": 1, "messages": 1, "prompt and completion": 1, "the fields question, answer": 1}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.json", '[{"text": "a"}, {"text": "b"}]'),
        ("x.json", '{"text": "a"}\n{"text": "b"}\n'),
        ("x.csv", "text\na\nb\n"),
        ("x.tsv", "text\tid\na\t1\nb\t2\n"),
        ("x.jsonl.gz", gzip.compress(b'{"text": "a"}\n{"text": "b"}', mtime=0)),
        ("x.jsonl", '\ufeff{"text": "a"}\r\n{"text": "b"}\r\n'),
    ],
)
def test_every_readable_format_is_read(tmp_path: Path, name: str, text: str | bytes) -> None:
    seen = look(tmp_path, name, text)
    assert (seen.rows, seen.formats) == (2, {"text": 2})


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("x.jsonl", '{"text": "a"}\n{oops\n', "x.jsonl line 2 is not JSON"),
        ("x.jsonl", b'{"text": "\xff"}\n', "x.jsonl line 1 is not UTF-8: its byte 10"),
        ("x.jsonl", "[1]\n", "x.jsonl line 1 is list"),
        ("x.json", '[{"text": "a"}, 5]', "x.json item 2 is int"),
        ("x.csv", "a,b\n1\n", "x.csv line 2 has other fields"),
        ("x.csv", 'a,b\n"1,2\n', "is not CSV: unexpected end"),
        ("x.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 1000, mtime=0)[:-9], "x.jsonl.gz is damaged"),
    ],
)
def test_the_first_problem_is_named_by_file_and_line(tmp_path: Path, name: str, text: str | bytes, said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        refuse_rows(look(tmp_path, name, text).bad_rows)


def test_of_a_large_file_the_rest_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_look, "PARSED_BYTES", 10_000)
    seen = look(tmp_path, "x.jsonl", '{"text": "a"}\n' * 5000 + '{"text": "last"}')
    assert (seen.rows, seen.complete) == (5001, False)


def test_what_needs_a_heavy_library_is_left_to_the_trainer(tmp_path: Path) -> None:
    assert look(tmp_path, "x.parquet", b"PAR1").rows is None


def test_a_large_json_file_is_left_to_the_trainer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(first_look, "PARSED_BYTES", 10)
    look(tmp_path, "x.json", '[{"text": "a"}, {"text": "b"}]')
    assert "left to the trainer file=x.json" in caplog.text


def test_a_file_that_is_something_else_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(b"\xff\n" * 3 * MOST_BAD_ROWS)
    seen = look_at(path, path.name)
    assert len(seen.bad_rows) == MOST_BAD_ROWS
    assert not seen.complete
