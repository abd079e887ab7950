"""The pusher: `preflight` proves that a push will be allowed; without an argument it waits and pushes."""

import os
import sys
from collections.abc import Mapping
from typing import Any

from pusher.delivery import check_destination, deliver_adapter
from pusher.settings import Settings
from tuning.command import read_command
from tuning.entrypoint import run
from tuning.environment import read_settings


def preflight(environ: Mapping[str, str]) -> Mapping[str, Any]:
    """Prove, before anything costs money, that the destination accepts a push."""
    return check_destination(read_settings(Settings, environ))


def push(environ: Mapping[str, str]) -> Mapping[str, Any]:
    """Wait for the outcome and deliver the adapter."""
    return deliver_adapter(read_settings(Settings, environ))


if __name__ == "__main__":
    command = read_command(
        "pusher", "Wait for the trainer, then push its adapter as an image.", Settings, ["preflight"]
    )
    sys.exit(run(preflight if command == "preflight" else push, os.environ))
