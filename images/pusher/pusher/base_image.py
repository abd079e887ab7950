"""An image of the user's as what the adapter stands on: its layers are mounted, or copied from its registry."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pusher.blob import Blob
from pusher.image import CONFIG_TYPE, INDEX_TYPE, MANIFEST_TYPE
from tuning.errors import ConfigurationError, InputNotFound

_DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
_DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
ACCEPTED = (INDEX_TYPE, _DOCKER_LIST, MANIFEST_TYPE, _DOCKER_MANIFEST)
# Docker's names of what OCI calls so; the bytes are the same.
_LAYER_TYPES = {
    "application/vnd.docker.image.rootfs.diff.tar": "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
}

# Gets a manifest or a blob of the base's repository.
FetchManifest = Callable[[str], bytes]
FetchBlob = Callable[[str], Iterator[bytes]]


def layers_of(
    name: str, tag: str, platforms: Sequence[str], fetch_manifest: FetchManifest, fetch_blob: FetchBlob
) -> Mapping[str, tuple[Blob, ...]]:
    """The layers of the image `name`, lowest first, for each of `platforms` that it has.

    Raises InputNotFound where it has none of them, ConfigurationError where it is no image.
    """
    top = json.loads(fetch_manifest(tag))
    if "manifests" in top:
        found = {
            entry["platform"]["architecture"]: json.loads(fetch_manifest(entry["digest"]))
            for entry in top["manifests"]
            if entry.get("platform", {}).get("os") == "linux" and entry["platform"].get("architecture") in platforms
        }
    else:
        config = _config(name, top, fetch_blob)
        found = {config.get("architecture", ""): top}
    layers = {
        platform: _layers(name, manifest, fetch_blob) for platform, manifest in found.items() if platform in platforms
    }
    if not layers:
        raise InputNotFound(
            f"the base image {name} is for none of {', '.join(platforms)}", hint="choose another BASE_IMAGE"
        )
    return layers


def _layers(name: str, manifest: Mapping[str, Any], fetch_blob: FetchBlob) -> tuple[Blob, ...]:
    diff_ids = _config(name, manifest, fetch_blob)["rootfs"]["diff_ids"]
    return tuple(
        Blob(
            _LAYER_TYPES.get(layer["mediaType"], layer["mediaType"]),
            layer["digest"],
            layer["size"],
            _reader(fetch_blob, layer["digest"]),
            diff_id=diff_id,
            origin=name,
        )
        for layer, diff_id in zip(manifest["layers"], diff_ids, strict=True)
    )


def _reader(fetch_blob: FetchBlob, digest: str) -> Callable[[], Iterator[bytes]]:
    return lambda: fetch_blob(digest)


def _config(name: str, manifest: Mapping[str, Any], fetch_blob: FetchBlob) -> dict[str, Any]:
    media_type = manifest.get("config", {}).get("mediaType", "")
    if media_type not in (CONFIG_TYPE, "application/vnd.docker.container.image.v1+json"):
        raise ConfigurationError(f"the base image {name} is no container image: its config is {media_type or 'absent'}")
    content: dict[str, Any] = json.loads(b"".join(fetch_blob(manifest["config"]["digest"])))
    return content
