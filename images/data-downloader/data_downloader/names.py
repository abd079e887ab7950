"""The name a downloaded file gets: from its URL, made safe, never shared by two sources."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

LONGEST_NAME_BYTES = 200
_UNSAFE = re.compile(r"[\x00-\x1f\x7f/\\]")


def name_from_url(url: str) -> str:
    """The decoded last segment of the URL's path as one safe path component; `dataset` where there is none."""
    return safe_name(unquote(urlsplit(url).path.rstrip("/").rpartition("/")[2]))


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
            stem, dot, extension = name.partition(".")
            candidate = f"{stem}-{number}{dot}{extension}"
        taken.add(candidate)
        result.append(candidate)
    return result
