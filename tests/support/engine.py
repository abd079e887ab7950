"""The Docker engine that a test may use: the one that answers here (tests/support/docker-engine starts one)."""

import shutil
import subprocess

import pytest


def docker(*arguments: str, check: bool = True) -> str:
    """Run the docker command; its output."""
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=check).stdout


def require_engine() -> None:
    """Skip where no engine answers."""
    answers = shutil.which("docker") and subprocess.run(["docker", "version"], capture_output=True).returncode == 0
    if not answers:
        pytest.skip("no Docker engine answers; see tests/support/docker-engine")
