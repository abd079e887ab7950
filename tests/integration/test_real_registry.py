"""The pusher against a real registry, read back by an independent client."""

import json
import os
import random
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.adapters import NAMES, make_base_layers, new_results
from tests.support.apps import command, environment, run_app
from tests.support.real_registry import RealRegistry, secret

from tuning.outcome import Completed, announce, describe_files


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A distribution registry with a password, on a free port of the loopback address."""
    with RealRegistry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry.host


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return new_results(tmp_path / "results", 5_000_000)


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
def base_layers(tmp_path: Path) -> Path:
    return make_base_layers(tmp_path / "base")


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
