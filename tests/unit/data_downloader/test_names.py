import pytest

from data_downloader.names import LONGEST_NAME_BYTES, name_from_url, tell_apart


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://h/a/train.jsonl", "train.jsonl"),
        ("http://h/train.parquet?download=true", "train.parquet"),
        ("http://h/a%20b.jsonl", "a b.jsonl"),
        ("http://h/a/..%2F..%2Fetc%2Fpasswd", "_.._etc_passwd"),
        ("http://h/", "dataset"),
        ("http://h", "dataset"),
        ("http://h/.hidden.jsonl", "hidden.jsonl"),
        ("http://h/a%00b%0a.jsonl", "a_b_.jsonl"),
        ("http://h/data/", "data"),
    ],
)
def test_a_name_is_the_decoded_last_segment_made_safe(url: str, name: str) -> None:
    assert name_from_url(url) == name


def test_a_long_name_is_cut_and_keeps_its_extension() -> None:
    first, second = (name_from_url(f"http://h/{'x' * 300}{end}.jsonl.gz") for end in "ab")
    assert first.endswith(".jsonl.gz")
    assert len(first.encode()) <= LONGEST_NAME_BYTES
    assert first != second


def test_equal_names_are_told_apart_in_order() -> None:
    assert tell_apart(["a.jsonl", "b", "a.jsonl", "a-2.jsonl", "b"]) == [
        "a.jsonl",
        "b",
        "a-2.jsonl",
        "a-2-2.jsonl",
        "b-2",
    ]
