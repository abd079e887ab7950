"""The pushed image in the hands of others: a Docker engine, podman, oras."""

import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.adapters import NAMES, make_base_layers, new_results
from tests.support.engine import docker, require_engine
from tests.support.real_registry import RealRegistry, secret

from pusher.delivery import deliver_adapter
from pusher.settings import Settings
from tuning.environment import read_settings


class Pushed:
    """An image that was pushed with its base layer, its results, and a folder with the registry's password."""

    def __init__(self, folder: Path, host: str) -> None:
        self.image = f"{host}/adapters/readers:v1"
        self.results = new_results(folder / "results", 2_000_000)
        (self.results / "training_metrics.jsonl").write_text('{"loss": 1.0}\n')
        self.login = secret(folder / "secret", host, "ci-pass")
        variables = {"RESULTS_PATH": str(self.results), "DOCKER_CONFIG": str(self.login), "OUTPUT_IMAGE": self.image}
        self.digest = deliver_adapter(read_settings(Settings, variables))["image"].rpartition("@")[2]


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pushed]:
    folder = tmp_path_factory.mktemp("readers")
    (folder / "registry").mkdir()
    with pytest.MonkeyPatch.context() as patch, RealRegistry(folder / "registry") as registry:
        patch.setattr("pusher.base.bundled_base.__defaults__", (make_base_layers(folder / "base"),))
        yield Pushed(folder, registry.host)


def require(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed (Debian has it)")


def test_a_docker_engine_pulls_and_runs_it(pushed: Pushed) -> None:
    require_engine()
    docker("--config", str(pushed.login), "pull", "-q", pushed.image)
    assert docker("run", "--rm", pushed.image, "cat", "/data/adapter_config.json") == '{"r": 8}'
    assert pushed.digest in docker("inspect", "--format", "{{.RepoDigests}}", pushed.image)
    docker("rmi", pushed.image)


@pytest.fixture
def short_path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="p-") as folder:
        yield Path(folder)


def test_podman_pulls_it_and_takes_the_adapter_out(pushed: Pushed, short_path: Path) -> None:
    require("podman")
    # A store of its own, at a path of less than 50 characters; vfs needs nothing of the kernel.
    podman = ["podman", "--root", str(short_path / "root"), "--runroot", str(short_path / "run")]
    podman += ["--storage-driver", "vfs"]
    login = ["--tls-verify=false", "--authfile", str(pushed.login / "config.json")]
    subprocess.run([*podman, "pull", "-q", *login, pushed.image], check=True)
    mounted = subprocess.run([*podman, "image", "mount", pushed.image], check=True, capture_output=True, text=True)
    data = Path(mounted.stdout.strip()) / "data"
    assert (data / NAMES[1]).read_bytes() == (pushed.results / NAMES[1]).read_bytes()
    subprocess.run([*podman, "image", "unmount", pushed.image], check=True, capture_output=True)


def test_oras_reads_the_manifest_the_layers_and_what_is_attached(pushed: Pushed, tmp_path: Path) -> None:
    require("oras")
    login = ["--plain-http", "--registry-config", str(pushed.login / "config.json")]

    def oras(*arguments: str) -> bytes:
        return subprocess.run(["oras", *arguments, *login], check=True, capture_output=True).stdout

    index = json.loads(oras("manifest", "fetch", pushed.image))
    assert [entry["platform"]["architecture"] for entry in index["manifests"]] == ["amd64", "arm64"]
    repository = pushed.image.rpartition(":")[0]
    manifest = json.loads(oras("manifest", "fetch", f"{repository}@{index['manifests'][0]['digest']}"))
    # As Kaito's puller does: the layers from the bottom up, of each only /data.
    for layer in manifest["layers"]:
        target = tmp_path / layer["digest"].removeprefix("sha256:")
        oras("blob", "fetch", "--output", str(target), f"{repository}@{layer['digest']}")
        with tarfile.open(target) as archive:
            members = [member for member in archive if member.name.startswith("data/")]
            archive.extractall(tmp_path, members=members, filter="data")
    for name in NAMES:
        assert (tmp_path / "data" / name).read_bytes() == (pushed.results / name).read_bytes()
    found = json.loads(oras("discover", "--output", "json", f"{repository}@{pushed.digest}"))
    assert {entry["artifactType"] for entry in found["manifests"]} == {
        "application/vnd.kaito-tuning.metrics.v1+jsonl",
    }
