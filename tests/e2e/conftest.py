"""The images, built once, and what they meet: a registry behind TLS and a password, a private authority."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.engine import docker, require_engine
from tests.support.real_registry import RealRegistry

HERE = Path(__file__).parent
REGISTRY, TAG = "e2e", "local"


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Build the images from their Dockerfiles."""
    require_engine()
    folder = os.environ.get("E2E_FOLDER") or tmp_path_factory.mktemp("images")
    environ = {**os.environ, "REGISTRY": REGISTRY, "TAG": TAG}
    done = subprocess.run(
        [str(HERE / "bake"), str(folder), sys.executable], env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [f"{REGISTRY}/{name}:{TAG}" for name in ("data-downloader", "trainer", "pusher", "controller")]


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A private authority's certificate for this machine's name, and its key."""
    folder = tmp_path_factory.mktemp("authority")
    certificate, key = folder / "ca.crt", folder / "key.pem"
    line = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=registry", "-addext", f"subjectAltName=DNS:{os.uname().nodename}"]
    subprocess.run([*line, "-keyout", key, "-out", certificate, *names], check=True, capture_output=True)
    return certificate, key


@pytest.fixture
def private_registry(tmp_path: Path, authority: tuple[Path, Path]) -> Iterator[RealRegistry]:
    """A registry with a password, behind a certificate of the private authority."""
    (tmp_path / "registry").mkdir()
    with RealRegistry(tmp_path / "registry", tls=authority, address=os.uname().nodename) as registry:
        yield registry


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """No container of ours outlives its test."""
    yield
    left = docker("ps", "--all", "--quiet", "--filter", "name=^e2e-").split()
    if left:
        docker("rm", "--force", *left)
