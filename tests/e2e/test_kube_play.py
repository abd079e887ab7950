"""The rendered Job, played by podman as it stands: the second way to run a pod on one machine."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tests.support.engine import docker
from tests.support.tuning import CHATS
from tests.support.web import Web, parts

HERE = Path(__file__).parent
NAME = "kube-play"

pytestmark = pytest.mark.timeout(400)


def test_podman_plays_the_rendered_job_unchanged(images: list[str], tiny_model: Path, web: Web, tmp_path: Path) -> None:
    for path in (tiny_model, *tiny_model.iterdir()):
        path.chmod(0o755)
    results = tmp_path / "results"
    results.mkdir()
    saved = tmp_path / "images.tar"
    docker("save", "--output", str(saved), *[image for image in images if "controller" not in image])
    # A Workspace may not name the loopback address; this machine's own name is one that it may.
    rows = "".join(json.dumps(row) + "\n" for row in CHATS).encode()
    source = web.serve("/train.jsonl", parts(rows)).replace("127.0.0.1", os.uname().nodename)
    job = tmp_path / "job.yaml"
    job.write_text(render(tmp_path, source))
    folder = os.environ.get("E2E_FOLDER") or str(tmp_path)
    command = [str(HERE / "kube-play"), folder, str(job), str(saved), str(tiny_model), str(results)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    codes = dict(re.findall(r"^EXIT kube-play-pod-(\S+) (\d+)$", done.stdout, re.MULTILINE))
    assert codes == {NAME: "0", "pusher": "0"}, done.stderr[-4000:]
    delivered = re.search(r"delivered image=oci:/mnt/results/layout:v1@(\S+)", done.stderr)
    assert delivered
    assert delivered.group(1) in (results / "layout" / "index.json").read_text()


def render(folder: Path, source: str) -> str:
    """The Job's manifests for podman: the images are in its own store, the base model is the claim `model`."""
    arguments = {"max_steps": 4, "per_device_train_batch_size": 2, "learning_rate": 5e-3}
    documents = [
        {
            "apiVersion": "kaito.sh/v1beta1",
            "kind": "Workspace",
            "metadata": {"name": NAME},
            "resource": {},
            "tuning": {
                "preset": {"name": "phi-3-mini-128k-instruct"},
                "method": "lora",
                "config": "tiny",
                "input": {"urls": [source]},
                "output": {"image": "oci:/mnt/results/layout:v1"},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "tiny"},
            "data": {"training_config.yaml": yaml.safe_dump({"training_config": {"TrainingArguments": arguments}})},
        },
    ]
    workspace = folder / "workspace.yaml"
    workspace.write_text(yaml.safe_dump_all(documents))
    options = ["--registry=localhost/e2e", "--tag=local", "--weights-claim=model"]
    command = [sys.executable, "-m", "kaito_tuning.cli", "render", str(workspace), *options]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
