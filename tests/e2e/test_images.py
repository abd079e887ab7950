"""Each image on its own: how it is built, and what it says to somebody who runs it wrongly."""

import json
import os
import subprocess
import time
from pathlib import Path

import pytest
from tests.e2e.sizes import measure
from tests.support.adapters import new_results
from tests.support.controllers import rules, workspace
from tests.support.engine import docker
from tests.support.kubernetes_api import KubernetesApi

pytestmark = pytest.mark.timeout(300)
EVERY = ["data-downloader", "trainer", "pusher", "controller"]
# What an image starts, where it is not a module of its name.
MODULES = {"controller": ["kaito_tuning.cli", "controller"]}
PLAIN = ["--rm", "--read-only", "--tmpfs", "/tmp:mode=1777", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]


def run(image: str, *options: str, arguments: tuple[str, ...] = ()) -> tuple[int, str]:
    """Run an image as in the pod; its exit code and its log."""
    command = ["docker", "run", *PLAIN, *options, image, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout + done.stderr


def sentence(log: str) -> str:
    """The one line that says what went wrong."""
    [line] = [line for line in log.splitlines() if " ERROR " in line]
    assert "Traceback" not in log
    return line


@pytest.fixture(scope="module")
def named(images: list[str]) -> dict[str, str]:
    return {image.partition("/")[2].partition(":")[0]: image for image in images}


@pytest.mark.parametrize("name", EVERY)
def test_each_image_is_unprivileged_and_labelled(named: dict[str, str], name: str) -> None:
    [found] = json.loads(docker("inspect", named[name]))
    assert found["Config"]["User"] == "65532:65532"
    assert found["Config"]["Entrypoint"] == ["python", "-m", *MODULES.get(name, [name.replace("-", "_")])]
    assert found["Config"]["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert not found["Config"].get("Healthcheck")


@pytest.mark.parametrize("name", ["data-downloader", "pusher", "controller"])
def test_the_small_images_are_small(named: dict[str, str], name: str) -> None:
    assert measure(named[name]).compressed_bytes < 70e6


def test_the_trainer_has_nothing_twice_and_nothing_it_never_runs(named: dict[str, str]) -> None:
    find = "find /venv -name '*.so*' -type f -size +1M -printf '%f\\n' | sort | uniq --repeated"
    shell = ["run", "--rm", "--entrypoint", "sh", named["trainer"], "-c"]
    assert docker(*shell, find) == "", "a library that is there twice"
    kernels = docker(*shell, "ls /venv/lib/python3*/site-packages/bitsandbytes/ | grep -E '^lib.*so$'").split()
    assert kernels == ["libbitsandbytes_cpu.so"], "of the CPU build"
    assert docker(*shell, "find /venv -path '*/torch/bin/test_*'") == ""


@pytest.mark.parametrize("name", EVERY)
def test_no_pip_no_cache_and_no_secret_is_in_an_image(named: dict[str, str], name: str, tmp_path: Path) -> None:
    found = docker(
        "run", "--rm", "--entrypoint", "sh", named[name], "-c", "ls -d /venv/bin/pip* /root/.cache 2>/dev/null; true"
    )
    assert found == ""
    saved = tmp_path / "image.tar"
    docker("save", "--output", str(saved), named[name])
    assert "pa55word" not in docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", named[name])
    search = subprocess.run(["grep", "-c", "-a", "pa55word-of-the-index", str(saved)], capture_output=True, check=False)
    assert search.stdout.strip() == b"0", "the pip.conf of the build"


@pytest.mark.parametrize("name", EVERY)
def test_help_reaches_the_app(named: dict[str, str], name: str) -> None:
    code, log = run(named[name], arguments=("--help",))
    assert code == 0
    assert "usage" in log.lower()


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("data-downloader", 78, "DATA_URLS is not set"),
        ("trainer", 66, "/mnt/config/training_config.yaml"),
        ("pusher", 78, "OUTPUT_IMAGE is not set"),
    ],
)
@pytest.mark.parametrize("user", ["65532:65532", "1000680000:0"])
def test_without_configuration_one_sentence_says_so(
    named: dict[str, str], name: str, code: int, said: str, user: str, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    results.mkdir()
    results.chmod(0o777)
    volume = ["--volume", f"{results}:/mnt/results"] if name == "trainer" else []
    found, log = run(named[name], "--user", user, *volume)
    assert found == code, log
    assert said in sentence(log)


def test_a_controller_without_a_cluster_says_so(named: dict[str, str]) -> None:
    code, log = run(named["controller"])
    assert code == 78
    assert "error: no cluster: there is no service account and no kubeconfig" in log


def test_the_controllers_image_makes_a_job(named: dict[str, str], root: Path, tmp_path: Path) -> None:
    with KubernetesApi(rules(root)) as api:
        api.store.create("workspaces", workspace())
        kubeconfig = api.write_kubeconfig(tmp_path)
        kubeconfig.chmod(0o644)
        given = ["--network", "host", "--env", "KUBECONFIG=/kubeconfig", "--volume", f"{kubeconfig}:/kubeconfig:ro"]
        docker("run", "--detach", "--name", "e2e-controller", *PLAIN[1:], *given, named["controller"])
        deadline = time.monotonic() + 60
        while not api.store.list("jobs"):
            assert time.monotonic() < deadline, _logs("e2e-controller")
            time.sleep(0.2)
        docker("stop", "--time", "60", "e2e-controller")
        assert docker("inspect", "--format", "{{.State.ExitCode}}", "e2e-controller").strip() == "0"
        assert not [line for line in api.refused if not line.startswith("404")], "its role allows what it does"


def test_a_signal_reaches_the_app(named: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    volume = f"{tmp_path / 'results'}:/mnt/results"
    given = [
        "--detach",
        "--name",
        "e2e-signal",
        *PLAIN[1:],
        "--volume",
        volume,
        "--env",
        "OUTPUT_IMAGE=oci:/tmp/layout:v1",
    ]
    docker("run", *given, named["pusher"])
    deadline = time.monotonic() + 60
    while "waiting for the trainer" not in _logs("e2e-signal"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    start = time.monotonic()
    docker("stop", "--time", "60", "e2e-signal")
    assert time.monotonic() - start < 20
    assert docker("inspect", "--format", "{{.State.ExitCode}}", "e2e-signal").strip() == "143"
    assert "stopped by SIGTERM" in _logs("e2e-signal")


def _logs(container: str) -> str:
    return subprocess.run(["docker", "logs", container], capture_output=True, text=True, check=True).stderr


def test_a_base_model_is_baked_in_for_everybody_to_read(named: dict[str, str], root: Path, tmp_path: Path) -> None:
    weights = tmp_path / "phi-4"
    weights.mkdir()
    (weights / "config.json").write_text("{}")
    overrides = ["--provenance=false", "--sbom=false", "--set", "*.platform=linux/amd64"]
    overrides += ["--set", f"*.contexts.trainer=docker-image://{named['trainer']}"]
    environ = {
        **os.environ,
        "REGISTRY": "e2e",
        "TAG": "local",
        "WEIGHTS": str(tmp_path),
        "BUILDX_BAKE_ENTITLEMENTS_FS": "0",
    }
    command = ["docker", "buildx", "bake", "trainer-phi-4", *overrides]
    done = subprocess.run(command, cwd=root, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    listed = ["--entrypoint", "cat", "e2e/trainer-phi-4:local", "/workspace/tfs/weights/config.json"]
    assert docker("run", "--rm", *listed) == "{}"
    docker("rmi", "e2e/trainer-phi-4:local")


def test_a_volume_that_cannot_be_written_is_named(named: dict[str, str], tmp_path: Path) -> None:
    options = ["--env", "DATA_URLS=https://h.example.com/x.jsonl", "--volume", f"{tmp_path}:/data:ro"]
    code, log = run(named["data-downloader"], *options)
    assert code == 71, log
    assert "/data" in sentence(log)


def test_without_a_network_the_source_is_named(named: dict[str, str], tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    options = ["--network", "none", "--env", "DATA_URLS=https://h.example.com/x.jsonl", "--env", "DOWNLOAD_ATTEMPTS=1"]
    code, log = run(named["data-downloader"], *options, "--volume", f"{tmp_path}:/data")
    assert code == 75, log
    assert "h.example.com" in sentence(log)


def test_a_registry_that_cannot_be_reached_is_named(named: dict[str, str]) -> None:
    options = ["--network", "none", "--env", "OUTPUT_IMAGE=registry.example.com/a/b:1"]
    code, log = run(named["pusher"], *options, arguments=("preflight",))
    assert code == 75, log
    assert "registry.example.com cannot be reached" in sentence(log)


def test_a_results_volume_that_the_trainer_cannot_write_is_named(named: dict[str, str], tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.mkdir()
    (config / "training_config.yaml").write_text("training_config: {}\n")
    code, log = run(named["trainer"], "--volume", f"{config}:/mnt/config:ro", "--volume", f"{tmp_path}:/mnt/results:ro")
    assert code == 71, log
    assert "/mnt/results" in sentence(log)


def test_a_results_volume_that_is_full_keeps_nothing_half_written(named: dict[str, str], tmp_path: Path) -> None:
    """The pusher's receipt and layout: the layout does not fit, and no index names it."""
    results = tmp_path / "results"
    new_results(results, 3_000_000)
    for path in (tmp_path, results, *results.iterdir()):
        path.chmod(0o755)
    options = ["--volume", f"{results}:/mnt/results:ro", "--tmpfs", "/layout:size=1m,mode=1777"]
    code, log = run(named["pusher"], *options, "--env", "OUTPUT_IMAGE=oci:/layout:v1")
    assert code == 71, log
    assert "No space left on device" in sentence(log)


def test_a_disk_that_is_too_small_is_named_before_it_is_filled(named: dict[str, str], tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "x.jsonl").write_text('{"text": "a"}\n' * 200_000)
    options = ["--env", "DATA_URLS=file:///source/x.jsonl", "--env", "DATA_ALLOW_FILE=true"]
    options += ["--volume", f"{tmp_path}:/source:ro", "--tmpfs", "/data:size=1m,mode=1777"]
    code, log = run(named["data-downloader"], *options)
    assert code == 71, log
    assert "/data" in sentence(log)


def test_the_bake_file_names_what_the_folders_and_the_presets_have(root: Path) -> None:
    from tuning.presets import presets

    environ = {**os.environ, "BUILDX_BAKE_ENTITLEMENTS_FS": "0"}
    targets = [f"trainer-{name.replace('.', '-')}" for name, preset in presets().items() if preset.in_image]
    command = ["docker", "buildx", "bake", "--print", "default", "control", "trainer-cpu", *targets]
    done = subprocess.run(command, cwd=root, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)["target"]
    for image in ("data-downloader", "trainer", "pusher"):
        target = printed[image]
        assert (root / target["context"] / target.get("dockerfile", "Dockerfile")).is_file()
        assert target["contexts"]["shared"] == "./shared"
        assert target["tags"] == [f"ghcr.io/kaito-tuning/{image}:0.1.0"]
        attested = json.dumps(target["attest"])
        assert "provenance" in attested
        assert "sbom" in attested
    assert printed["controller"]["contexts"] == {"shared": "./shared", "workspace": "./workspace"}
    assert printed["pusher"]["platforms"] == ["linux/amd64", "linux/arm64"]
    assert printed["trainer-cpu"]["args"]["TORCH_VARIANT"] == "cpu"
    assert printed["trainer-phi-4"]["contexts"]["weights"] == "./weights/phi-4"
    assert printed["trainer-phi-4"]["tags"] == ["ghcr.io/kaito-tuning/trainer-phi-4:0.1.0"]
