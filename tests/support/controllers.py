"""The controller as the process that it is in its pod, before the API server of the tests."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.support.kubelet import NAMESPACE
from tests.support.kubernetes_api import KubernetesApi
from tests.support.kubernetes_store import Manifest, Refusal

NAME = "chats"


def rules(root: Path) -> list[Manifest]:
    """What deploy/controller.yaml allows the controller."""
    documents = yaml.safe_load_all((root / "deploy" / "controller.yaml").read_text())
    found: list[Manifest] = next(document for document in documents if document["kind"] == "ClusterRole")["rules"]
    return found


def workspace(**tuning: Any) -> Manifest:
    """A Workspace that is valid, with the fields of `tuning` in place of its own."""
    return {
        "apiVersion": "kaito.sh/v1beta1",
        "kind": "Workspace",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "resource": {"instanceType": "Standard_NC24ads_A100_v4"},
        "tuning": {
            "preset": {"name": "phi-4-mini-instruct"},
            "method": "lora",
            "input": {"urls": ["https://data.example.com/chats.jsonl"]},
            "output": {"image": "registry.example.com/adapters/chats:1", "imagePushSecret": "push"},
            **tuning,
        },
    }


class Controller:
    """A controller that runs, with the end of its log."""

    def __init__(self, api: KubernetesApi, folder: Path, *options: str) -> None:
        self.api = api
        self._folder = folder
        self._options = options
        self._log = folder / f"controller-{id(self)}.log"

    def __enter__(self) -> "Controller":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.kill()

    def start(self) -> None:
        """Start it, again where it was killed."""
        environ = {**os.environ, "KUBECONFIG": str(self.api.write_kubeconfig(self._folder)), "HOME": str(self._folder)}
        with self._log.open("ab") as log:
            line = [sys.executable, "-m", "kaito_tuning.cli", "controller", *self._options]
            self.process = subprocess.Popen(line, env=environ, stdout=log, stderr=log)

    def kill(self) -> None:
        """End it at once, wherever it is."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """End it as a kubelet does; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=20)

    @property
    def log(self) -> str:
        """What it said so far."""
        return self._log.read_text() if self._log.exists() else ""

    def wait_for(self, condition: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
        """Wait until `condition` holds, and give what it gave."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if found := condition():
                    return found
            except Refusal:
                pass
            time.sleep(0.05)
        raise TimeoutError(f"{what}\n{self.status()}\n{self.log[-6000:]}\n{self.api.refused[-10:]}")

    def job(self) -> Manifest:
        """The Job of the Workspace; raises Refusal where there is none."""
        return self.api.store.get("jobs", NAMESPACE, NAME)

    def status(self) -> Manifest:
        """The Workspace's status; empty before it has one."""
        try:
            return dict(self.api.store.get("workspaces", NAMESPACE, NAME).get("status") or {})
        except Refusal:
            return {}

    def condition(self, kind: str) -> Manifest:
        """One of the Workspace's conditions; empty before it has it."""
        return next((entry for entry in self.status().get("conditions", []) if entry["type"] == kind), {})

    def events(self, reason: str = "") -> list[Manifest]:
        """The Events about the Workspace, or those of one reason."""
        return [event for event in self.api.store.list("events") if reason in ("", event["reason"])]
