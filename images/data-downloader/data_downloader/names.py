"""The name a downloaded file gets: honest, safe, never shared by two sources."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from urllib.parse import parse_qsl, unquote, urlsplit

LONGEST_NAME_BYTES = 200
DATA_EXTENSIONS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".txt")
_PACKED = (".gz", ".zst", ".bz2", ".xz")
_ARCHIVES = (".zip", ".tgz", ".tar", ".tar.gz", ".tar.zst")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f/\\]")
_EXTENDED = re.compile(r"filename\*\s*=\s*([\w-]+)'[^']*'([^;\s]+)", re.IGNORECASE)
_PLAIN = re.compile(r"filename\s*=\s*(?:\"((?:\\.|[^\"\\])*)\"|([^;\s]+))", re.IGNORECASE)
_MEDIA_TYPES = {
    "application/jsonl": ".jsonl",
    "application/x-ndjson": ".jsonl",
    "application/x-jsonlines": ".jsonl",
    "application/json": ".json",
    "text/csv": ".csv",
    "text/tab-separated-values": ".tsv",
    "application/vnd.apache.parquet": ".parquet",
    "application/x-parquet": ".parquet",
    "text/plain": ".txt",
}


def choose_name(url: str, headers: Mapping[str, str], head: bytes) -> str:
    """The name for what `url` brought: the server's, else the URL's, with an extension that loaders know.

    A name without one takes it from the URL, the query, the first bytes or the media type, in this order.
    """
    names = [disposition_name(headers.get("Content-Disposition", "")), _last_segment(urlsplit(url).path)]
    names += [_last_segment(value) for _, value in parse_qsl(urlsplit(url).query)]
    candidates = [name for name in names[:2] if name]
    for name in [*candidates, *names[2:]]:
        if has_data_extension(name):
            return safe_name(name)
    name = candidates[0] if candidates else "dataset"
    media_type = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return safe_name(name + (_sniffed(head) or _MEDIA_TYPES.get(media_type, "")))


def has_data_extension(name: str) -> bool:
    """Whether a loader, or an unpacker, knows what to do with a file of this name."""
    lowered = name.lower()
    for packed in _PACKED:
        lowered = lowered.removesuffix(packed)
    return lowered.endswith(DATA_EXTENSIONS) or name.lower().endswith(_ARCHIVES)


def disposition_name(header: str) -> str:
    """The file name in a Content-Disposition header (RFC 6266; the extended form of RFC 8187 wins), or empty."""
    if match := _EXTENDED.search(header):
        try:
            return _last_segment(unquote(match[2], encoding=match[1], errors="strict"))
        except (LookupError, UnicodeDecodeError):
            pass
    if match := _PLAIN.search(header):
        name = re.sub(r"\\(.)", r"\1", match[1]) if match[1] is not None else match[2]
        try:
            # http.client reads headers as latin-1; servers write UTF-8.
            name = name.encode("latin-1").decode("utf-8")
        except UnicodeError:
            pass
        return _last_segment(name, decode=False)
    return ""


def _last_segment(path: str, *, decode: bool = True) -> str:
    segment = re.split(r"[/\\]", path.rstrip("/"))[-1]
    return unquote(segment) if decode else segment


def _sniffed(head: bytes) -> str:
    if head.startswith(b"PAR1"):
        return ".parquet"
    if head.startswith(b"PK\x03\x04"):
        return ".zip"
    first_line = head.removeprefix(b"\xef\xbb\xbf").lstrip().partition(b"\n")[0].rstrip()
    if first_line.startswith(b"["):
        return ".json"
    return ".jsonl" if first_line.startswith(b"{") else ""


def safe_name(name: str) -> str:
    """`name` as one path component: no separators, control characters or leading dots, at most 200 bytes."""
    name = _UNSAFE.sub("_", unicodedata.normalize("NFC", name)).lstrip(". ").rstrip() or "dataset"
    if len(name.encode()) > LONGEST_NAME_BYTES:
        suffix = "".join(PurePosixPath(name).suffixes[-2:])[-20:]
        mark = hashlib.sha256(name.encode()).hexdigest()[:8]
        kept = name.encode()[: LONGEST_NAME_BYTES - len(suffix.encode()) - 9].decode(errors="ignore")
        name = f"{kept}-{mark}{suffix}"
    return name


def tell_apart(names: Iterable[str]) -> list[str]:
    """`names` with every repeated one numbered before its extension: a.jsonl, a-2.jsonl, a-3.jsonl."""
    taken: set[str] = set()
    result = []
    for name in names:
        candidate, number = name, 1
        while candidate in taken:
            number += 1
            folder, slash, file = name.rpartition("/")
            stem, dot, extension = file.partition(".")
            candidate = f"{folder}{slash}{stem}-{number}{dot}{extension}"
        taken.add(candidate)
        result.append(candidate)
    return result
