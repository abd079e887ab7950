import hashlib
import json
from pathlib import Path

import pytest
from tests.support.web import Web, content, ranged

from data_downloader.dataset import download_dataset
from data_downloader.settings import Settings
from tuning.environment import read_settings
from tuning.errors import (
    AccessDenied,
    ConfigurationError,
    DatasetError,
    InputNotFound,
    ResourceExhausted,
    TransientError,
)
from tuning.provenance import read_manifest

OTHER = b'{"text": "other"}\n'
BODY = b'{"text": "hello"}\n' * 5000


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuning.retry._backoff", lambda _: 0.0)


def settings(folder: Path, *urls: str, **environ: str) -> Settings:
    return read_settings(Settings, {"DATA_URLS": " ".join(urls), "DATA_VOLUME_PATH": str(folder), **environ})


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_every_url_arrives_whole_with_a_manifest(web: Web, tmp_path: Path) -> None:
    first = web.serve("/a/train.jsonl", content(BODY, ETag='"v1"', Content_Type="application/jsonl"))
    second = web.serve("/b/train.jsonl", content(OTHER))
    said = download_dataset(settings(tmp_path, first + "?sig=s3cret", second))
    assert files(tmp_path) == {"train.jsonl": BODY, "train-2.jsonl": OTHER}
    manifest = read_manifest(tmp_path)
    assert manifest is not None
    assert said["datasetDigest"] == manifest.digest
    record = manifest.files[0]
    assert (record.name, record.size_bytes, record.etag) == ("train.jsonl", len(BODY), '"v1"')
    assert record.sha256 == hashlib.sha256(BODY).hexdigest()
    assert record.url == first + "?…"
    assert "s3cret" not in json.dumps([vars(file) for file in manifest.files])
    assert list((tmp_path / ".download").iterdir()) == [tmp_path / ".download" / "manifest"]


def test_one_url_given_twice_is_fetched_once(web: Web, tmp_path: Path) -> None:
    url = web.serve("/train.jsonl", content(BODY))
    download_dataset(settings(tmp_path, url, url))
    assert list(files(tmp_path)) == ["train.jsonl"]


def test_a_cut_download_goes_on_where_it_stopped(web: Web, tmp_path: Path) -> None:
    url = web.serve("/train.jsonl", content(BODY, cut_after=70_000, ETag='"v1"'), ranged(BODY, ETag='"v1"'))
    download_dataset(settings(tmp_path, url))
    assert files(tmp_path) == {"train.jsonl": BODY}
    assert int(web.asked[1].headers["Range"].removeprefix("bytes=").removesuffix("-")) >= 65536
    assert web.asked[1].headers["If-Range"] == '"v1"'


def test_a_file_that_changed_is_fetched_from_the_start(web: Web, tmp_path: Path) -> None:
    url = web.serve("/t.jsonl", content(BODY, cut_after=70_000, ETag='"v1"'), content(OTHER, ETag='"v2"'))
    download_dataset(settings(tmp_path, url))
    assert files(tmp_path) == {"t.jsonl": OTHER}


def test_without_a_strong_etag_a_cut_download_starts_again(web: Web, tmp_path: Path) -> None:
    url = web.serve("/t.jsonl", content(BODY, cut_after=70_000, ETag='W/"v1"'), content(BODY))
    download_dataset(settings(tmp_path, url))
    assert "Range" not in web.asked[1].headers
    assert files(tmp_path) == {"t.jsonl": BODY}


def test_a_wrong_content_range_is_refused(web: Web, tmp_path: Path) -> None:
    wrong = content(BODY, status=206, Content_Range=f"bytes 0-{len(BODY) - 1}/{len(BODY)}")
    url = web.serve("/t.jsonl", content(BODY, cut_after=70_000, ETag='"v1"'), wrong)
    with pytest.raises(DatasetError, match="wrong Content-Range"):
        download_dataset(settings(tmp_path, url))
    assert files(tmp_path) == {}


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503])
def test_a_busy_server_is_asked_again(web: Web, tmp_path: Path, status: int) -> None:
    url = web.serve("/t.jsonl", content(b"", status=status), content(BODY))
    download_dataset(settings(tmp_path, url))
    assert files(tmp_path) == {"t.jsonl": BODY}


@pytest.mark.parametrize(
    ("status", "cause"), [(401, AccessDenied), (403, AccessDenied), (404, InputNotFound), (410, InputNotFound)]
)
def test_a_refusal_ends_at_once_and_leaves_nothing(
    web: Web, tmp_path: Path, status: int, cause: type[Exception]
) -> None:
    good = web.serve("/good.jsonl", content(BODY))
    bad = web.serve("/t.jsonl", content(b"<html>", status=status))
    with pytest.raises(cause, match=f"/t.jsonl\\?… answered {status}"):
        download_dataset(settings(tmp_path, bad + "?sig=s3cret", good))
    assert [asked.path for asked in web.asked].count("/t.jsonl?sig=s3cret") == 1
    assert files(tmp_path) == {}


def test_a_server_that_always_cuts_ends_as_transient(web: Web, tmp_path: Path) -> None:
    url = web.serve("/t.jsonl", content(BODY, cut_after=10))
    with pytest.raises(TransientError):
        download_dataset(settings(tmp_path, url, DOWNLOAD_ATTEMPTS="3"))
    assert len(web.asked) == 3
    assert files(tmp_path) == {}


def test_an_empty_file_is_refused(web: Web, tmp_path: Path) -> None:
    url = web.serve("/t.jsonl", content(b""))
    with pytest.raises(DatasetError, match="is empty"):
        download_dataset(settings(tmp_path, url))


@pytest.mark.parametrize("url", ["ftp://h/x", "file:///etc/passwd", "train.jsonl", "http:///x", "http://[::1/x"])
def test_what_is_no_http_url_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigurationError, match="DATA_URLS"):
        download_dataset(settings(tmp_path, url))


def test_no_host_there_is_transient(tmp_path: Path) -> None:
    with pytest.raises(TransientError):
        download_dataset(settings(tmp_path, "http://127.0.0.1:1/x", DOWNLOAD_ATTEMPTS="2"))


def test_a_data_folder_that_is_missing_or_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputNotFound, match="does not exist"):
        download_dataset(settings(tmp_path / "no", "http://127.0.0.1:1/x"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceExhausted, match="cannot write"):
        download_dataset(settings(tmp_path / "file", "http://127.0.0.1:1/x"))
