"""Compose the adapter image from its layers: config and manifest for each platform, one index over them.

Source: opencontainers/image-spec v1.1 (config.md, manifest.md, image-index.md).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pusher.blob import Blob, json_blob

CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"

PLATFORMS = ("amd64", "arm64")
# A time of the build would change the digest of an equal adapter.
_CREATED = "1970-01-01T00:00:00Z"


@dataclass(frozen=True)
class Image:
    """All that has to be stored, in the order in which a registry accepts it: blobs, manifests, then the index."""

    blobs: tuple[Blob, ...]
    manifests: tuple[Blob, ...]
    index: Blob

    @property
    def size_bytes(self) -> int:
        """The bytes of all blobs."""
        return sum(blob.size_bytes for blob in self.blobs)


def compose_image(layers: Sequence[Blob], annotations: Mapping[str, str]) -> Image:
    """An image of `layers` (uncompressed tar, lowest first) for every platform, over the same layers."""
    configs = [
        json_blob(
            CONFIG_TYPE,
            {
                "created": _CREATED,
                "os": "linux",
                "architecture": architecture,
                "config": {"Labels": dict(annotations)},
                # Of an uncompressed layer the digest is the diff_id.
                "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
                "history": [{"created": _CREATED, "created_by": "kaito-tuning pusher"} for _ in layers],
            },
        )
        for architecture in PLATFORMS
    ]
    manifests = [
        json_blob(
            MANIFEST_TYPE,
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST_TYPE,
                "config": config.descriptor(),
                "layers": [layer.descriptor() for layer in layers],
                "annotations": dict(annotations),
            },
        )
        for config in configs
    ]
    index = json_blob(
        INDEX_TYPE,
        {
            "schemaVersion": 2,
            "mediaType": INDEX_TYPE,
            "manifests": [
                manifest.descriptor(platform={"os": "linux", "architecture": architecture})
                for manifest, architecture in zip(manifests, PLATFORMS, strict=True)
            ],
            "annotations": dict(annotations),
        },
    )
    return Image((*layers, *configs), tuple(manifests), index)
