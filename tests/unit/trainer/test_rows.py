import gzip
from pathlib import Path
from typing import Any

import pytest

from trainer.rows import find_files, read_rows
from tuning import row_files
from tuning.errors import DatasetError, InputNotFound
from tuning.row_files import BadRow, Row, refuse_rows

GOOD = b'{"text": "a row"}\n'


def write(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def rows(path: Path) -> list[tuple[dict[str, Any], str]]:
    found = list(read_rows(path, path.name))
    refuse_rows([row for row in found if isinstance(row, BadRow)])
    return [(dict(row.fields), str(row.place)) for row in found if isinstance(row, Row)]


def test_every_dataset_file_is_found_in_order_and_hidden_ones_are_not(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a/c.parquet", ".download/manifest", ".x.jsonl", "notes.md"):
        write(tmp_path, name, "{}")
    assert [path.name for path in find_files(tmp_path)] == ["c.parquet", "b.jsonl"]


def test_a_dataset_path_chooses_a_folder_or_a_file(tmp_path: Path) -> None:
    write(tmp_path, "a/one.jsonl", "{}")
    write(tmp_path, "b/two.jsonl", "{}")
    assert [path.name for path in find_files(tmp_path, "a")] == ["one.jsonl"]
    assert [path.name for path in find_files(tmp_path, "/b/two.jsonl")] == ["two.jsonl"]
    assert [path.name for path in find_files(tmp_path, f"{tmp_path}/b")] == ["two.jsonl"]
    assert [path.name for path in find_files(tmp_path, "*/t*.jsonl")] == ["two.jsonl"]
    with pytest.raises(InputNotFound, match="does not exist"):
        find_files(tmp_path, "c")


def test_an_extension_chooses_a_format(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl", "{}")
    write(tmp_path, "b.csv.gz", "")
    assert [path.name for path in find_files(tmp_path, extension="csv")] == ["b.csv.gz"]
    assert [path.name for path in find_files(tmp_path, extension=".jsonl")] == ["a.jsonl"]


@pytest.mark.parametrize("name", ["narrow.md", "package.json.md", "x.pkl", "x.pt"])
def test_a_name_that_only_holds_an_extension_is_no_dataset(tmp_path: Path, name: str) -> None:
    write(tmp_path, name, GOOD)
    with pytest.raises(InputNotFound, match="has no dataset file"):
        find_files(tmp_path)


def test_a_long_extension_is_told_by_its_end(tmp_path: Path) -> None:
    assert rows(write(tmp_path, "train.parquet.jsonl", GOOD)) == [({"text": "a row"}, "train.parquet.jsonl line 1")]


def test_text_is_read_line_by_line(tmp_path: Path) -> None:
    assert rows(write(tmp_path, "x.txt", "\ufeffone\r\n\n two \n")) == [
        ({"text": "one"}, "x.txt line 1"),
        ({"text": " two "}, "x.txt line 3"),
    ]


@pytest.mark.parametrize("streamed", [True, False])
def test_arrow_is_read_as_file_and_as_stream(tmp_path: Path, streamed: bool) -> None:
    import pyarrow as pa

    table = pa.table({"text": ["a", "b"]})
    writer = pa.ipc.new_stream if streamed else pa.ipc.new_file
    with writer(str(tmp_path / "x.arrow"), table.schema) as sink:
        sink.write_table(table)
    assert rows(tmp_path / "x.arrow")[1] == ({"text": "b"}, "x.arrow row 2")
    with pytest.raises(DatasetError, match="is not Arrow"):
        rows(write(tmp_path, "y.arrow", "<html>"))


def test_a_line_without_end_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_files, "LONGEST_ROW_BYTES", 1 << 20)
    with pytest.raises(DatasetError, match=r"x.jsonl line 1 is longer than 1 MiB"):
        rows(write(tmp_path, "x.jsonl", '{"text": "' + "x" * (2 << 20)))


def test_a_field_that_stands_twice_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"x.jsonl line 1 has the field 'text' twice"):
        rows(write(tmp_path, "x.jsonl", '{"text": "a", "text": "b"}'))
    with pytest.raises(DatasetError, match=r"x.csv line 1: a column's name stands twice"):
        rows(write(tmp_path, "x.csv", "text,text\n1,2\n"))


def test_bad_rows_do_not_hide_the_good_ones_behind_them(tmp_path: Path) -> None:
    body = b'{"text": "a"}\n{oops\n[1]\n{"text": "\xff"}\n{"text": "b"}\n'
    found = list(read_rows(write(tmp_path, "x.jsonl", body), "x.jsonl"))
    assert [row.place.where for row in found if isinstance(row, Row)] == ["line 1", "line 5"]
    csv = b'text,n\na,1\n\xff,2\n"x"y,3\nb,4,5\nc,6\n'
    found = list(read_rows(write(tmp_path, "x.csv", csv), "x.csv"))
    assert [row.fields["text"] for row in found if isinstance(row, Row)] == ["a", "c"]
    assert len([row for row in found if isinstance(row, BadRow)]) == 3


def test_the_first_ten_bad_rows_are_listed(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"12 rows cannot be learnt from: .*line 10 is .*; and 2 more") as caught:
        rows(write(tmp_path, "x.jsonl", "[]\n" * 12))
    assert "line 11" not in caught.value.message


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
