"""All that can be wrong with a source: the right bytes or the right cause, in bounded time, and no secret told."""

import email.utils
import gzip
import json
import logging
import random
import resource
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

import pytest
from tests.support.apps import command, environment
from tests.support.web import (
    Answer,
    Web,
    chunked,
    content,
    parts,
    ranged,
    redirect,
    reset_at_once,
    resetting,
    stalling,
    trickling,
    without_length,
)

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

ROW = b'{"text": "%06d an ordinary row of an ordinary dataset"}\n'
BODY = b"".join(ROW % number for number in range(20_000))
LARGE = b"".join(ROW % number for number in range(200_000))
OTHER = b'{"text": "another version"}\n' * 30_000
E1, E2 = '"v1"', '"v2"'
SECRET = "s3cret"


@dataclass
class Case:
    """`answers` are given to `path`, `query` is added to its URL; then `files` come, or `cause` is raised."""

    answers: list[Answer] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=lambda: {"train.jsonl": BODY})
    cause: type[Exception] | None = None
    said: str = ""
    path: str = "/data/train.jsonl"
    query: str = ""
    fragment: str = ""
    urls: Callable[[str], str] = lambda url: url
    more: dict[str, list[Answer]] = field(default_factory=dict)
    environ: dict[str, str] = field(default_factory=dict)
    before: Callable[[Path], None] = lambda folder: None
    most_requests: int = 1000


def works(*answers: Answer, **fields: object) -> Case:
    return Case(list(answers), **fields)  # type: ignore[arg-type]


def fails(cause: type[Exception], said: str, *answers: Answer, **fields: object) -> Case:
    return Case(list(answers), {}, cause, said, **fields)  # type: ignore[arg-type]


PAGE = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>please</body></html>"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
XML = b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>'
GZ = gzip.compress(BODY, 1)
METADATA = "http://169.254.169.254/latest/meta-data"


def _soon(handler: object) -> None:
    """503 with a Retry-After date in the near future."""
    date = email.utils.formatdate(time.time() + 1, usegmt=True)
    content(b"", status=503, Retry_After=date)(handler)  # type: ignore[arg-type]


def _stale(folder: Path) -> None:
    (folder / "train.jsonl").write_bytes(b"stale")


CASES: dict[str, Case] = {
    "ok": works(content(BODY)),
    "chunked": works(chunked(BODY)),
    "no_length_whole": works(without_length(BODY)),
    "slow_but_honest": works(trickling(BODY[:58_000], 20_000, 0.3), files={"train.jsonl": BODY[:58_000]}),
    "fragment": works(content(BODY), fragment="#readme"),
    "401": fails(AccessDenied, "answered 401", content(b"", status=401), most_requests=1),
    "403": fails(AccessDenied, "answered 403", content(b"", status=403), most_requests=1),
    "404": fails(InputNotFound, "answered 404", content(b"", status=404), most_requests=1),
    "410": fails(InputNotFound, "answered 410", content(b"", status=410), most_requests=1),
    "400": fails(InputNotFound, "answered 400", content(b"bad", status=400), most_requests=1),
    "204": fails(DatasetError, "answered 204", content(b"", status=204), most_requests=1),
    "206_to_a_plain_get": fails(
        DatasetError, "answered 206", content(BODY, status=206, Content_Range=f"bytes 0-9/{len(BODY)}"), most_requests=1
    ),
    "500_always": fails(TransientError, "answered 500", content(b"", status=500)),
    "500_twice": works(content(b"", status=500), content(b"", status=500), content(BODY)),
    "502_once": works(content(b"", status=502), content(BODY)),
    "503_four_times": works(*[content(b"", status=503)] * 4, content(BODY)),
    "503_retry_after": works(content(b"", status=503, Retry_After="1"), content(BODY)),
    "503_retry_after_date": works(_soon, content(BODY)),
    "429_retry_after": works(content(b"", status=429, Retry_After="1"), content(BODY)),
    "429_retry_after_too_long": fails(
        TransientError, "answered 429", content(b"", status=429, Retry_After="4000"), most_requests=1
    ),
    "408_and_425": works(content(b"", status=408), content(b"", status=425), content(BODY)),
    "the_body_of_an_error_is_quoted": fails(
        InputNotFound, "no such bucket", content(b"sorry: no such bucket", status=404)
    ),
    "length_longer_than_body_once": works(content(BODY, cut_after=100_000), content(BODY)),
    "length_longer_than_body_always": fails(TransientError, "attempts", content(BODY, cut_after=100_000)),
    "chunked_cut_once": works(chunked(BODY, cut=True), content(BODY)),
    "chunked_cut_always": fails(TransientError, "attempts", chunked(BODY, cut=True)),
    "reset_once": works(resetting(BODY, 400_000, times=1, ETag=E1)),
    "reset_always_without_progress": fails(TransientError, "attempts", resetting(BODY, 0, ETag=E1)),
    "reset_every_100kB": works(resetting(BODY, 100_000, ETag=E1)),
    "reset_without_ranges": works(resetting(BODY, 400_000, ranges=False, times=2, ETag=E1)),
    "reset_then_ranges_ignored": works(resetting(BODY, 400_000, times=1, ETag=E1), content(BODY, ETag=E1)),
    "reset_without_an_etag": works(resetting(BODY, 400_000, times=1), content(BODY)),
    "reset_with_a_weak_etag": works(resetting(BODY, 400_000, times=1, ETag='W/"v1"'), content(BODY, ETag='W/"v1"')),
    "reset_before_headers": works(reset_at_once, content(BODY)),
    "reset_before_headers_always": fails(TransientError, "attempts", reset_at_once),
    "stall_in_body_once": works(stalling(BODY, 50_000), content(BODY)),
    "stall_in_body_always": fails(
        TransientError, "attempts", stalling(BODY, 50_000), environ={"DOWNLOAD_ATTEMPTS": "2"}
    ),
    "stall_at_once": fails(TransientError, "attempts", stalling(BODY, 0), environ={"DOWNLOAD_ATTEMPTS": "2"}),
    "no_headers_once": works(stalling(BODY, -1), content(BODY)),
    "no_headers_always": fails(TransientError, "attempts", stalling(BODY, -1), environ={"DOWNLOAD_ATTEMPTS": "2"}),
    "slow_loris": fails(TransientError, "brought", trickling(BODY, 1, 0.2), environ={"DOWNLOAD_ATTEMPTS": "2"}),
    "no_length_cut": fails(DatasetError, "was cut", without_length(BODY[:-20])),
    "no_length_cut_parquet": fails(
        DatasetError, "was cut", without_length(b"PAR1" + bytes(1000)), path="/train.parquet"
    ),
    "no_length_cut_gz": fails(DatasetError, "was cut", without_length(GZ[:-20]), path="/train.jsonl.gz"),
    "no_length_cut_json": fails(DatasetError, "was cut", without_length(b'[{"text": "a"}, {"te'), path="/train.json"),
    "html": fails(DatasetError, "web page with the title 'Sign in'", content(PAGE, Content_Type="text/html")),
    "html_as_octets": fails(DatasetError, "web page", content(PAGE, Content_Type="application/octet-stream")),
    "html_after_a_redirect": fails(DatasetError, "web page", redirect("/login"), more={"/login": [content(PAGE)]}),
    "html_without_doctype": fails(DatasetError, "web page", content(b"\n <html lang=en><body>x</body></html>")),
    "blob_page": fails(DatasetError, "web page", content(PAGE), path="/org/repo/blob/main/train.jsonl"),
    "drive_virus_page": fails(
        DatasetError, "web page", content(PAGE.replace(b"Sign in", b"Google Drive - Virus scan"))
    ),
    "lfs_pointer": fails(DatasetError, "Git LFS pointer", content(LFS)),
    "xml_error_with_200": fails(DatasetError, "AccessDenied", content(XML)),
    "not_json": fails(DatasetError, "is not JSON", content(b"hello, world\n" * 10)),
    "not_parquet": fails(DatasetError, "is not a .parquet", content(BODY), path="/train.parquet"),
    "not_gzip": fails(DatasetError, "is not a .gz", content(BODY), path="/train.jsonl.gz"),
    "not_zip": fails(DatasetError, "is not a .zip", content(BODY), path="/train.zip"),
    "redirect": works(redirect("/real.jsonl"), more={"/real.jsonl": [content(BODY)]}),
    "redirect_301": works(redirect("/real.jsonl", 301), more={"/real.jsonl": [content(BODY)]}),
    "redirect_307": works(redirect("/real.jsonl", 307), more={"/real.jsonl": [content(BODY)]}),
    "redirect_308": works(redirect("/real.jsonl", 308), more={"/real.jsonl": [content(BODY)]}),
    "redirect_relative": works(redirect("real.jsonl"), more={"/data/real.jsonl": [content(BODY)]}),
    "redirect_to_an_opaque_name": works(redirect("/0f3a9b"), more={"/0f3a9b": [content(BODY)]}),
    "redirect_to_a_signed_query": works(redirect(f"/r?sig={SECRET}"), more={"/r": [content(BODY)]}),
    "redirect_to_a_signed_query_that_fails": fails(
        AccessDenied, "answered 403", redirect(f"/r?sig={SECRET}"), more={"/r": [content(b"", status=403)]}
    ),
    "redirect_loop": fails(
        DatasetError, "redirected more than 10 times", redirect("/data/train.jsonl"), most_requests=11
    ),
    "redirect_without_a_location": fails(DatasetError, "answered 302", content(b"", status=302)),
    "redirect_to_file": fails(DatasetError, "redirected to a file: URL", redirect("file:///etc/passwd")),
    "redirect_to_metadata": fails(AccessDenied, "link-local", redirect(METADATA)),
    "metadata": fails(AccessDenied, "link-local", urls=lambda _: METADATA),
    "unspecified_address": fails(AccessDenied, "link-local|0.0.0.0", urls=lambda _: "http://0.0.0.0:1/train.jsonl"),
    "gzip_encoding_not_asked_for": works(content(GZ, Content_Encoding="gzip")),
    "gzip_encoding_cut": fails(TransientError, "gzip encoding is damaged", content(GZ[:-50], Content_Encoding="gzip")),
    "gz_with_gzip_encoding": works(
        content(GZ, Content_Encoding="gzip"), path="/train.jsonl.gz", files={"train.jsonl.gz": GZ}
    ),
    "wrong_content_range": fails(
        DatasetError,
        "wrong Content-Range",
        resetting(BODY, 400_000, times=1, ETag=E1),
        content(BODY, status=206, Content_Range=f"bytes 5-{len(BODY) - 1}/{len(BODY)}", ETag=E1),
    ),
    "etag_changes_if_range_honoured": works(
        resetting(BODY, 400_000, times=1, ETag=E1), content(OTHER, ETag=E2), files={"train.jsonl": OTHER}
    ),
    "etag_changes_if_range_ignored": works(
        resetting(BODY, 400_000, times=1, ETag=E1),
        ranged(OTHER, ETag=E2),
        content(OTHER, ETag=E2),
        files={"train.jsonl": OTHER},
    ),
    "size_changes_between_tries": works(
        resetting(BODY, 400_000, times=1, ETag=E1),
        ranged(OTHER, ETag=E1),
        content(OTHER, ETag=E2),
        files={"train.jsonl": OTHER},
    ),
    "416_after_a_break": works(
        resetting(BODY, 400_000, times=1, ETag=E1),
        content(b"", status=416),
        content(OTHER, ETag=E2),
        files={"train.jsonl": OTHER},
    ),
    "segments": works(parts(LARGE, rate=4e6, ETag=E1), files={"train.jsonl": LARGE}),
    "segments_no_ranges": works(
        parts(LARGE, rate=16e6, ETag=E1, spoil=content(LARGE, ETag=E1)), files={"train.jsonl": LARGE}
    ),
    "segments_403": works(
        parts(LARGE, rate=16e6, ETag=E1, spoil=content(b"", status=403)), files={"train.jsonl": LARGE}
    ),
    "segments_reset": works(parts(LARGE, rate=16e6, ETag=E1, spoil=reset_at_once), files={"train.jsonl": LARGE}),
    "segments_shifted_range": works(
        parts(LARGE, rate=16e6, ETag=E1, spoil=content(LARGE[7:], status=206, Content_Range="bytes 7-9/10", ETag=E1)),
        files={"train.jsonl": LARGE},
    ),
    "segments_429_above_two": works(parts(LARGE, rate=8e6, most=2, ETag=E1), files={"train.jsonl": LARGE}),
    "segments_of_a_newer_version": works(
        parts(LARGE, rate=16e6, ETag=E1, spoil=ranged(OTHER * 3, ETag=E2)), files={"train.jsonl": LARGE}
    ),
    "name_in_disposition": works(
        content(BODY, Content_Disposition='attachment; filename="x.jsonl"'), files={"x.jsonl": BODY}
    ),
    "name_in_disposition_extended": works(
        content(BODY, Content_Disposition="attachment; filename*=UTF-8''%C3%BC.jsonl"), files={"ü.jsonl": BODY}
    ),
    "name_climbs": works(
        content(BODY, Content_Disposition='attachment; filename="../../etc/x.jsonl"'), files={"x.jsonl": BODY}
    ),
    "name_is_absolute": works(
        content(BODY, Content_Disposition='attachment; filename="/etc/x.jsonl"'), files={"x.jsonl": BODY}
    ),
    "same_name_twice": works(
        content(BODY),
        urls=lambda url: f"{url} {url.replace('/data/', '/more/')}",
        more={"/more/train.jsonl": [content(OTHER)]},
        files={"train.jsonl": BODY, "train-2.jsonl": OTHER},
    ),
    "same_url_twice": works(content(BODY), urls=lambda url: f"{url} {url}", most_requests=1),
    "stale_file": works(content(BODY), before=_stale),
    "empty": fails(DatasetError, "is empty", content(b"")),
    "url_ends_with_a_slash": works(content(BODY), path="/data/", files={"data.jsonl": BODY}),
    "query_only_name": works(content(BODY), path="/", query="?file=a.jsonl", files={"a.jsonl": BODY}),
    "path_in_the_query": works(
        content(BODY), path="/get", query=f"?path=a/b/c.txt&sig={SECRET}", files={"c.txt": BODY}
    ),
    "encoded_name": works(content(BODY), path="/a%20b.jsonl", files={"a b.jsonl": BODY}),
    "brackets_and_braces": works(
        content(BODY),
        path="/%5B1-3%5D%7Ba,b%7D.jsonl",
        urls=unquote,
        files={"[1-3]{a,b}.jsonl": BODY},
    ),
    "comma_separated": works(content(BODY), urls=lambda url: f"{url},{url}"),
    "crlf_separated": works(content(BODY), urls=lambda url: f"{url}\r\n{url}\r\n"),
    "no_urls": fails(ConfigurationError, "DATA_URLS is empty", urls=lambda _: " "),
    "user_and_password": works(content(BODY), urls=lambda url: url.replace("://", f"://user:{SECRET}@")),
    "user_and_password_refused": fails(
        AccessDenied,
        "answered 401",
        content(b"", status=401),
        urls=lambda url: url.replace("://", f"://user:{SECRET}@"),
    ),
    "file_url": fails(ConfigurationError, "is not allowed", urls=lambda _: "file:///etc/passwd"),
    "file_url_allowed": works(
        urls=lambda _: f"file://{Path(__file__).parents[2]}/demo/data/chats.jsonl",
        environ={"DATA_ALLOW_FILE": "true"},
        files={"chats.jsonl": (Path(__file__).parents[2] / "demo/data/chats.jsonl").read_bytes()},
    ),
    "unknown_scheme": fails(ConfigurationError, "scheme that is not known", urls=lambda _: "ftp://h/x"),
    "not_a_url": fails(ConfigurationError, "DATA_URLS", urls=lambda _: "train.jsonl"),
    "no_host": fails(ConfigurationError, "names no host", urls=lambda _: "http:///x"),
    "bad_port": fails(ConfigurationError, "is not a URL", urls=lambda _: "http://h:x/y"),
    "refused": fails(TransientError, "attempts", urls=lambda _: "http://127.0.0.1:1/train.jsonl"),
    "no_such_name": fails(TransientError, "attempts", urls=lambda _: "http://no-such-host.invalid/train.jsonl"),
    "ipv6_refused": fails(TransientError, "attempts", urls=lambda _: "http://[::1]:1/train.jsonl"),
    "one_of_three_is_404": fails(
        InputNotFound,
        "/no.jsonl answered 404",
        content(BODY),
        urls=lambda url: f"{url} {url.replace('train', 'no')} {url.replace('train', 'b')}",
        more={"/data/b.jsonl": [content(BODY)]},
    ),
    "signed_url_expires_midway": fails(
        AccessDenied, "answered 403", resetting(BODY, 400_000, times=1, ETag=E1), content(b"expired", status=403)
    ),
    "digest_as_expected": works(
        content(b"x\n"),
        fragment="#sha256=" + "73cb3858a687a8494ca3323053016282f3dad39d42cf62ca4e79dda2aac7d9ac" + "&size=2&name=x.txt",
        files={"x.txt": b"x\n"},
    ),
    "digest_differs": fails(DatasetError, "was expected", content(BODY), fragment="#sha256=" + "0" * 64),
    "size_differs": fails(DatasetError, "5 were expected", content(BODY), fragment="#size=5"),
    "unknown_option": fails(ConfigurationError, "#sha265", content(BODY), fragment="#sha265=" + "0" * 64),
    "promised_digest_differs": fails(
        DatasetError, "the server promised", content(BODY, Repr_Digest="sha-256=:" + "A" * 43 + "=:")
    ),
    "promised_md5_differs": fails(DatasetError, "the server promised", content(BODY, Content_MD5="A" * 22 + "==")),
    "broken_row": fails(DatasetError, "train.jsonl line 3 is not JSON", content(ROW % 1 + ROW % 2 + b"{oops\n")),
    "deadline": fails(
        TransientError, "took longer than 1 s", trickling(BODY, 9000, 0.3), environ={"DOWNLOAD_DEADLINE_SECONDS": "1"}
    ),
}


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuning.retry._backoff", lambda _: 0.02)


def settings(folder: Path, urls: str, **environ: str) -> Settings:
    quick = {"DOWNLOAD_ATTEMPTS": "6", "DOWNLOAD_IDLE_TIMEOUT_SECONDS": "1"}
    return read_settings(Settings, {"DATA_URLS": urls, "DATA_VOLUME_PATH": str(folder), **quick, **environ})


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.timeout(90)
@pytest.mark.parametrize("name", list(CASES))
def test_a_source_is_right_or_refused(name: str, web: Web, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="data_downloader")
    case = CASES[name]
    url = case.urls(web.serve(case.path, *case.answers) + case.query + case.fragment)
    for path, answers in case.more.items():
        web.serve(path, *answers)
    data = tmp_path / "data"
    data.mkdir()
    case.before(data)
    said = ""
    if case.cause is None:
        said = json.dumps(download_dataset(settings(data, url, **case.environ)))
        assert files(data) == case.files
        assert [path.name for path in (data / ".download").iterdir()] == ["manifest"]
        said += (data / ".download" / "manifest").read_text()
    else:
        with pytest.raises(case.cause, match=case.said) as caught:
            download_dataset(settings(data, url, **case.environ))
        said = str(caught.value.args) + caught.value.message + caught.value.hint  # type: ignore[attr-defined]
        assert files(data) == {}
    assert len(web.asked) <= case.most_requests
    assert SECRET not in said + caplog.text


def test_there_is_a_case_for_each_of_the_faults() -> None:
    assert len(CASES) >= 97


def test_segments_are_used_where_the_connection_is_the_limit(web: Web, tmp_path: Path) -> None:
    url = web.serve("/train.jsonl", parts(LARGE, rate=4e6, ETag=E1))
    download_dataset(settings(tmp_path, url))
    assert sum("Range" in asked.headers for asked in web.asked) >= 3


def test_segments_are_not_used_where_the_line_is_fast(web: Web, tmp_path: Path) -> None:
    url = web.serve("/train.jsonl", parts(LARGE[: 4 << 20], ETag=E1))
    download_dataset(settings(tmp_path, url + "#name=x.txt"))
    assert len(web.asked) == 1


def test_a_port_that_opens_later_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket
    import threading

    monkeypatch.setattr("tuning.retry._backoff", lambda _: 0.3)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setattr("tests.support.web.PORT", port)
    web = Web()
    opener = threading.Timer(1.0, web.__enter__)
    web.answers["/x.jsonl"] = [content(BODY)]
    opener.start()
    try:
        download_dataset(settings(tmp_path, f"http://127.0.0.1:{port}/x.jsonl", DOWNLOAD_ATTEMPTS="20"))
    finally:
        opener.join()
        web.__exit__()
    assert files(tmp_path) == {"x.jsonl": BODY}


def test_a_missing_or_read_only_folder_is_named(web: Web, tmp_path: Path) -> None:
    url = web.serve("/x.jsonl", content(BODY))
    with pytest.raises(InputNotFound, match="does not exist"):
        download_dataset(settings(tmp_path / "no", url))
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceExhausted, match="cannot write"):
        download_dataset(settings(tmp_path / "file", url))


def test_a_full_disk_is_known_before_the_first_byte(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = web.serve("/x.jsonl", content(BODY))
    usage = type("Usage", (), {"free": 2 << 20})
    monkeypatch.setattr("data_downloader.dataset.shutil.disk_usage", lambda _: usage)
    web.serve("/y.jsonl", content(LARGE))
    with pytest.raises(ResourceExhausted, match=rf"needs {len(LARGE)} more bytes .* {2 << 20} are free"):
        download_dataset(settings(tmp_path, url.replace("x.jsonl", "y.jsonl")))
    assert files(tmp_path) == {}


def test_a_disk_that_fills_up_midway_leaves_nothing_that_looks_whole(web: Web, tmp_path: Path) -> None:
    url = web.serve("/x.jsonl", content(LARGE))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal

    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(ResourceExhausted, match="cannot write"):
            download_dataset(settings(tmp_path, url))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert files(tmp_path) == {}


def test_an_unbroken_restart_downloads_nothing_again(web: Web, tmp_path: Path) -> None:
    def with_condition(handler: object) -> None:
        known = handler.headers.get("If-None-Match") == E1  # type: ignore[attr-defined]
        (content(b"", status=304) if known else content(BODY, ETag=E1))(handler)  # type: ignore[arg-type]

    url = web.serve("/x.jsonl", with_condition)
    first = download_dataset(settings(tmp_path, url))
    assert download_dataset(settings(tmp_path, url)) == first
    assert len(web.asked) == 2
    (tmp_path / "x.jsonl").write_bytes(BODY[:-1])
    download_dataset(settings(tmp_path, url))
    assert files(tmp_path) == {"x.jsonl": BODY}, "a damaged file is brought again"


def test_a_changed_source_is_brought_again_and_a_dropped_one_is_removed(web: Web, tmp_path: Path) -> None:
    first = web.serve("/x.jsonl", content(BODY, ETag=E1), content(OTHER, ETag=E2))
    second = web.serve("/y.jsonl", content(BODY, ETag=E1))
    download_dataset(settings(tmp_path, f"{first} {second}"))
    download_dataset(settings(tmp_path, first))
    assert files(tmp_path) == {"x.jsonl": OTHER}


def test_what_was_fetched_before_a_failure_is_not_fetched_again(web: Web, tmp_path: Path) -> None:
    good = web.serve("/good.jsonl", ranged(BODY, ETag=E1))
    bad = web.serve("/bad.jsonl", trickling(b"", 1, 0), content(BODY, ETag=E1))
    web.answers["/bad.jsonl"] = [
        lambda handler: (time.sleep(0.5), content(b"", status=404)(handler))[1],  # type: ignore[func-returns-value]
        content(BODY, ETag=E1),
    ]
    with pytest.raises(InputNotFound):
        download_dataset(settings(tmp_path, f"{good} {bad}"))
    web.asked.clear()
    download_dataset(settings(tmp_path, f"{good} {bad}"))
    assert files(tmp_path) == {"good.jsonl": BODY, "bad.jsonl": BODY}
    [again] = [asked for asked in web.asked if asked.path == "/good.jsonl"]
    assert int(again.headers["Range"].removeprefix("bytes=").rstrip("-")) > len(BODY) // 2


def test_a_lock_is_kept_or_the_difference_is_named(web: Web, tmp_path: Path) -> None:
    url = web.serve("/x.jsonl", content(BODY), content(OTHER))
    data, lock = tmp_path / "data", tmp_path / "lock"
    data.mkdir()
    download_dataset(settings(data, url))
    lock.write_bytes((data / ".download" / "manifest").read_bytes())
    for path in (data / "x.jsonl", data / ".download" / "manifest"):
        path.unlink()
    with pytest.raises(DatasetError, match=r"differs from the lock .*: x\.jsonl has changed"):
        download_dataset(settings(data, url, DATA_LOCK=str(lock)))
    assert files(data) == {}
    web.serve("/x.jsonl", content(BODY))
    download_dataset(settings(data, url, DATA_LOCK=str(lock)))
    lock.write_text("{}")
    (data / "x.jsonl").unlink()
    with pytest.raises(ConfigurationError, match="no dataset manifest"):
        download_dataset(settings(data, url, DATA_LOCK=str(lock)))


def test_memory_does_not_grow_with_the_size_of_the_file(web: Web, tmp_path: Path) -> None:
    import tracemalloc

    web.serve("/x.txt", content(LARGE * 4))
    tracemalloc.start()
    try:
        download_dataset(settings(tmp_path, web.serve("/x.txt", parts(LARGE * 4, ETag=E1))))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The server holds the body in this process; what the client adds is a few blocks for each connection.
    assert peak < len(LARGE) * 4 + (48 << 20)


def test_progress_is_said_and_the_end_summed_up(web: Web, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    url = web.serve("/x.jsonl", parts(LARGE, rate=4e6, ETag=E1))
    download_dataset(settings(tmp_path, url, DOWNLOAD_PROGRESS_SECONDS="0.3", DOWNLOAD_CONNECTIONS="1"))
    assert "progress files=0/1" in caplog.text
    assert "% bytes=" in caplog.text
    assert "remaining=" in caplog.text
    assert "looked at file=x.jsonl rows=200000 formats=200000 of text" in caplog.text
    assert f"downloaded files=1 bytes={len(LARGE)}" in caplog.text


def test_a_complete_dataset_outlives_its_signed_url(web: Web, tmp_path: Path) -> None:
    url = web.serve("/x.jsonl", content(BODY, ETag=E1), content(b"expired", status=403))
    first = download_dataset(settings(tmp_path, url))
    assert download_dataset(settings(tmp_path, url)) == first


def test_sigterm_ends_at_once_and_the_next_start_goes_on(web: Web, tmp_path: Path) -> None:
    url = web.serve("/x.jsonl", parts(BODY, rate=0.4e6, ETag=E1))
    data = tmp_path / "data"
    data.mkdir()
    variables = {"DATA_URLS": url, "DATA_VOLUME_PATH": str(data), "DOWNLOAD_CONNECTIONS": "1"}
    with subprocess.Popen(command("data_downloader"), env=environment(tmp_path, variables)) as process:
        time.sleep(1.5)
        process.terminate()
        assert process.wait(timeout=20) == 143
    assert files(data) == {}
    web.asked.clear()
    web.serve("/x.jsonl", parts(BODY, ETag=E1))
    download_dataset(settings(data, url))
    assert files(data) == {"x.jsonl": BODY}
    assert int(web.asked[0].headers["Range"].removeprefix("bytes=").rstrip("-")) >= 65536


@pytest.mark.timeout(300)
def test_killed_at_any_moment_and_restarted_the_files_are_right(web: Web, tmp_path: Path) -> None:
    """50 restarts after a SIGKILL at a random moment: never a wrong, missing or duplicate file."""
    bodies = {
        f"part-{number}.jsonl": LARGE[: (number + 1) * 1_000_000].rpartition(b"\n")[0] + b"\n" for number in range(4)
    }
    urls = [web.serve(f"/{name}", parts(body, rate=12e6, ETag=f'"{name}"')) for name, body in bodies.items()]
    chance = random.Random(7)
    kills = rounds = 0
    while kills < 50:
        rounds += 1
        data = tmp_path / str(rounds)
        data.mkdir()
        variables = {"DATA_URLS": " ".join(urls), "DATA_VOLUME_PATH": str(data)}
        for attempt in range(7):
            # The last one of a round is let live, however slow the machine is.
            patience = chance.uniform(0.15, 1.0) if attempt < 6 else 60
            with subprocess.Popen(
                command("data_downloader"), env=environment(tmp_path, variables), stderr=subprocess.PIPE
            ) as process:
                try:
                    _, log = process.communicate(timeout=patience)
                    assert process.returncode == 0, log
                    break
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.communicate()
                    kills += 1
            visible = files(data)
            assert visible.items() <= bodies.items(), "nothing that is not whole has a name"
        assert files(data) == bodies
        assert [path.name for path in (data / ".download").iterdir()] == ["manifest"]
