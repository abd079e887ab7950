"""Where an image is put: a registry's repository, directly or through a Docker engine, or an OCI layout."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

from pusher.base_image import layers_of
from pusher.blob import Blob
from pusher.credentials import read_credentials
from pusher.layout import LayoutStore
from pusher.referrers import Referrer
from pusher.registry import RegistryStore
from pusher.settings import Settings
from tuning.destination import LayoutDestination, parse_destination
from tuning.docker_config import Credentials
from tuning.errors import ConfigurationError
from tuning.image_reference import ImageReference, parse_image_reference

DOCKER = "docker"


class Store(Protocol):
    """One destination."""

    def check(self) -> None:
        """Prove that the store accepts what will be put."""

    def put_blob(self, blob: Blob) -> None:
        """Store one blob."""

    def put_manifest(self, manifest: Blob) -> None:
        """Store one manifest; its blobs are there."""

    def tag(self, manifest: Blob) -> Blob:
        """Store the manifest or index and let the tag mean it; what it names is there. Returns what the tag means."""

    def attach(self, image: Blob, referrer: Referrer) -> None:
        """Store what is said about `image`, and list it there."""


def open_stores(settings: Settings) -> dict[str, Store]:
    """A store for each destination, by its name. Raises ConfigurationError for none or a malformed one."""
    if not settings.destinations:
        raise ConfigurationError("environment: OUTPUT_IMAGE is not set", hint="say where the adapter image goes")
    return {destination: _open_store(destination, settings) for destination in settings.destinations}


def pull_base(settings: Settings, name: str, platforms: Sequence[str]) -> Mapping[str, tuple[Blob, ...]]:
    """The layers of the image `name`, by architecture, to be copied from its registry."""
    try:
        reference = parse_image_reference(name)
    except ValueError as error:
        raise ConfigurationError(f"BASE_IMAGE: {error}") from error
    store = _open_registry(reference, settings, actions="pull")
    wanted = reference.digest or reference.tag
    return layers_of(str(reference), wanted, platforms, store.fetch_manifest, store.fetch_blob)


def _open_store(name: str, settings: Settings) -> Store:
    try:
        destination = parse_destination(name)
    except ValueError as error:
        raise ConfigurationError(f"OUTPUT_IMAGE: {error}") from error
    if isinstance(destination, LayoutDestination):
        return LayoutStore(destination)
    registry = _open_registry(destination, settings)
    if settings.backend != DOCKER:
        return registry
    # 0.1 s and 10 MB that most pushers do not need.
    from pusher.engine import EngineStore

    return EngineStore(
        destination,
        registry,
        _reader(destination, settings),
        host=settings.docker_host,
        certificates=settings.docker_certificates,
        deadline_seconds=settings.deadline_seconds,
    )


def _open_registry(reference: ImageReference, settings: Settings, actions: str = "pull,push") -> RegistryStore:
    return RegistryStore(
        reference,
        _reader(reference, settings),
        secret=str(settings.docker_config / "config.json"),
        deadline_seconds=settings.deadline_seconds,
        plain_http=settings.plain_http,
        actions=actions,
    )


def _reader(reference: ImageReference, settings: Settings) -> Callable[[], Sequence[Credentials]]:
    return partial(read_credentials, settings.docker_config, reference.registry, reference.repository)
