"""`oci://registry/repository:tag`: a dataset that lies in an image, under /data. No daemon is needed.

Source: opencontainers/distribution-spec v1.1 (pull), image-spec v1.1 (layers, whiteouts).
"""

import base64
import json
import re
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlencode

from data_downloader.archives import open_tar
from data_downloader.sources import Source
from data_downloader.web import Web
from tuning.docker_config import Credentials, find_credentials
from tuning.errors import AccessDenied, ConfigurationError, DatasetError
from tuning.image_reference import DOCKER_HUB, ImageReference, parse_image_reference

_INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')
_DATA = "data"
_WHITEOUT = ".wh."
# A token is fetched anew when four fifths of its life are over; without a word it lives a minute (token.md).
_SHORTEST_TOKEN_SECONDS = 60


def resolve_image(source: Source, web: Web, docker_config: Path) -> list[tuple[Source, str]]:
    """The layers of the image, lowest first, each with the URL of its blob; the client may fetch them from then on.

    Raises ConfigurationError for a malformed reference, AccessDenied or InputNotFound where the registry refuses.
    """
    try:
        reference = parse_image_reference(source.url.removeprefix("oci://"))
    except ValueError as error:
        raise ConfigurationError(f"{source.shown} names no image: {error}") from error
    host = "registry-1.docker.io" if reference.registry == DOCKER_HUB else reference.registry
    scheme = "http" if re.match(r"(localhost|127\.|\[::1\])", host) else "https"
    base = f"{scheme}://{host}/v2/{reference.repository}/"
    known = find_credentials(docker_config, reference.registry, reference.repository)
    _log_in(source, web, base, known[0] if known else Credentials())
    manifest = _manifest(source, web, base, reference.digest or reference.tag or "latest")
    if "manifests" in manifest:
        manifest = _manifest(source, web, base, _choose(manifest["manifests"], reference))
    layers = [layer for layer in manifest.get("layers", []) if "tar" in layer["mediaType"]]
    if not layers:
        raise DatasetError(f"{source.shown} is an image without layers", hint="build it with the dataset in /data")
    return [_layer(source, base, layer) for layer in layers]


def extract_data(source: Source, layers: Sequence[tuple[Path, str]], target: Path) -> list[Path]:
    """Lay the `/data` of the layers (file and media type, lowest first) over one another in `target`.

    Returns the files there, sorted; only regular files are taken. Raises DatasetError for a damaged layer, a member
    that would leave the folder, or an image without /data.
    """
    target.mkdir(parents=True, exist_ok=True)
    for path, media_type in layers:
        name = "layer.tar" + (".zst" if media_type.endswith("zstd") else ".gz" if media_type.endswith("gzip") else "")
        try:
            with open_tar(path, name) as archive:
                for member in archive:
                    _lay(source, archive, member, target)
        except (tarfile.TarError, EOFError, OSError) as error:
            raise DatasetError(f"{source.shown} has a damaged layer: {error}", hint="push the image again") from error
    files = sorted(path for path in target.rglob("*") if path.is_file())
    if not files:
        raise DatasetError(f"{source.shown} has nothing in /{_DATA}", hint="build it with the dataset in /data")
    return files


def _lay(source: Source, archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    parts = PurePosixPath(member.name.lstrip("/")).parts
    parts = tuple(part for part in parts if part != ".")
    if ".." in parts:
        raise DatasetError(f"{source.shown} holds {member.name!r}, which would leave the data folder")
    if len(parts) < 2 or parts[0] != _DATA:
        return
    path = target.joinpath(*parts[1:])
    if path.name.startswith(_WHITEOUT):
        hidden = path.with_name(path.name.removeprefix(_WHITEOUT))
        for lower in [hidden, *hidden.rglob("*")] if hidden.exists() else []:
            if lower.is_file():
                lower.unlink()
    elif member.isreg() and (stream := archive.extractfile(member)):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as copy:
            while block := stream.read(1 << 20):
                copy.write(block)


def _manifest(source: Source, web: Web, base: str, name: str) -> Mapping[str, Any]:
    accept = {"Accept": ", ".join(_INDEX_TYPES + _MANIFEST_TYPES)}
    manifest: Mapping[str, Any] = web.get_json(source, f"{base}manifests/{name}", accept)
    return manifest


def _choose(entries: Sequence[Mapping[str, Any]], reference: ImageReference) -> str:
    """The manifest for linux/amd64, or the first: data is the same for every processor."""
    real = [entry for entry in entries if entry.get("platform", {}).get("os") != "unknown"]
    if not real:
        raise DatasetError(f"{reference} is an index without images")
    best = next((entry for entry in real if entry.get("platform", {}).get("architecture") == "amd64"), real[0])
    return str(best["digest"])


def _layer(source: Source, base: str, layer: Mapping[str, Any]) -> tuple[Source, str]:
    digest = str(layer["digest"])
    part = replace(
        source,
        url=f"{source.url}@{digest}",
        sha256=digest.removeprefix("sha256:"),
        size_bytes=int(layer["size"]),
        name=str(layer["mediaType"]),
    )
    return part, f"{base}blobs/{digest}"


def _log_in(source: Source, web: Web, base: str, credentials: Credentials) -> None:
    """Ask once without credentials; what the registry answers says how it wants to be asked."""
    with web.get(source, base.partition("/v2/")[0] + "/v2/", {}, accept=(200, 401, 404)) as answer:
        challenge = answer.headers.get("WWW-Authenticate", "") if answer.status == 401 else ""
    scheme, _, rest = challenge.partition(" ")
    basic = "Basic " + base64.b64encode(f"{credentials.username}:{credentials.password}".encode()).decode()
    if scheme.lower() == "basic" and credentials.username:
        web.grant(base, lambda: basic)
    elif scheme.lower() == "bearer":
        fields = dict(_CHALLENGE.findall(rest))
        repository = base.partition("/v2/")[2].rstrip("/")
        query = urlencode({"service": fields.get("service", ""), "scope": f"repository:{repository}:pull"})
        headers = {"Authorization": basic} if credentials.username else {}
        web.grant(base, _token(source, web, f"{fields.get('realm', '')}?{query}", headers))


def _token(source: Source, web: Web, url: str, headers: Mapping[str, str]) -> Callable[[], str]:
    """A function that returns a Bearer header, renewed before it expires."""
    value, until = "", 0.0

    def authorization() -> str:
        nonlocal value, until
        if time.monotonic() > until:
            with web.get(source, url, headers, accept=(200,)) as answer:
                content = json.loads(answer.raw.read(decode_content=True))
            token = content.get("token") or content.get("access_token")
            if not token:
                raise AccessDenied(f"{source.shown}: the registry gave no token")
            seconds = max(_SHORTEST_TOKEN_SECONDS, int(content.get("expires_in") or 0))
            value, until = f"Bearer {token}", time.monotonic() + 0.8 * seconds
        return value

    return authorization
