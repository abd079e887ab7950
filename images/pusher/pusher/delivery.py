"""The pusher's sentence: await the outcome, verify the adapter, compose the image, store it wherever it goes."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from pusher.base import find_bases
from pusher.blob import Blob
from pusher.compression import compress
from pusher.image import PLATFORMS, Image, compose_image
from pusher.layer import adapter_layer
from pusher.referrers import referrers_of
from pusher.registry import BlobsGone
from pusher.settings import Settings
from pusher.stores import Store, open_stores, pull_base
from tuning.errors import InputNotFound, TrainingFailed, TransientError, TuningError
from tuning.files import write_json
from tuning.outcome import Completed, Died, Failed, await_outcome, verify_files

RECEIPT = "push_receipt.json"

logger = logging.getLogger(__name__)


def check_destination(settings: Settings) -> Mapping[str, Any]:
    """Prove that every destination accepts a push; raise the causes where not."""
    stores = open_stores(settings)
    if settings.preflight == "skip":
        logger.warning("nothing is tested: PUSH_PREFLIGHT=skip destinations=%s", ", ".join(stores))
        return {"message": "preflight skipped"}
    _each(stores, lambda store, _: store.check())
    accepted = ", ".join(stores)
    logger.info("a push is accepted destinations=%s", accepted)
    return {"message": f"{accepted} accepts a push"}


def deliver_adapter(settings: Settings) -> Mapping[str, Any]:
    """Wait for the trainer to end, and deliver its adapter; raise TrainingFailed where there is none.

    Of several nodes only the first has the adapter; on the others there is nothing to do.

    With several destinations each is tried; where some fail the error tells which, and the receipt which not.
    """
    if settings.node:
        return {"message": f"node 0 delivers the adapter, this is node {settings.node}"}
    stores = open_stores(settings)
    if not settings.results.is_dir():
        raise InputNotFound(f"the results folder {settings.results} does not exist", hint="mount the trainer's volume")
    _check_early(stores, settings)
    logger.info("waiting for the trainer results=%s", settings.results)
    completed = _await_adapter(settings)
    data = compress(_verified_layer(settings, completed), settings.compression)
    bases = find_bases(settings.base_image, PLATFORMS, partial(pull_base, settings))
    image = compose_image(data, _annotations(settings, completed), bases)
    delivered: list[dict[str, Any]] = []

    def deliver(store: Store, destination: str) -> None:
        start = time.monotonic()
        stored = _store(store, image)
        seconds = round(time.monotonic() - start, 1)
        name = f"{destination}@{stored.digest}"
        if settings.referrers:
            _attach(store, stored, name, settings)
        logger.info("delivered image=%s bytes=%d seconds=%.1f", name, image.size_bytes, seconds)
        delivered.append({"image": name, "sizeBytes": image.size_bytes, "seconds": seconds})
        _write_receipt(settings, delivered)

    _each(stores, deliver)
    names = ", ".join(entry["image"] for entry in delivered)
    return {"message": f"delivered {names}", **delivered[0], **({"images": delivered} if len(delivered) > 1 else {})}


def _each(stores: Mapping[str, Store], action: Callable[[Store, str], None]) -> None:
    """Do `action` with each store. Where it fails for some, raise the first cause with all of their sentences."""
    failures: dict[str, TuningError] = {}
    for destination, store in stores.items():
        try:
            action(store, destination)
        except TuningError as error:
            failures[destination] = error
            if len(stores) > 1:
                logger.warning("failed destination=%s reason=%s", destination, error)
    if not failures:
        return
    first = next(iter(failures.values()))
    if len(stores) == 1:
        raise first
    done = [destination for destination in stores if destination not in failures]
    sentences = "; ".join(f"{destination}: {error.message}" for destination, error in failures.items())
    raise type(first)(
        f"{len(failures)} of {len(stores)} destinations failed: {sentences} (done: {', '.join(done) or 'none'})",
        hint=first.hint,
    )


def _check_early(stores: Mapping[str, Store], settings: Settings) -> None:
    """Refuse a destination before the wait and not after it, where no preflight ran, as in a pod that is not ours."""
    if settings.preflight == "skip":
        return
    try:
        _each(stores, lambda store, _: store.check())
    except TransientError as error:
        logger.warning("a destination is not reachable yet, the push will try again: %s", error)


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


def _verified_layer(settings: Settings, completed: Completed) -> Blob:
    """The layer of the files that the trainer announced; both passes over them at once, for the hash bounds each."""
    with ThreadPoolExecutor(1) as thread:
        verified = thread.submit(verify_files, settings.results, completed)
        try:
            return adapter_layer(settings.results, [file.name for file in completed.files])
        finally:
            # Also where the layer cannot be made: a file that is missing has its sentence there.
            verified.result()


def _store(store: Store, image: Image) -> Blob:
    # Upwards: no manifest ever names something that is not there, and the tag moves last.
    attempt = 1
    while True:
        for blob in image.blobs:
            store.put_blob(blob)
        try:
            for manifest in image.manifests:
                store.put_manifest(manifest)
            return store.tag(image.index)
        except BlobsGone as error:
            # A registry may collect blobs that no manifest names yet.
            if attempt == 2:
                raise TransientError(str(error), hint="see the registry's garbage collection") from error
            attempt += 1
            logger.warning("%s; sending the blobs again", error)


def _attach(store: Store, image: Blob, name: str, settings: Settings) -> None:
    """Attach what is said about the image. The adapter has arrived: nothing here fails its delivery."""
    try:
        for referrer in referrers_of(image, name, settings.results):
            store.attach(image, referrer)
    except TuningError as error:
        logger.warning("not all referrers were attached image=%s reason=%s", name, error)


def _write_receipt(settings: Settings, delivered: Sequence[Mapping[str, Any]]) -> None:
    try:
        write_json(settings.results / RECEIPT, {"delivered": list(delivered)})
    except OSError as error:
        # The results may be mounted for reading only.
        logger.warning("receipt not written results=%s reason=%s", settings.results, error.strerror)


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
