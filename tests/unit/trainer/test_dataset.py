from pathlib import Path

import pytest

from trainer.dataset import Dataset, read_dataset
from trainer.samples import PlainText
from tuning.errors import DatasetError
from tuning.provenance import DatasetFile, DatasetManifest, write_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text("".join(f'{{"text": "{name}{number}"}}\n' for number in range(10)))
    return tmp_path


def texts(dataset: Dataset) -> list[str]:
    return [sample.text for sample in dataset.train if isinstance(sample, PlainText)]


def test_every_file_is_read(folder: Path) -> None:
    assert len(texts(read_dataset(folder, {}))) == 20


def test_the_shuffle_is_the_same_for_the_same_seed(folder: Path) -> None:
    first = texts(read_dataset(folder, {"shuffle_seed": 1}))
    assert first == texts(read_dataset(folder, {"shuffle_seed": 1}))
    assert first != texts(read_dataset(folder, {"shuffle_seed": 2}))
    ordered = texts(read_dataset(folder, {"shuffle_dataset": False}))
    assert ordered == sorted(ordered)
    assert sorted(first) == ordered


def test_a_split_holds_rows_out_and_loses_none(folder: Path) -> None:
    dataset = read_dataset(folder, {"train_test_split": 0.75})
    assert (len(dataset.train), len(dataset.held_out)) == (15, 5)
    assert not {sample.place for sample in dataset.train} & {sample.place for sample in dataset.held_out}


def test_a_split_that_leaves_one_side_empty_is_refused(folder: Path) -> None:
    with pytest.raises(DatasetError, match="leaves one side empty"):
        read_dataset(folder, {"train_test_split": 0.99})


def test_files_without_rows_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n")
    with pytest.raises(DatasetError, match="has no rows"):
        read_dataset(tmp_path, {})


def test_the_digest_is_that_of_the_downloaders_manifest(folder: Path) -> None:
    manifest = DatasetManifest((DatasetFile("a.jsonl", "http://h/a", 1, "1"),))
    write_manifest(folder, manifest)
    assert read_dataset(folder, {}).digest == manifest.digest


def test_an_empty_file_among_good_ones_is_said_and_reported(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "c.jsonl").write_text("")
    dataset = read_dataset(folder, {})
    assert [(file.name, file.rows) for file in dataset.files] == [("a.jsonl", 10), ("b.jsonl", 10), ("c.jsonl", 0)]
    assert "WARNING" in next(record.levelname for record in caplog.records if "c.jsonl" in record.getMessage())


def test_mixed_formats_are_read_together(folder: Path) -> None:
    (folder / "c.csv").write_text("prompt,completion\np,c\n")
    (folder / "d.jsonl").write_text('{"instruction": "i", "output": "o"}\n{"text": "t"}\n')
    dataset = read_dataset(folder, {})
    assert len(dataset.train) == 23
    assert dict(dataset.files[3].formats) == {"instruction and output": 1, "text": 1}


def test_bad_rows_end_the_run_unless_they_are_skipped(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "c.jsonl").write_text('{oops\n{"text": "good"}\n{"answer": 1}\n')
    with pytest.raises(DatasetError, match=r"2 rows cannot be learnt from: c.jsonl line 1 is not JSON.*c.jsonl line 3"):
        read_dataset(folder, {})
    dataset = read_dataset(folder, {"on_bad_rows": "skip"})
    assert len(dataset.train) == 21
    assert [str(row.place) for row in dataset.files[2].bad_rows] == ["c.jsonl line 1", "c.jsonl line 3"]
    assert "skipped a row: c.jsonl line 3 has the fields answer" in caplog.text


def test_a_dataset_of_nothing_but_bad_rows_is_refused_also_where_they_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("[]\n[]\n")
    with pytest.raises(DatasetError, match="no rows to learn from") as caught:
        read_dataset(tmp_path, {"on_bad_rows": "skip"})
    assert "all 2 rows were skipped" in caught.value.hint
