"""What is said about a pushed image, attached to it: its figures, its labels, and where it comes from.

Sources: opencontainers/image-spec v1.1, manifest.md (subject, artifactType); in-toto Statement v1; SLSA provenance v1.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pusher.blob import Blob, json_blob
from pusher.image import MANIFEST_TYPE

IN_TOTO_TYPE = "application/vnd.in-toto+json"
# Of the files that the trainer leaves: the type that a client asks the registry for.
_FILES = {
    "training_metrics.jsonl": "application/vnd.kaito-tuning.metrics.v1+jsonl",
    "label_report.json": "application/vnd.kaito-tuning.labels.v1+json",
}
_PROVENANCE = "provenance.json"
_BUILD_TYPE = "urn:kaito-tuning:lora:v1"
_BUILDER = "urn:kaito-tuning:trainer"
_EMPTY = json_blob("application/vnd.oci.empty.v1+json", {})


@dataclass(frozen=True)
class Referrer:
    """One artifact about an image: its manifest, what the manifest names, and how an index lists it."""

    blobs: tuple[Blob, ...]
    manifest: Blob
    artifact_type: str

    def descriptor(self) -> dict[str, Any]:
        """The artifact as the list of an image's referrers names it."""
        return self.manifest.descriptor(artifactType=self.artifact_type)


def referrers_of(image: Blob, name: str, results: Path) -> Iterator[Referrer]:
    """The artifacts about `image` (its index), which is called `name`, from the files in `results`."""
    for file, media_type in _FILES.items():
        if (results / file).is_file():
            yield _referrer(image, _content(media_type, (results / file).read_bytes()), media_type, file)
    try:
        origin = json.loads((results / _PROVENANCE).read_bytes())
    except (OSError, ValueError):
        return
    statement = json_blob(IN_TOTO_TYPE, provenance_statement(image, name, origin))
    yield _referrer(image, statement, IN_TOTO_TYPE, "provenance.intoto.json")


def provenance_statement(image: Blob, name: str, origin: Mapping[str, Any]) -> dict[str, Any]:
    """The trainer's `provenance.json` as an in-toto statement with SLSA's predicate."""
    base, dataset = origin.get("base_model", {}), origin.get("dataset", {})
    inputs: list[dict[str, Any]] = [{"name": base.get("name", ""), **_digest(base.get("digest"))}]
    if base.get("revision"):
        inputs[0]["annotations"] = {"revision": base["revision"]}
    inputs += [
        {"name": file["name"], "uri": file["url"], **_digest(f"sha256:{file['sha256']}")}
        for file in dataset.get("files", [])
    ]
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, **_digest(image.digest)}],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": _BUILD_TYPE,
                "externalParameters": origin.get("configuration", {}),
                "internalParameters": {"seeds": origin.get("seeds", {}), "hardware": origin.get("hardware", {})},
                "resolvedDependencies": inputs,
            },
            "runDetails": {"builder": {"id": _BUILDER, "version": origin.get("software", {})}},
        },
    }


def _digest(value: Any) -> dict[str, Any]:
    algorithm, _, content = str(value or "").partition(":")
    return {"digest": {algorithm: content}} if content else {}


def _content(media_type: str, content: bytes) -> Blob:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return Blob(media_type, digest, len(content), lambda: iter([content]))


def _referrer(image: Blob, content: Blob, artifact_type: str, title: str) -> Referrer:
    manifest = json_blob(
        MANIFEST_TYPE,
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "artifactType": artifact_type,
            "config": _EMPTY.descriptor(),
            "layers": [content.descriptor(annotations={"org.opencontainers.image.title": title})],
            "subject": image.descriptor(),
        },
    )
    return Referrer((_EMPTY, content), manifest, artifact_type)
