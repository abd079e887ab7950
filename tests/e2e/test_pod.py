"""A Workspace, rendered and run as containers of the real images; and each way to fail, with its end."""

import json
import re
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.engine import docker
from tests.support.real_registry import RealRegistry, secret
from tests.support.tuning import CHATS
from tests.support.web import Web, content, parts

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("images")]

ROWS = "".join(json.dumps(row) + "\n" for row in CHATS).encode()
NAME = "e2e-tuning"


class Site:
    """Everything that a user of `kaito-tuning run --backend docker` has at hand."""

    def __init__(self, folder: Path, registry: RealRegistry, certificate: Path, model: Path, web: Web) -> None:
        self.folder, self.registry, self.certificate, self.model = folder, registry, certificate, model
        self.secret = secret(folder / "secret", registry.host, "ci-pass")
        self.image = f"{registry.host}/adapters/tiny:v1"
        self.url = web.serve("/train.jsonl", parts(ROWS))
        self.log = ""

    def write(self, steps: int = 4) -> Path:
        """The Workspace and its ConfigMap."""
        settings = {"max_steps": steps, "per_device_train_batch_size": 2, "learning_rate": 5e-3}
        config = {"training_config": {"TrainingArguments": settings}}
        documents: list[dict[str, Any]] = [
            {
                "apiVersion": "kaito.sh/v1beta1",
                "kind": "Workspace",
                "metadata": {"name": NAME},
                "resource": {},
                "tuning": {
                    "preset": {"name": "phi-3-mini-128k-instruct"},
                    "method": "lora",
                    "config": "tiny",
                    "input": {"urls": [self.url]},
                    "output": {"image": self.image, "imagePushSecret": "push"},
                },
            },
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "tiny"},
                "data": {"training_config.yaml": yaml.safe_dump(config)},
            },
        ]
        path = self.folder / "workspace.yaml"
        path.write_text(yaml.safe_dump_all(documents))
        return path

    def start(self, *options: str, steps: int = 4) -> "subprocess.Popen[str]":
        """Run it; the log goes to a file."""
        command = [sys.executable, "-m", "kaito_tuning.cli", "run", str(self.write(steps)), "--backend", "docker"]
        command += ["--registry", "e2e", "--tag", "local", "--weights", str(self.model), "--ca", str(self.certificate)]
        command += [
            "--docker-config",
            str(self.secret),
            "--work-dir",
            str(self.folder / "work"),
            "-o",
            "json",
            *options,
        ]
        self.err = (self.folder / "log").open("w")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.err, text=True)
        return self.process

    def finish(self, process: "subprocess.Popen[str]", within_seconds: float = 200.0) -> dict[str, Any]:
        """Wait for the verdict; the containers by name, the Job's reaction, and the exit code."""
        out, _ = process.communicate(timeout=within_seconds)
        self.err.close()
        self.log = (self.folder / "log").read_text()
        assert out, self.log
        verdict: dict[str, Any] = json.loads(out)
        assert process.returncode == verdict["exitCode"]
        assert "ci-pass" not in self.log
        return {**verdict, **{ended["container"]: ended for ended in verdict["containers"]}}

    def run(self, *options: str) -> dict[str, Any]:
        """Run it to its end."""
        return self.finish(self.start(*options))

    def wait_for(self, words: str, seconds: float = 100.0) -> None:
        """Wait until the log says `words`."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            if words in (self.folder / "log").read_text():
                return
            time.sleep(0.2)
        raise TimeoutError(f"{words} is not in the log:\n" + (self.folder / "log").read_text())

    def container(self, name: str) -> str:
        """The id of the container of this run that is called `name` in the pod."""
        return docker("ps", "--all", "--quiet", "--filter", f"name=^{NAME}-.*-{name}$").strip()

    def skopeo(self, *arguments: str) -> str:
        """Ask the registry with another client."""
        folder = self.folder / "trusted"
        folder.mkdir(exist_ok=True)
        (folder / "ca.crt").write_bytes(self.certificate.read_bytes())
        login = [*arguments[:1], "--cert-dir" if arguments[0] == "inspect" else "--src-cert-dir", str(folder)]
        login += ["--creds=ci:ci-pass" if arguments[0] == "inspect" else "--src-creds=ci:ci-pass", *arguments[1:]]
        return subprocess.run(["skopeo", *login], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def site(
    tmp_path: Path, private_registry: RealRegistry, authority: tuple[Path, Path], tiny_model: Path, web: Web
) -> Site:
    # Its folder, and what safetensors writes, are closed to others.
    for path in (tiny_model, *tiny_model.iterdir()):
        path.chmod(0o755)
    return Site(tmp_path, private_registry, authority[0], tiny_model, web)


def test_a_workspace_becomes_an_adapter_that_others_load(site: Site, tmp_path: Path) -> None:
    verdict = site.run()
    assert verdict["exitCode"] == 0, site.log
    assert list(verdict)[3:] == ["push-preflight", "data-downloader", NAME, "pusher"]
    assert verdict["job"] == "succeeds"
    digest = json.loads(site.skopeo("inspect", f"docker://{site.image}"))["Digest"]
    assert f"{site.image}@{digest}" in verdict["pusher"]["message"]
    site.skopeo("copy", f"docker://{site.image}", f"dir:{tmp_path / 'pulled'}")
    for layer in json.loads((tmp_path / "pulled" / "manifest.json").read_text())["layers"]:
        with tarfile.open(tmp_path / "pulled" / layer["digest"].removeprefix("sha256:")) as archive:
            archive.extractall(tmp_path / "root", filter="data")
    assert (tmp_path / "root" / "bin" / "sh").exists(), "the base layer of the pusher's image"
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(site.model), tmp_path / "root" / "data")
    trained = [name for name, weight in model.named_parameters() if "lora_B" in name and weight.abs().sum() > 0]
    assert trained, "the adapter has learnt something"


def test_a_wrong_push_password_ends_in_the_preflight(site: Site, web: Web) -> None:
    secret(site.secret, site.registry.host, "wr0ng-pass")
    verdict = site.run()
    assert verdict["exitCode"] == 77
    assert verdict["job"].startswith("fails at once")
    assert [ended["container"] for ended in verdict["containers"]] == ["push-preflight"]
    assert "UNAUTHORIZED" in verdict["push-preflight"]["message"]
    assert not web.asked, "nothing was downloaded"
    assert "wr0ng-pass" not in site.log


def test_a_dataset_that_is_not_there_ends_the_pod(site: Site, web: Web) -> None:
    site.url = web.serve("/missing.jsonl", content(b"nothing here", status=404))
    verdict = site.run()
    assert verdict["exitCode"] == 66
    assert "answered 404" in verdict["data-downloader"]["message"]
    assert NAME not in verdict


def test_a_trainer_that_is_killed_ends_the_pusher_too(site: Site) -> None:
    process = site.start(steps=100_000)
    site.wait_for("trainer.progress: step")
    killed = time.monotonic()
    docker("kill", site.container(NAME))
    verdict = site.finish(process)
    assert time.monotonic() - killed < 30
    assert (verdict[NAME]["exit_code"], verdict["pusher"]["exit_code"]) == (137, 69)
    assert verdict["job"].startswith("counts a failure")
    assert "nothing to push" in verdict["pusher"]["message"]


def test_a_pusher_that_is_killed_and_started_again_delivers(site: Site) -> None:
    process = site.start("--keep")
    site.wait_for("waiting for the trainer")
    site.registry.stop()
    site.wait_for("attempt 1 failed")
    pusher = site.container("pusher")
    docker("kill", pusher)
    verdict = site.finish(process)
    assert (verdict[NAME]["exit_code"], verdict["pusher"]["exit_code"]) == (0, 137)
    site.registry.start()
    done = subprocess.run(
        ["docker", "start", "--attach", pusher], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(site.skopeo("inspect", f"docker://{site.image}"))["Digest"]


def test_a_registry_that_is_down_at_push_time_is_waited_for(site: Site) -> None:
    process = site.start()
    site.wait_for("waiting for the trainer")
    site.registry.stop()
    site.wait_for("attempt 1 failed")
    threading.Timer(30.0, site.registry.start).start()
    verdict = site.finish(process)
    assert verdict["exitCode"] == 0, site.log
    assert verdict["pusher"]["seconds"] > 30
    assert json.loads(site.skopeo("inspect", f"docker://{site.image}"))["Digest"]


def test_a_trainer_out_of_memory_ends_the_pod(site: Site) -> None:
    verdict = site.run("--memory", "200Mi")
    assert verdict[NAME]["exit_code"] in {71, 137}, site.log
    assert verdict["pusher"]["exit_code"] == 69
    assert "nothing to push" in verdict["pusher"]["message"]


def test_a_deletion_ends_all_containers_in_order(site: Site) -> None:
    process = site.start(steps=100_000)
    site.wait_for("trainer.progress: step")
    process.terminate()
    verdict = site.finish(process, within_seconds=60)
    assert verdict["exitCode"] != 0
    assert not docker("ps", "--quiet", "--filter", f"name=^{NAME}-")
    assert re.search(r"\[pusher\]", site.log)


def test_a_base_model_that_is_closed_to_the_pods_user_is_named(site: Site) -> None:
    site.model.chmod(0o700)
    verdict = site.run()
    assert verdict[NAME]["exit_code"] == 66
    assert "is closed to user 65532" in verdict[NAME]["message"]
