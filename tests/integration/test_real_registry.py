"""The pusher against a real registry, read back by an independent client."""

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.apps import command, environment, run_app

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


@pytest.fixture
def base_layers(tmp_path: Path, root: Path) -> Path:
    """The base layers as the pusher's image has them, of this machine's busybox for both architectures."""
    busybox, licence = Path("/bin/busybox"), Path("/usr/share/doc/busybox-static/copyright")
    if not busybox.exists() or not licence.exists():
        pytest.skip("busybox-static is not installed (Debian has it)")
    folder = tmp_path / "base"
    folder.mkdir()
    for architecture in ("amd64", "arm64"):
        target = folder / f"base-{architecture}.tar"
        line = [sys.executable, str(root / "images/pusher/base_layer.py"), str(busybox), str(licence), str(target)]
        subprocess.run(line, check=True)
    return folder


def unpack(image: str, folder: Path, *login: str) -> Path:
    """Unpack all layers of an image in their order, as a container runtime does."""
    folder.mkdir(exist_ok=True)
    skopeo("copy", *login, image, f"dir:{folder / 'dir'}")
    for layer in json.loads((folder / "dir" / "manifest.json").read_text())["layers"]:
        with tarfile.open(folder / "dir" / layer["digest"].removeprefix("sha256:")) as archive:
            archive.extractall(folder / "root", filter="data")
    return folder / "root"


def test_the_old_init_container_copies_the_adapter_out_of_the_image(
    host: str, results: Path, tmp_path: Path, base_layers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pusher.delivery import deliver_adapter
    from pusher.settings import Settings
    from tuning.environment import read_settings

    monkeypatch.setattr("pusher.base.bundled_base.__defaults__", (base_layers,))
    image = f"{host}/adapters/with-shell:v1"
    variables = {
        "OUTPUT_IMAGE": image,
        "DOCKER_CONFIG": str(secret(tmp_path / "secret", host, "ci-pass")),
        "RESULTS_PATH": str(results),
    }
    deliver_adapter(read_settings(Settings, variables))
    login = ["--src-tls-verify=false", "--src-creds=ci:ci-pass"]
    unpacked = unpack(f"docker://{image}", tmp_path, *login)
    assert (unpacked / "models").readlink() == Path("data")
    assert (unpacked / "usr/share/doc/busybox-static/copyright").is_file()
    # What Kaito's init container runs, in a root that has nothing but the image.
    command = "mkdir -p /mnt/adapter/phi && cp -r /data/* /mnt/adapter/phi && cat /models/adapter_config.json"
    done = subprocess.run(
        ["chroot", str(unpacked), "/bin/sh", "-c", command], capture_output=True, text=True, check=True
    )
    assert done.stdout == '{"r": 8}'
    assert (unpacked / "mnt/adapter/phi" / NAMES[1]).read_bytes() == (results / NAMES[1]).read_bytes()


def test_an_image_of_the_users_is_the_base_and_its_layers_are_mounted(
    host: str, results: Path, tmp_path: Path, base_layers: Path
) -> None:
    variables = {
        "DOCKER_CONFIG": str(secret(tmp_path / "secret", host, "ci-pass")),
        "RESULTS_PATH": str(results),
    }
    base = f"{host}/team/base:v1"
    assert run_app("pusher", tmp_path, **variables, OUTPUT_IMAGE=base).exit_code == 0
    image = f"{host}/adapters/on-base:v1"
    done = run_app("pusher", tmp_path, **variables, OUTPUT_IMAGE=image, BASE_IMAGE=base, LAYER_COMPRESSION="gzip")
    assert done.exit_code == 0, done.log
    assert "blob mounted" in done.log
    layout = f"oci:{tmp_path}/layout:v1"
    copied = run_app("pusher", tmp_path, **variables, OUTPUT_IMAGE=layout, BASE_IMAGE=base, LAYER_COMPRESSION="gzip")
    assert copied.exit_code == 0, copied.log
    login = ["--tls-verify=false", "--creds=ci:ci-pass"]
    mounted = json.loads(skopeo("inspect", *login, f"docker://{image}"))
    assert len(mounted["Layers"]) == 2
    assert json.loads(skopeo("inspect", layout))["Layers"] == mounted["Layers"]
    missing = run_app("pusher", tmp_path, **variables, OUTPUT_IMAGE=image, BASE_IMAGE=f"{host}/team/none:v1")
    assert missing.exit_code == 66, missing.log


@pytest.mark.timeout(300)
def test_killed_at_any_moment_and_started_again_one_right_image_is_there(
    host: str, results: Path, tmp_path: Path
) -> None:
    """Thirty kills at random moments: never a tag that names something incomplete, in the end the right image."""
    variables = {
        "DOCKER_CONFIG": str(secret(tmp_path / "secret", host, "ci-pass")),
        "RESULTS_PATH": str(results),
    }
    login = ["--src-tls-verify=false", "--src-creds=ci:ci-pass"]
    chance, kills, number = random.Random(7), 0, 0
    while kills < 30:
        number += 1
        # Other bytes each time, or all but the first push would find everything there.
        (results / NAMES[1]).write_bytes(os.urandom(3_000_000))
        announce(results, Completed("", describe_files(results, NAMES), "org/model", 3, {}, "sha256:d", "lora"))
        image = f"{host}/killed/adapter:v{number}"
        environ = environment(tmp_path, {**variables, "OUTPUT_IMAGE": image})
        for _ in range(5):
            with subprocess.Popen(command("pusher"), env=environ, stderr=subprocess.DEVNULL) as process:
                try:
                    process.wait(timeout=chance.uniform(0.1, 0.7))
                    break
                except subprocess.TimeoutExpired:
                    process.kill()
                    kills += 1
            found = ["skopeo", "inspect", "--tls-verify=false", "--creds=ci:ci-pass", f"docker://{image}"]
            if subprocess.run(found, capture_output=True, check=False).returncode == 0:
                unpack(f"docker://{image}", tmp_path / f"partial-{number}-{kills}", *login)
        assert subprocess.run(command("pusher"), env=environ, stderr=subprocess.DEVNULL, check=False).returncode == 0
        unpacked = unpack(f"docker://{image}", tmp_path / f"whole-{number}", *login)
        assert (unpacked / "data" / NAMES[1]).read_bytes() == (results / NAMES[1]).read_bytes()
