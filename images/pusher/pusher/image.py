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


def compose_image(
    data: Blob, annotations: Mapping[str, str], bases: Mapping[str, Sequence[Blob]] | None = None
) -> Image:
    """An image of the layer `data` for every platform of `bases`, upon its base layers (lowest first); else for all."""
    configs, manifests = [], []
    layers: dict[str, Blob] = {}
    stacks = {platform: (*base, data) for platform, base in (bases or dict.fromkeys(PLATFORMS, ())).items()}
    for platform, stack in stacks.items():
        layers |= {layer.digest: layer for layer in stack}
        config = json_blob(
            CONFIG_TYPE,
            {
                "created": _CREATED,
                "os": "linux",
                "architecture": platform,
                "config": {
                    "Labels": dict(annotations),
                    **({"Env": ["PATH=/bin"], "Cmd": ["sh"]} if len(stack) > 1 else {}),
                },
                "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in stack]},
                "history": [{"created": _CREATED, "created_by": "kaito-tuning pusher"} for _ in stack],
            },
        )
        configs.append(config)
        manifests.append(
            json_blob(
                MANIFEST_TYPE,
                {
                    "schemaVersion": 2,
                    "mediaType": MANIFEST_TYPE,
                    "config": config.descriptor(),
                    "layers": [layer.descriptor() for layer in stack],
                    "annotations": dict(annotations),
                },
            )
        )
    index = json_blob(
        INDEX_TYPE,
        {
            "schemaVersion": 2,
            "mediaType": INDEX_TYPE,
            "manifests": [
                manifest.descriptor(platform={"os": "linux", "architecture": architecture})
                for manifest, architecture in zip(manifests, stacks, strict=True)
            ],
            "annotations": dict(annotations),
        },
    )
    return Image((*layers.values(), *configs), tuple(manifests), index)
