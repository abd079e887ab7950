"""A real registry (docker-registry, of Debian) as a process of its own, that can be stopped and started again."""

import base64
import json
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

# bcrypt of ci-pass; a registry accepts nothing else.
HTPASSWD = "ci:$2y$05$H0LT3tPIMXHbXROUYKMAIuOEfWXMJkJ27UpFvVDf6JRSIG5pw8Yim\n"


class RealRegistry:
    """A distribution registry with a password, on a free port of the loopback address, its blobs in `folder`.

    `address` is a name of that address, which the references use.
    """

    def __init__(
        self,
        folder: Path,
        *,
        password: bool = True,
        tls: tuple[Path, Path] | None = None,
        address: str = "127.0.0.1",
    ) -> None:
        program = shutil.which("docker-registry")
        if program is None or shutil.which("skopeo") is None:
            pytest.skip("docker-registry and skopeo are not installed (Debian has both)")
        self._command = [program, "serve", str(folder / "config.yml")]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._address: tuple[str, int] = probe.getsockname()
        self.host = f"{address}:{self._address[1]}"
        http: dict[str, Any] = {"addr": f"127.0.0.1:{self._address[1]}"}
        if tls:
            http["tls"] = {"certificate": str(tls[0]), "key": str(tls[1])}
        settings: dict[str, Any] = {
            "version": "0.1",
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": str(folder / "storage")}, "delete": {"enabled": True}},
            "http": http,
        }
        if password:
            (folder / "htpasswd").write_text(HTPASSWD)
            settings["auth"] = {"htpasswd": {"realm": "ci", "path": str(folder / "htpasswd")}}
        (folder / "config.yml").write_text(json.dumps(settings))

    def __enter__(self) -> "RealRegistry":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._process = subprocess.Popen(self._command, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(self._address) == 0:
                    return
            time.sleep(0.05)
        raise TimeoutError(f"no registry at {self.host}")

    def stop(self) -> None:
        """Kill it, as a node that fails does."""
        self._process.kill()
        self._process.wait()


def secret(folder: Path, host: str, password: str) -> Path:
    """A push secret for `host` in `folder`, as kubectl makes it."""
    folder.mkdir(exist_ok=True)
    auth = base64.b64encode(f"ci:{password}".encode()).decode()
    entry = {"username": "ci", "password": password, "auth": auth}
    (folder / "config.json").write_text(json.dumps({"auths": {host: entry}}))
    return folder
