import pytest

from data_downloader.names import LONGEST_NAME_BYTES, choose_name, disposition_name, tell_apart


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://h/a/train.jsonl", "train.jsonl"),
        ("http://h/train.parquet?download=true", "train.parquet"),
        ("http://h/train.jsonl.gz", "train.jsonl.gz"),
        ("http://h/a%20b.jsonl", "a b.jsonl"),
        ("http://h/..%2F..%2Fetc%2Fpasswd.csv", ".._.._etc_passwd.csv".lstrip(".")),
        ("http://h/", "dataset.jsonl"),
        ("http://h", "dataset.jsonl"),
        ("http://h/.hidden.jsonl", "hidden.jsonl"),
        ("http://h/a%00b%0a.jsonl", "a_b_.jsonl"),
        ("http://h/download", "download.jsonl"),
        ("http://h/get?path=a/b/c.txt&sig=x", "c.txt"),
        ("http://h/?file=x.csv", "x.csv"),
    ],
)
def test_a_name_is_the_decoded_last_segment_made_safe(url: str, name: str) -> None:
    assert choose_name(url, {}, b'{"text": "a"}') == name


@pytest.mark.parametrize(
    ("headers", "head", "name"),
    [
        ({"Content-Disposition": 'attachment; filename="train.csv"'}, b"", "train.csv"),
        ({"Content-Disposition": "attachment; filename=plain.jsonl"}, b"", "plain.jsonl"),
        ({"Content-Disposition": "attachment; filename=\"a.csv\"; filename*=UTF-8''%C3%BC.csv"}, b"", "ü.csv"),
        ({"Content-Disposition": 'attachment; filename="../../etc/x.jsonl"'}, b"", "x.jsonl"),
        ({"Content-Disposition": 'attachment; filename="/abs/x.jsonl"'}, b"", "x.jsonl"),
        ({"Content-Disposition": 'attachment; filename="\\"q\\".jsonl"'}, b"", '"q".jsonl'),
        ({"Content-Disposition": 'attachment; filename="\u00c3\u00bc.jsonl"'}, b"", "ü.jsonl"),
        ({"Content-Disposition": "attachment"}, b"{", "blob.jsonl"),
        ({"Content-Type": "text/csv; charset=utf-8"}, b"a,b", "blob.csv"),
        ({"Content-Type": "application/octet-stream"}, b"PAR1", "blob.parquet"),
        ({"Content-Type": "text/plain"}, b"[1]", "blob.json"),
        ({}, b"xyz", "blob"),
    ],
)
def test_the_servers_name_wins_and_an_extension_is_found(headers: dict[str, str], head: bytes, name: str) -> None:
    assert choose_name("http://h/blob", headers, head) == name


def test_a_broken_extended_name_falls_back_to_the_plain_one() -> None:
    assert disposition_name("attachment; filename*=nocharset''%FF; filename=y.csv") == "y.csv"


def test_a_long_name_is_cut_and_keeps_its_extension() -> None:
    first, second = (choose_name(f"http://h/{'x' * 300}{end}.jsonl.gz", {}, b"") for end in "ab")
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
