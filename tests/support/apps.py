"""Run the three apps as the processes they are in the pod."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Done:
    """How an app ended: exit code, log, and termination message."""

    exit_code: int
    log: str
    message: dict[str, Any]


def environment(folder: Path, variables: Mapping[str, str]) -> dict[str, str]:
    """A process's environment: this machine's, the termination message in `folder`, and `variables`."""
    # The last one lets `make coverage` see what the app does.
    names = ("PATH", "HOME", "LD_LIBRARY_PATH", "COVERAGE_PROCESS_CONFIG")
    kept = {name: os.environ[name] for name in names if name in os.environ}
    return {**kept, "TERMINATION_MESSAGE_PATH": str(folder / "termination-message"), **variables}


def command(app: str, *arguments: str) -> list[str]:
    """The command line of an app."""
    return [sys.executable, "-m", app, *arguments]


def run_app(app: str, folder: Path, *arguments: str, python: tuple[str, ...] = (), **variables: str) -> Done:
    """Run `app` to its end with exactly `variables`."""
    message = folder / "termination-message"
    message.unlink(missing_ok=True)
    line = [sys.executable, *python, "-m", app, *arguments]
    environ = environment(folder, variables)
    done = subprocess.run(line, env=environ, capture_output=True, text=True, timeout=110, check=False)
    content = json.loads(message.read_text()) if message.exists() else {}
    return Done(done.returncode, done.stdout + done.stderr, content)
