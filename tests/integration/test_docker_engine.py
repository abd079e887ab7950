"""PUSH_BACKEND=docker, against a real engine and a real registry."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.adapters import NAMES, make_base_layers, new_results
from tests.support.apps import run_app
from tests.support.engine import docker, require_engine
from tests.support.real_registry import RealRegistry, secret

from pusher.delivery import deliver_adapter
from pusher.settings import Settings
from tuning.environment import read_settings


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRegistry]:
    require_engine()
    with RealRegistry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


@pytest.fixture
def variables(real: RealRegistry, tmp_path: Path) -> dict[str, str]:
    return {
        "RESULTS_PATH": str(new_results(tmp_path / "results", 2_000_000)),
        "DOCKER_CONFIG": str(secret(tmp_path / "secret", real.host, "ci-pass")),
        "DOCKER_HOST": os.environ.get("DOCKER_HOST", ""),
        "PUSH_BACKEND": "docker",
    }


def inspect(image: str, *options: str) -> dict[str, object]:
    login = ["--tls-verify=false", "--creds=ci:ci-pass"]
    done = subprocess.run(["skopeo", "inspect", *options, *login, f"docker://{image}"], capture_output=True, check=True)
    content: dict[str, object] = json.loads(done.stdout)
    return content


def test_the_same_image_arrives_through_an_engine_and_runs_at_once(
    real: RealRegistry, variables: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pusher.base.bundled_base.__defaults__", (make_base_layers(tmp_path / "base"),))
    image = f"{real.host}/engine/adapter:v1"
    direct = f"{real.host}/direct/adapter:v1"
    said = deliver_adapter(read_settings(Settings, {**variables, "OUTPUT_IMAGE": image}))
    deliver_adapter(read_settings(Settings, {**variables, "OUTPUT_IMAGE": direct, "PUSH_BACKEND": "registry"}))
    assert said["image"] == f"{image}@{inspect(image)['Digest']}"
    configs = [inspect(name, "--config") for name in (image, direct)]
    assert configs[0] == configs[1], "the same config: layers, labels, architecture"
    assert docker("run", "--rm", image, "cat", "/data/adapter_config.json") == '{"r": 8}'
    assert docker("run", "--rm", image, "cat", "/models/adapter_config.json") == '{"r": 8}'
    # What was pushed is what an engine pulls.
    docker("rmi", image)
    config = ["--config", str(tmp_path / "secret")]
    docker(*config, "pull", "-q", image)
    assert docker("run", "--rm", image, "sh", "-c", "mkdir -p /m && cp -r /data/* /m && ls /m").split() == NAMES
    docker("rmi", image)


def test_a_wrong_password_is_refused_by_the_preflight_and_by_the_push(
    real: RealRegistry, variables: dict[str, str], tmp_path: Path
) -> None:
    secret(tmp_path / "secret", real.host, "wr0ng")
    given = {**variables, "OUTPUT_IMAGE": f"{real.host}/engine/denied:v1"}
    for arguments, more in ((["preflight"], {}), ([], {"PUSH_PREFLIGHT": "skip"})):
        done = run_app("pusher", tmp_path, *arguments, **given, **more)
        assert done.exit_code == 77, done.log
        assert "check" in done.message["hint"]
        assert "wr0ng" not in done.log
    docker("rmi", f"{real.host}/engine/denied:v1", check=False)


def test_without_an_engine_the_preflight_says_so(
    variables: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pusher.engine._CHECK_SECONDS", 0.1)
    from pusher.delivery import check_destination
    from tuning.errors import TransientError

    given = {**variables, "DOCKER_HOST": f"unix://{tmp_path}/none.sock", "OUTPUT_IMAGE": "r.example.com/a/b:v1"}
    with pytest.raises(TransientError) as caught:
        check_destination(read_settings(Settings, given))
    assert f"no Docker engine answers at unix://{tmp_path}/none.sock" in str(caught.value)
    assert "PUSH_BACKEND" in caught.value.hint
