"""The pusher's sentence: await the outcome, verify the adapter, compose the image, store it."""

import logging
import time
from collections.abc import Mapping
from typing import Any, Protocol

from pusher.blob import Blob
from pusher.credentials import read_credentials
from pusher.image import Image, compose_image
from pusher.layer import adapter_layer
from pusher.layout import LayoutStore
from pusher.registry import RegistryStore
from pusher.settings import Settings
from tuning.destination import LayoutDestination, parse_destination
from tuning.errors import ConfigurationError, InputNotFound, TrainingFailed, TransientError
from tuning.outcome import Completed, Died, Failed, await_outcome, verify_files

logger = logging.getLogger(__name__)


class Store(Protocol):
    """Where an image is put: a registry's repository or an OCI layout."""

    def check(self) -> None:
        """Prove that the store accepts what will be put."""

    def put_blob(self, blob: Blob) -> None:
        """Store one blob."""

    def put_manifest(self, manifest: Blob) -> None:
        """Store one manifest; its blobs are there."""

    def tag(self, manifest: Blob) -> None:
        """Store the manifest or index and let the tag mean it; what it names is there."""


def check_destination(settings: Settings) -> Mapping[str, Any]:
    """Prove that the destination accepts a push; raise its cause where not."""
    if settings.preflight == "skip":
        logger.warning("the destination is not tested: PUSH_PREFLIGHT=skip destination=%s", settings.output_image)
        return {"message": "preflight skipped"}
    _open_store(settings).check()
    logger.info("the destination accepts a push destination=%s", settings.output_image)
    return {"message": f"{settings.output_image} accepts a push"}


def deliver_adapter(settings: Settings) -> Mapping[str, Any]:
    """Wait for the trainer to end, and deliver its adapter; raise TrainingFailed where there is none."""
    store = _open_store(settings)
    if not settings.results.is_dir():
        raise InputNotFound(f"the results folder {settings.results} does not exist", hint="mount the trainer's volume")
    _check_early(store, settings)
    logger.info("waiting for the trainer results=%s", settings.results)
    completed = _await_adapter(settings)
    verify_files(settings.results, completed)
    start = time.monotonic()
    image = compose_image(
        [adapter_layer(settings.results, [file.name for file in completed.files])], _annotations(settings, completed)
    )
    _store(store, image)
    seconds = time.monotonic() - start
    delivered = f"{settings.output_image}@{image.index.digest}"
    logger.info("delivered image=%s bytes=%d seconds=%.1f", delivered, image.size_bytes, seconds)
    return {"message": f"delivered {delivered}", "image": delivered, "sizeBytes": image.size_bytes}


def _open_store(settings: Settings) -> Store:
    try:
        destination = parse_destination(settings.output_image)
    except ValueError as error:
        raise ConfigurationError(f"OUTPUT_IMAGE: {error}") from error
    if isinstance(destination, LayoutDestination):
        return LayoutStore(destination)
    return RegistryStore(
        destination,
        read_credentials(settings.docker_config, destination.registry, destination.repository),
        secret_file=str(settings.docker_config / "config.json"),
        deadline_seconds=settings.deadline_seconds,
    )


def _check_early(store: Store, settings: Settings) -> None:
    """Refuse a destination before the wait and not after it, where no preflight ran, as in a pod that is not ours."""
    if settings.preflight == "skip":
        return
    try:
        store.check()
    except TransientError as error:
        logger.warning("the destination is not reachable yet, the push will try again: %s", error)


def _await_adapter(settings: Settings) -> Completed:
    outcome = await_outcome(
        settings.results,
        settings.run_id,
        poll_seconds=settings.poll_seconds,
        start_timeout_seconds=settings.start_timeout_seconds,
    )
    match outcome:
        case Failed():
            raise TrainingFailed(
                f"nothing to push: the trainer ended with {outcome.exit_code} {outcome.cause}: {outcome.message}",
                hint=outcome.hint,
            )
        case Died():
            raise TrainingFailed(
                f"nothing to push: {outcome.reason}",
                hint="look at the trainer's exit code: 137 is SIGKILL, mostly for too little memory",
            )
        case Completed():
            return outcome


def _store(store: Store, image: Image) -> None:
    # Upwards: no manifest ever names something that is not there, and the tag moves last.
    for blob in image.blobs:
        store.put_blob(blob)
    for manifest in image.manifests:
        store.put_manifest(manifest)
    store.tag(image.index)


def _annotations(settings: Settings, completed: Completed) -> dict[str, str]:
    annotations = {
        "org.opencontainers.image.title": "LoRA adapter",
        "org.opencontainers.image.description": f"{completed.method} adapter of {completed.base_model}",
        "sh.kaito.model.name": settings.preset or completed.base_model,
        "sh.kaito.tuning.base-model": completed.base_model,
        "sh.kaito.tuning.dataset-digest": completed.dataset_digest,
        "sh.kaito.tuning.method": completed.method,
        "sh.kaito.tuning.steps": str(completed.steps),
    }
    return {key: value for key, value in annotations.items() if value}
