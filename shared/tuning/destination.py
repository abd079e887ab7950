"""Where the adapter image goes: a repository of a registry, or an OCI layout on a volume."""

from dataclasses import dataclass
from pathlib import Path

from tuning.image_reference import ImageReference, parse_image_reference

LAYOUT_SCHEME = "oci:"


@dataclass(frozen=True)
class LayoutDestination:
    """A tag in an OCI image layout: the folder that holds it, and the tag."""

    folder: Path
    tag: str

    def __str__(self) -> str:
        return f"{LAYOUT_SCHEME}{self.folder}:{self.tag}"


def parse_destination(text: str) -> ImageReference | LayoutDestination:
    """Parse `registry/repository:tag` or `oci:DIRECTORY:TAG`.

    Raises ValueError with a sentence that says what is wrong. An image without a tag gets `latest`; a digest is
    refused, for it is known only after the push.
    """
    if text.startswith(LAYOUT_SCHEME):
        folder, _, tag = text.removeprefix(LAYOUT_SCHEME).rpartition(":")
        if not folder or not tag or "/" in tag:
            raise ValueError(f"{text!r} must look like {LAYOUT_SCHEME}DIRECTORY:TAG")
        return LayoutDestination(Path(folder), tag)
    reference = parse_image_reference(text)
    if reference.digest:
        raise ValueError(f"{text!r} must not name a digest: it is known only after the push")
    return ImageReference(reference.registry, reference.repository, reference.tag or "latest")
