"""`kaito-tuning run --backend docker` with small images that show what a container is given, in a real engine."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.engine import docker, require_engine

from kaito_tuning.engine import run_in_containers
from kaito_tuning.job import Rendered, render
from kaito_tuning.local import Local
from kaito_tuning.options import Images, Options
from kaito_tuning.reading import parse_workspace
from tuning.errors import ConfigurationError, InputNotFound

NAME = "backend"
MESSAGE = "/dev/termination-log"
# What each image does; the pod's two uses of the pusher's image are told apart by the argument.
SCRIPTS = {
    "data-downloader": 'test "$(id -u)" = 65532 && ! touch /root-file && echo "$DATA_URLS" > "$DATA_VOLUME_PATH/urls"',
    "trainer": f"""
        test -e "$MODEL_WEIGHTS_PATH/config.json" && grep -q training_config "$YAML_FILE_PATH" || exit 3
        cat /data/urls; ! touch /data/more || exit 4
        touch /tmp/mine /dev/shm/mine; echo done > "$RESULTS_PATH/adapter"
        echo '{{"message": "out of luck", "hint": "try again"}}' > {MESSAGE}
        exit 71""",
    "pusher": 'test "$0" = preflight && { cat "$DOCKER_CONFIG/config.json"; exit; }; '
    'while ! test -e "$RESULTS_PATH/adapter"; do sleep 0.1; done; exit 69',
}


@pytest.fixture(scope="module")
def images() -> Iterator[Images]:
    """One image a script, upon a static busybox."""
    require_engine()
    for name, script in SCRIPTS.items():
        change = f"ENTRYPOINT {json.dumps(['/bin/sh', '-c', script])}"
        command = ["docker", "import", "--change", change, "-", f"backend/{name}:1"]
        subprocess.run(command, input=_root(), check=True, capture_output=True)
    yield Images("backend", "1")
    docker("rmi", *[f"backend/{name}:1" for name in SCRIPTS])


def _root() -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name in ("bin", "tmp", "data", "dev"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(folder)
        tar.add("/bin/busybox", "bin/busybox")
        for name in ("sh", "id", "test", "touch", "cat", "grep", "sleep", "echo"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    return archive.getvalue()


def rendered(images: Images, options: dict[str, Any] | None = None, **tuning: Any) -> Rendered:
    document = {
        "apiVersion": "kaito.sh/v1beta1",
        "kind": "Workspace",
        "metadata": {"name": NAME},
        "resource": {},
        "tuning": {
            "preset": {"name": "phi-4"},
            "method": "lora",
            "input": {"urls": ["https://data.example.com/chats.jsonl"]},
            "output": {"image": "registry.example.com/a/b:1", "imagePushSecret": "push"},
            **tuning,
        },
    }
    given = Options(images=images, weights_claim="local", **(options or {}))
    return render(parse_workspace(document, source="test"), None, given)


@pytest.fixture
def local(tmp_path: Path) -> Local:
    for name in ("weights", "docker"):
        (tmp_path / name).mkdir()
    (tmp_path / "weights" / "config.json").write_text("{}")
    (tmp_path / "docker" / "config.json").write_text('{"auths": {}}')
    for path in (tmp_path, *tmp_path.rglob("*")):
        path.chmod(0o755)
    return Local(tmp_path / "work", tmp_path / "weights", tmp_path / "docker")


def run(pod: Rendered, local: Local, **options: Any) -> tuple[Any, str]:
    said = io.StringIO()
    verdict = run_in_containers(pod, local, os.environ, output=said, **options)
    return verdict, said.getvalue()


def left() -> list[str]:
    return docker("ps", "--all", "--quiet", "--filter", f"name=^{NAME}-").split()


def test_containers_get_what_the_pod_gives_them(images: Images, local: Local) -> None:
    verdict, log = run(rendered(images, {"memory": "64Mi"}), local)
    codes = {ended.container: ended.exit_code for ended in verdict.ended}
    assert codes == {"push-preflight": 0, "data-downloader": 0, NAME: 71, "pusher": 69}, log
    assert verdict.exit_code == 71
    assert verdict.reaction.startswith("fails at once")
    [trainer] = [ended for ended in verdict.ended if ended.container == NAME]
    assert trainer.message == "out of luck\ntry again"
    assert '[push-preflight] {"auths": {}}' in log
    assert f"[{NAME}] https://data.example.com/chats.jsonl" in log
    assert (local.work / "results-volume" / "adapter").read_text() == "done\n"
    assert left() == []


def test_containers_may_be_kept_for_a_look(images: Images, local: Local) -> None:
    run(rendered(images), local, keep=True)
    kept = left()
    assert len(kept) == 4
    docker("rm", "--force", *kept)


def test_a_deletion_ends_the_containers(images: Images, local: Local, tmp_path: Path) -> None:
    here = {"volumeSource": {"hostPath": {"path": str(tmp_path)}}}
    document = {
        "apiVersion": "kaito.sh/v1beta1",
        "kind": "Workspace",
        "metadata": {"name": NAME},
        "resource": {},
        "tuning": {"preset": {"name": "phi-4"}, "method": "lora", "input": here, "output": here},
    }
    (tmp_path / "w.yaml").write_text(yaml.safe_dump(document))
    docker("tag", "backend/pusher:1", "backend/trainer-phi-4:1")  # which waits, as it is nobody's preflight
    command = [sys.executable, "-m", "kaito_tuning.cli", "run", str(tmp_path / "w.yaml"), "--backend=docker"]
    command += ["--registry=backend", "--tag=1", f"--work-dir={local.work}"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not left() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=90)
    docker("rmi", "backend/trainer-phi-4:1")
    assert process.returncode in {137, 143}
    assert left() == []


def test_what_this_machine_has_nothing_for_is_named(images: Images, local: Local) -> None:
    with pytest.raises(InputNotFound, match="the push secret push is not at hand"):
        run(rendered(images), Local(local.work, local.weights))
    with pytest.raises(InputNotFound, match="the base model is not at hand"):
        run(rendered(images), Local(local.work, None, local.docker_config))
    with pytest.raises(InputNotFound, match="the ConfigMap site is not at hand"):
        run(rendered(images, {"ca_configmap": "site"}), local)
    with pytest.raises(ConfigurationError, match="cannot be used on this machine"):
        run(rendered(images, input={"volumeSource": {"persistentVolumeClaim": {"claimName": "c"}}}), local)


def test_a_missing_engine_is_named(images: Images, local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    with pytest.raises(ConfigurationError, match="no Docker engine answers"):
        run(rendered(images), local)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigurationError, match="the command docker is not installed"):
        run(rendered(images), local)
