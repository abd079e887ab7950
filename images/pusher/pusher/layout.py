"""Store an image in an OCI layout: a folder that skopeo, podman and the rest read as `oci:DIRECTORY:TAG`.

Source: opencontainers/image-spec v1.1, image-layout.md.
"""

import json
import tempfile
from collections.abc import Callable
from typing import Any

from pusher.blob import Blob
from pusher.referrers import Referrer
from tuning.destination import LayoutDestination
from tuning.errors import ResourceExhausted
from tuning.files import whole_file, write_json

_REFERENCE_NAME = "org.opencontainers.image.ref.name"


class LayoutStore:
    """The layout at a destination; made when the first thing is stored."""

    def __init__(self, destination: LayoutDestination) -> None:
        self._folder = destination.folder
        self._blobs = destination.folder / "blobs" / "sha256"
        self._tag = destination.tag

    def check(self) -> None:
        """Prove that the folder can be written, without leaving anything. Raises ResourceExhausted where not."""
        existing = next(folder for folder in (self._blobs, *self._blobs.parents) if folder.exists())
        try:
            with tempfile.TemporaryFile(dir=existing):
                pass
        except OSError as error:
            raise self._cause("make an OCI layout", error) from error

    def put_blob(self, blob: Blob) -> None:
        """Store `blob`, whole; one that is there already is left alone."""
        path = self._blobs / blob.digest.removeprefix("sha256:")
        if path.is_file() and path.stat().st_size == blob.size_bytes:
            return
        try:
            self._blobs.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as stream:
                stream.writelines(blob.blocks())
        except OSError as error:
            raise self._cause(f"write a blob of {blob.size_bytes} bytes", error) from error

    def _cause(self, what: str, error: OSError) -> ResourceExhausted:
        hint = "mount a writable volume there, with enough space"
        return ResourceExhausted(f"cannot {what} in {self._folder}: {error.strerror}", hint=hint)

    def put_manifest(self, manifest: Blob) -> None:
        """Store a manifest; in a layout it is a blob like any other."""
        self.put_blob(manifest)

    def tag(self, manifest: Blob) -> Blob:
        """Store `manifest` and let the destination's tag mean it. Other tags of the layout stay."""
        self.put_blob(manifest)
        self._list(
            manifest.descriptor(annotations={_REFERENCE_NAME: self._tag}),
            lambda entry: entry.get("annotations", {}).get(_REFERENCE_NAME) == self._tag,
        )
        return manifest

    def attach(self, image: Blob, referrer: Referrer) -> None:
        """Store `referrer` and list it beside the image, which it names as its subject."""
        for blob in (*referrer.blobs, referrer.manifest):
            self.put_blob(blob)
        entry = referrer.descriptor()
        self._list(entry, lambda other: other["digest"] == entry["digest"])

    def _list(self, entry: dict[str, Any], replaces: Callable[[dict[str, Any]], bool]) -> None:
        """Put `entry` into the layout's index, in the place of those that it replaces."""
        path = self._folder / "index.json"
        index: dict[str, Any] = {"schemaVersion": 2, "manifests": []}
        if path.is_file():
            index = json.loads(path.read_bytes())
        others = [other for other in index["manifests"] if not replaces(other)]
        write_json(self._folder / "oci-layout", {"imageLayoutVersion": "1.0.0"})
        write_json(path, {**index, "manifests": [*others, entry]})
