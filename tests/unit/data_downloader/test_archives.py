import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from data_downloader import archives
from data_downloader.archives import unpack
from tuning.errors import DatasetError, ResourceExhausted

FILES = {"a.jsonl": b'{"text": "a"}\n', "sub/b.jsonl": b'{"text": "b"}\n' * 1000}


def make_zip(path: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in files.items():
            archive.writestr(name, body)


def make_tar(mode: str) -> Callable[[Path, dict[str, bytes]], None]:
    def make(path: Path, files: dict[str, bytes]) -> None:
        with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
            for name, body in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(body)
                archive.addfile(member, io.BytesIO(body))

    return make


def make_tar_zst(path: Path, files: dict[str, bytes]) -> None:
    from backports import zstd

    plain = path.with_suffix(".plain")
    make_tar("w")(plain, files)
    path.write_bytes(zstd.compress(plain.read_bytes()))


MAKERS = {
    "x.zip": make_zip,
    "x.tar": make_tar("w"),
    "x.tar.gz": make_tar("w:gz"),
    "x.tgz": make_tar("w:gz"),
    "x.tar.zst": make_tar_zst,
}


@pytest.fixture(params=list(MAKERS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_an_archive_is_unpacked(name: str, tmp_path: Path) -> None:
    MAKERS[name](tmp_path / name, FILES)
    found = unpack(tmp_path / name, name, tmp_path / "out")
    assert {str(path.relative_to(tmp_path / "out")): path.read_bytes() for path in found} == FILES


@pytest.mark.parametrize("member", ["../escaped", "/absolute", "sub/../../escaped", "..\\escaped", "C:/escaped"])
def test_no_member_leaves_the_folder(name: str, member: str, tmp_path: Path) -> None:
    MAKERS[name](tmp_path / name, {member: b"x"})
    before = {path.name for path in tmp_path.iterdir()} | {"out"}
    with pytest.raises(DatasetError, match="would leave the data folder"):
        unpack(tmp_path / name, name, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == before


def test_a_link_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(DatasetError, match="no regular file"):
        unpack(tmp_path / "x.tar", "x.tar", tmp_path / "out")


def test_an_archive_that_grows_beyond_measure_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MOST_BYTES", 10_000)
    MAKERS[name](tmp_path / name, FILES)
    with pytest.raises(ResourceExhausted, match="unpacks to more than 10000 bytes"):
        unpack(tmp_path / name, name, tmp_path / "out")


def test_too_many_files_are_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MOST_FILES", 1)
    MAKERS[name](tmp_path / name, FILES)
    with pytest.raises(ResourceExhausted, match="more than 1 files"):
        unpack(tmp_path / name, name, tmp_path / "out")


def test_a_damaged_archive_is_refused(name: str, tmp_path: Path) -> None:
    MAKERS[name](tmp_path / name, {"a": b"0123456789" * 50_000})
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(DatasetError):
        unpack(tmp_path / name, name, tmp_path / "out")


def test_an_empty_archive_and_an_unknown_one_are_refused(tmp_path: Path) -> None:
    make_zip(tmp_path / "x.zip", {})
    with pytest.raises(DatasetError, match="holds no files"):
        unpack(tmp_path / "x.zip", "x.zip", tmp_path / "out")
    (tmp_path / "x.rar").write_bytes(b"Rar!")
    with pytest.raises(DatasetError, match="cannot be unpacked"):
        unpack(tmp_path / "x.rar", "x.rar", tmp_path / "out")
