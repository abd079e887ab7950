import gzip
from pathlib import Path
from typing import Any

import pytest

from trainer.rows import find_files, read_rows
from tuning.errors import DatasetError, InputNotFound

GOOD = b'{"text": "a row"}\n'


def write(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def rows(path: Path) -> list[tuple[dict[str, Any], str]]:
    return [(dict(row.fields), row.place) for row in read_rows(path)]


def test_every_dataset_file_is_found_in_order_and_hidden_ones_are_not(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a/c.parquet", ".download/manifest", ".x.jsonl", "notes.md"):
        write(tmp_path, name, "{}")
    assert [path.name for path in find_files(tmp_path)] == ["c.parquet", "b.jsonl"]


def test_a_dataset_path_chooses_a_folder_or_a_file(tmp_path: Path) -> None:
    write(tmp_path, "a/one.jsonl", "{}")
    write(tmp_path, "b/two.jsonl", "{}")
    assert [path.name for path in find_files(tmp_path, "a")] == ["one.jsonl"]
    assert [path.name for path in find_files(tmp_path, "/b/two.jsonl")] == ["two.jsonl"]
    with pytest.raises(InputNotFound, match="does not exist"):
        find_files(tmp_path, "c")


def test_an_empty_data_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputNotFound, match=f"the data folder {tmp_path} is empty"):
        find_files(tmp_path)


def test_a_folder_without_a_dataset_says_what_it_has(tmp_path: Path) -> None:
    write(tmp_path, "notes.md", "x")
    with pytest.raises(InputNotFound, match=r"has no dataset file, only notes\.md"):
        find_files(tmp_path)


def test_json_lines_are_read_with_their_line_numbers(tmp_path: Path) -> None:
    path = write(tmp_path, "x.jsonl", '\ufeff{"text": "a"}\r\n\n{"text": "ü"}\n')
    assert rows(path) == [({"text": "a"}, "x.jsonl line 1"), ({"text": "ü"}, "x.jsonl line 3")]


def test_a_broken_line_is_named_with_file_and_number(tmp_path: Path) -> None:
    path = write(tmp_path, "x.jsonl", '{"text": "a"}\n' * 11 + '{"text": "b"\n')
    with pytest.raises(DatasetError, match=r"x\.jsonl line 12 is not JSON"):
        rows(path)


def test_invalid_utf8_is_named_with_its_byte(tmp_path: Path) -> None:
    path = write(tmp_path, "x.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n')
    with pytest.raises(DatasetError, match="line 2 is not UTF-8: its byte 10 is 0xff"):
        rows(path)


def test_a_json_list_and_json_lines_under_the_name_json_are_both_read(tmp_path: Path) -> None:
    assert rows(write(tmp_path, "a.json", '[{"text": "a"}, {"text": "b"}]'))[1] == ({"text": "b"}, "a.json item 2")
    assert rows(write(tmp_path, "b.json", '{"text": "a"}\n{"text": "b"}'))[1] == ({"text": "b"}, "b.json line 2")


def test_csv_and_tsv_are_read_by_their_header(tmp_path: Path) -> None:
    assert rows(write(tmp_path, "a.csv", 'prompt,completion\n"a, b","c\nd"\n')) == [
        ({"prompt": "a, b", "completion": "c\nd"}, "a.csv line 3")
    ]
    assert rows(write(tmp_path, "a.tsv", "text\tx\none\t2\n")) == [({"text": "one", "x": "2"}, "a.tsv line 2")]


def test_a_csv_line_with_too_many_or_too_few_fields_is_named(tmp_path: Path) -> None:
    for number, line in enumerate(("a,b,c", "a")):
        with pytest.raises(DatasetError, match="line 2 has other fields than the header line"):
            rows(write(tmp_path, f"{number}.csv", f"prompt,completion\n{line}\n"))


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.csv", "x.tsv"])
def test_compressed_files_are_read_as_plain_ones(tmp_path: Path, name: str) -> None:
    import pyarrow as pa

    body = b"text\none\n" if name.endswith("sv") else b'{"text": "one"}\n'
    write(tmp_path, f"{name}.gz", gzip.compress(body))
    with pa.output_stream(str(tmp_path / f"{name}.zst"), compression="zstd") as stream:
        stream.write(body)
    assert [path.name for path in find_files(tmp_path)] == [f"{name}.gz", f"{name}.zst"]
    for path in find_files(tmp_path):
        assert [fields for fields, _ in rows(path)] == [{"text": "one"}]


def test_a_damaged_compressed_file_is_named(tmp_path: Path) -> None:
    for name, body in {"cut": gzip.compress(GOOD * 999)[:-9], "other": b"plain"}.items():
        with pytest.raises(DatasetError, match=f"{name}.jsonl.gz cannot be read"):
            rows(write(tmp_path, f"{name}.jsonl.gz", body))


def test_a_file_that_is_no_dataset_is_left_out_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, "x.jsonl", GOOD)
    write(tmp_path, "notes.md", "x")
    assert [path.name for path in find_files(tmp_path)] == ["x.jsonl"]
    assert "left out file=notes.md" in caplog.text


def test_parquet_is_read_row_by_row(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table({"text": ["a", "b"]}), tmp_path / "x.parquet")
    assert rows(tmp_path / "x.parquet")[1] == ({"text": "b"}, "x.parquet row 2")
    with pytest.raises(DatasetError, match="is not Parquet"):
        rows(write(tmp_path, "y.parquet", "<html>"))


def test_a_row_that_is_no_object_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"x\.jsonl line 1 is list"):
        rows(write(tmp_path, "x.jsonl", "[1]"))
