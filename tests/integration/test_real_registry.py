"""The pusher against a real registry, read back by an independent client."""

import json
import os
import shutil
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.apps import run_app

from tuning.outcome import Completed, announce, describe_files

# bcrypt of ci-pass; a registry accepts nothing else.
HTPASSWD = "ci:$2y$05$H0LT3tPIMXHbXROUYKMAIuOEfWXMJkJ27UpFvVDf6JRSIG5pw8Yim\n"
NAMES = ["adapter_config.json", "adapter_model.safetensors"]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A distribution registry with a password, on a free port of the loopback address."""
    program = shutil.which("docker-registry")
    if program is None or shutil.which("skopeo") is None:
        pytest.skip("docker-registry and skopeo are not installed (Debian has both)")
    folder = tmp_path_factory.mktemp("registry")
    (folder / "htpasswd").write_text(HTPASSWD)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    settings = {
        "version": "0.1",
        "log": {"level": "warn"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "storage")}},
        "http": {"addr": address},
        "auth": {"htpasswd": {"realm": "ci", "path": str(folder / "htpasswd")}},
    }
    (folder / "config.yml").write_text(json.dumps(settings))
    with subprocess.Popen([program, "serve", str(folder / "config.yml")], stderr=subprocess.DEVNULL) as process:
        _wait_until_open(address)
        yield address
        process.terminate()


def _wait_until_open(address: str) -> None:
    name, port = address.split(":")
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex((name, int(port))) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError(f"no registry at {address}")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / NAMES[0]).write_text('{"r": 8}')
    (folder / NAMES[1]).write_bytes(os.urandom(5_000_000))
    announce(folder, Completed("", describe_files(folder, NAMES), "org/model", 3, {}, "sha256:d", "lora"))
    return folder


def secret(folder: Path, host: str, password: str) -> Path:
    folder.mkdir()
    entry = {"username": "ci", "password": password}
    (folder / "config.json").write_text(json.dumps({"auths": {host: entry}}))
    return folder


def skopeo(*arguments: str) -> str:
    return subprocess.run(["skopeo", *arguments], capture_output=True, text=True, check=True).stdout


def test_an_independent_client_finds_the_adapter_in_the_image(host: str, results: Path, tmp_path: Path) -> None:
    image = f"{host}/adapters/phi:v1"
    variables = {
        "OUTPUT_IMAGE": image,
        "DOCKER_CONFIG": str(secret(tmp_path / "secret", host, "ci-pass")),
        "RESULTS_PATH": str(results),
        "PRESET_NAME": "phi-3",
    }
    assert run_app("pusher", tmp_path, "preflight", **variables).exit_code == 0
    done = run_app("pusher", tmp_path, **variables)
    assert done.exit_code == 0, done.log
    login = ["--tls-verify=false", "--creds=ci:ci-pass"]
    inspected = json.loads(skopeo("inspect", *login, f"docker://{image}"))
    assert (inspected["Os"], inspected["Architecture"]) == ("linux", "amd64")
    raw = json.loads(skopeo("inspect", "--raw", *login, f"docker://{image}"))
    assert raw["annotations"]["sh.kaito.model.name"] == "phi-3"
    assert inspected["Digest"] == done.message["image"].rpartition("@")[2]
    for architecture in ("amd64", "arm64"):
        target = tmp_path / architecture
        copy = ["--src-tls-verify=false", "--src-creds=ci:ci-pass", f"docker://{image}", f"dir:{target}"]
        skopeo("--override-arch", architecture, "copy", *copy)
        [layer] = json.loads((target / "manifest.json").read_text())["layers"]
        with tarfile.open(target / layer["digest"].removeprefix("sha256:")) as archive:
            archive.extractall(target / "root", filter="data")
        for name in NAMES:
            assert (target / "root" / "data" / name).read_bytes() == (results / name).read_bytes()


def test_a_real_registry_refuses_a_wrong_password_in_the_preflight(host: str, results: Path, tmp_path: Path) -> None:
    done = run_app(
        "pusher",
        tmp_path,
        "preflight",
        OUTPUT_IMAGE=f"{host}/adapters/phi:v2",
        DOCKER_CONFIG=str(secret(tmp_path / "secret", host, "wr0ng-pass")),
        RESULTS_PATH=str(results),
    )
    assert done.exit_code == 77
    assert "UNAUTHORIZED: authentication required" in done.message["message"]
    assert "wr0ng-pass" not in done.log


def test_a_layout_is_read_by_an_independent_client(host: str, results: Path, tmp_path: Path) -> None:
    done = run_app("pusher", tmp_path, OUTPUT_IMAGE=f"oci:{results}/image:v1", RESULTS_PATH=str(results))
    assert done.exit_code == 0, done.log
    inspected = json.loads(skopeo("inspect", f"oci:{results}/image:v1"))
    assert inspected["Architecture"] == "amd64"
