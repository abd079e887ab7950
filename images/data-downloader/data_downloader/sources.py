"""What a user writes in DATA_URLS: a URL, and behind `#` what is expected of it and never sent."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import SplitResult, unquote, urlsplit

from tuning.errors import Problem, refuse
from tuning.redaction import printable_url
from tuning.suggestion import did_you_mean

SCHEMES = ("http", "https", "hf", "oci", "s3", "gs", "az", "file")
_OPTIONS = ("sha256", "size", "name", "unpack")
_SHA256 = re.compile(r"^[0-9a-f]{64}$")


@dataclass(frozen=True)
class Source:
    """One thing to fetch. `url` has neither fragment nor password; `login` is what stood before its `@`."""

    url: str
    login: tuple[str, str] | None = field(default=None, repr=False)
    sha256: str = ""
    size_bytes: int | None = None
    name: str = ""
    unpack: bool = False

    @cached_property
    def scheme(self) -> str:
        """http, https, hf, …"""
        return urlsplit(self.url).scheme

    @cached_property
    def shown(self) -> str:
        """The form that may be printed."""
        return printable_url(self.url)

    @cached_property
    def key(self) -> str:
        """A file name that stands for this source on the volume, over restarts."""
        return hashlib.sha256(self.url.encode()).hexdigest()[:24]


def parse_sources(urls: Iterable[str]) -> list[Source]:
    """Parse every URL, each of them once. Raises ConfigurationError with the problems of all."""
    problems: list[Problem] = []
    sources = [source for url in urls if (source := _parse(url, problems))]
    refuse(problems, source="DATA_URLS")
    return list({source.key: source for source in reversed(sources)}.values())[::-1]


def _parse(url: str, problems: list[Problem]) -> Source | None:
    shown = printable_url(url)
    try:
        parts = urlsplit(url)
        well_formed = bool(parts.hostname) or parts.scheme == "file"
        _ = parts.port
    except ValueError:
        problems.append(Problem(shown, "is not a URL", "write https://host/path"))
        return None
    if parts.scheme not in SCHEMES:
        hint = f"use one of {', '.join(f'{scheme}://' for scheme in SCHEMES)}"
        problems.append(Problem(shown, "has a scheme that is not known", hint))
        return None
    if not well_formed:
        problems.append(Problem(shown, "names no host", "write https://host/path"))
        return None
    options = _parse_options(parts.fragment, shown, problems)
    login = None
    if "@" in parts.netloc and parts.scheme in {"http", "https"}:
        login = (unquote(parts.username or ""), unquote(parts.password or ""))
    size = options.get("size")
    return Source(
        url=_bare(parts),
        login=login,
        sha256=options.get("sha256", ""),
        size_bytes=int(size) if size else None,
        name=options.get("name", ""),
        unpack="unpack" in options,
    )


def _bare(parts: SplitResult) -> str:
    netloc = parts.netloc.rpartition("@")[2] if parts.scheme in {"http", "https"} else parts.netloc
    return parts._replace(netloc=netloc, fragment="").geturl()


def _parse_options(fragment: str, shown: str, problems: list[Problem]) -> dict[str, str]:
    options: dict[str, str] = {}
    for option in filter(None, fragment.split("&")):
        key, given, value = option.partition("=")
        value = unquote(value)
        if key not in _OPTIONS:
            # An ordinary page anchor is no mistake; what looks like an option is.
            if given or did_you_mean(key, ["unpack"]):
                hint = did_you_mean(key, _OPTIONS) or f"the options are {', '.join(_OPTIONS)}"
                problems.append(Problem(shown, f"has the unknown option #{key}", hint))
        elif key == "sha256" and not _SHA256.match(value := value.lower().removeprefix("sha256:")):
            problems.append(Problem(shown, "has a #sha256= that is no digest", "it has 64 hex digits"))
        elif key == "size" and not value.isdecimal():
            problems.append(Problem(shown, f"has the size {value!r}", "it is a number of bytes"))
        else:
            options[key] = value
    return options
