"""Is this the dataset, and all of it? What the first and the last bytes, and the server's own digests, tell."""

import base64
import binascii
import hashlib
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from tuning.errors import DatasetError

HEAD_BYTES = 4096
_BLOCK_BYTES = 1 << 20
_TAIL_BYTES = 1 << 20

_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
_MAGIC = {
    ".parquet": (b"PAR1",),
    ".gz": (b"\x1f\x8b",),
    ".tgz": (b"\x1f\x8b",),
    ".zip": (b"PK\x03\x04", b"PK\x05\x06"),
    ".zst": (b"\x28\xb5\x2f\xfd",),
    ".arrow": (b"ARROW1", b"\xff\xff\xff\xff"),
}
_JSON = (".json", ".jsonl", ".ndjson")


def refuse_page(head: bytes, shown: str, url: str) -> None:
    """Raise DatasetError where the first bytes are a web page, a pointer or an error message instead of data."""
    text = head.decode(errors="replace").lstrip("\ufeff \t\r\n")
    lowered = text[:512].lower()
    if lowered.startswith(("<!doctype html", "<html", "<head", "<script")) or "<html" in lowered:
        title = _TITLE.search(text)
        found = f" with the title {' '.join(title[1].split())[:100]!r}" if title else ""
        raise DatasetError(f"{shown} is a web page{found}, not a dataset", hint=_page_hint(url))
    if lowered.startswith("version https://git-lfs"):
        raise DatasetError(
            f"{shown} is a Git LFS pointer, not the file it stands for",
            hint="use the URL of the file itself: /resolve/ on a hub, media.githubusercontent.com/media/ for GitHub",
        )
    if lowered.startswith("<?xml") and "<error" in lowered:
        code = re.search(r"<code>(.*?)</code>", text, re.IGNORECASE)
        said = f" {code[1]}" if code else ""
        raise DatasetError(
            f"{shown} is an error message of the storage:{said or ' XML'}", hint="check the URL and its signature"
        )


def _page_hint(url: str) -> str:
    if "/blob/" in url:
        return "a blob page shows a file: use its raw URL (raw.githubusercontent.com, or /resolve/ instead of /blob/)"
    if "drive.google." in url or "docs.google." in url:
        return "Google Drive asks for a confirmation: share the file otherwise, or use its direct download URL"
    if "sharepoint." in url or "1drv." in url or "onedrive." in url:
        return "SharePoint wants a login: use a direct download link (download=1)"
    if "dropbox." in url:
        return "use dl=1 at the end of a Dropbox link"
    return "it may ask for a login, or the session has expired: use a URL that needs no browser"


def refuse_magic(head: bytes, name: str) -> None:
    """Raise DatasetError where the first bytes contradict the name's extension."""
    extension = Path(name).suffix.lower()
    expected = _MAGIC.get(extension)
    if expected and not head.startswith(expected):
        raise DatasetError(f"{name} is not a {extension} file: it begins with {head[:8]!r}", hint="check the URL")
    if extension in _JSON and head.startswith(b"\x1f\x8b"):
        return  # compressed, and read so by its content
    if extension in _JSON and (first := head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]) and first not in b'{["':
        raise DatasetError(f"{name} is not JSON: it begins with {head[:20]!r}", hint="check the URL")


def refuse_cut(path: Path, name: str, shown: str) -> bool:
    """For a body whose length nobody told: raise DatasetError where its end shows that some is missing.

    True where the end proves the file whole; False where nothing can be told from it.
    """
    extension = Path(name).suffix.lower()
    size = path.stat().st_size
    with path.open("rb") as stream:
        stream.seek(max(0, size - _TAIL_BYTES))
        tail = stream.read()
    whole: bool | None = None
    if extension in {".jsonl", ".ndjson"}:
        whole = _is_json(tail.rstrip().rpartition(b"\n")[2])
    elif extension == ".json":
        whole = tail.rstrip()[-1:] in {b"]", b"}"}
    elif extension == ".parquet":
        whole = tail.endswith(b"PAR1")
    elif extension in {".gz", ".tgz"}:
        whole = _gunzips(path)
    elif extension == ".zip":
        whole = b"PK\x05\x06" in tail
    if whole is False:
        raise DatasetError(f"{shown} was cut: {name} ends in the middle", hint="the server closed the connection early")
    return bool(whole)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _gunzips(path: Path) -> bool:
    try:
        for _ in gunzip_blocks(path):
            pass
    except zlib.error:
        return False
    return True


def gunzip_blocks(path: Path) -> Iterator[bytes]:
    """The decompressed content of a gzip file, member by member. Raises zlib.error where it is damaged or cut."""
    decoder = zlib.decompressobj(wbits=31)
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            while block:
                if decoder.eof:
                    decoder = zlib.decompressobj(wbits=31)
                yield decoder.decompress(block)
                block = decoder.unused_data
    if not decoder.eof:
        raise zlib.error("the end is missing")


def promised_digests(headers: Mapping[str, str], linked: Mapping[str, str]) -> dict[str, str]:
    """The digests (algorithm → hex) that a server's headers promise for the body.

    Sources: RFC 9530 (Repr-Digest), RFC 3230 (Digest), RFC 1864 (Content-MD5), the storage services' x-amz-checksum and
    x-goog-hash, and the hub's X-Linked-Etag on the redirect to its storage.
    """
    found: dict[str, str] = {}
    for name in ("Repr-Digest", "Digest"):
        if match := re.search(r"sha-256\s*=\s*:?([A-Za-z0-9+/=]+)", headers.get(name, ""), re.IGNORECASE):
            _keep(found, "sha256", match[1])
    _keep(found, "sha256", headers.get("x-amz-checksum-sha256", ""))
    _keep(found, "md5", headers.get("Content-MD5", ""))
    if match := re.search(r"md5=([A-Za-z0-9+/=]+)", headers.get("x-goog-hash", "")):
        _keep(found, "md5", match[1])
    etag = linked.get("X-Linked-Etag", "").strip('"')
    if re.fullmatch(r"[0-9a-f]{64}", etag):
        found["sha256"] = etag
    return found


def _keep(found: dict[str, str], algorithm: str, encoded: str) -> None:
    try:
        digest = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        return
    if len(digest) == hashlib.new(algorithm, usedforsecurity=False).digest_size:
        found.setdefault(algorithm, digest.hex())


def digest_of(path: Path, algorithm: str) -> str:
    """The digest of a file's content, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
