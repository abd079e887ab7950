"""Image references, parsed strictly: registry/repository:tag@digest, as the distribution project's grammar says.

Short names mean Docker Hub, as everywhere: `alpine` is `docker.io/library/alpine`.
Source: github.com/distribution/reference, the grammar in reference.go.
"""

import re
from dataclasses import dataclass

_PART = r"(?:[A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9-]*[A-Za-z0-9])"
_DOMAIN = re.compile(rf"^(?:{_PART}(?:\.{_PART})*|\[[0-9A-Fa-f:]+\])(?::[0-9]+)?$")
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"^{_COMPONENT}(?:/{_COMPONENT})*$")
_TAG = re.compile(r"^\w[\w.-]{0,127}$", re.ASCII)
_DIGEST = re.compile(r"^[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}$")
_LONGEST_REPOSITORY = 255

DOCKER_HUB = "docker.io"


@dataclass(frozen=True)
class ImageReference:
    """A parsed reference. `tag` and `digest` are empty where none was written."""

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        text = f"{self.registry}/{self.repository}"
        if self.tag:
            text += f":{self.tag}"
        if self.digest:
            text += f"@{self.digest}"
        return text


def parse_image_reference(text: str) -> ImageReference:
    """Parse `text`. Raises ValueError with a sentence that says what is wrong and what to write."""
    rest, separator, digest = text.partition("@")
    if separator and not _DIGEST.match(digest):
        raise ValueError(f"{text!r} has a malformed digest {digest!r}; it looks like sha256:<64 hex digits>")
    head, slash, tail = rest.partition("/")
    is_host = slash and ("." in head or ":" in head or head == "localhost" or head != head.lower())
    registry, path = (head, tail) if is_host else (DOCKER_HUB, rest)
    path, colon, tag = path.partition(":")
    if "://" in text:
        raise ValueError(f"{text!r} must not start with a scheme; write registry/repository:tag")
    if not _DOMAIN.match(registry):
        raise ValueError(f"{text!r} has a malformed registry {registry!r}")
    if registry in {"index.docker.io", "registry-1.docker.io"}:
        registry = DOCKER_HUB
    if colon and not _TAG.match(tag):
        raise ValueError(f"{text!r} has a malformed tag {tag!r}; up to 128 letters, digits, '_', '.', '-'")
    if path != path.lower():
        raise ValueError(f"{text!r}: the repository must be lowercase; write {path.lower()!r}")
    if not _PATH.match(path):
        raise ValueError(f"{text!r} has a malformed repository {path!r}; write registry/repository:tag")
    if registry == DOCKER_HUB and "/" not in path:
        path = f"library/{path}"
    if len(path) > _LONGEST_REPOSITORY:
        raise ValueError(f"{text!r}: the repository has more than {_LONGEST_REPOSITORY} characters")
    return ImageReference(registry, path, tag, digest)
