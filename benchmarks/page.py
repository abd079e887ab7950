"""The page of one benchmark: what was run, when, on what, beside which versions, and the figures."""

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
# How a program is asked for its version where it is not `--version`.
_ASKED = {
    "nginx": "-v",
    "oras": "version",
    "docker-registry": "--version",
    "docker": "version --format {{.Server.Version}}",
}


def write_page(
    name: str, title: str, figures: str, *, programs: Iterable[str] = (), libraries: Iterable[str] = ()
) -> None:
    """Write `results/<name>.md`. `programs` are found on the PATH, `libraries` are distributions of this Python."""
    versions = [f"Python {platform.python_version()}"]
    versions += [f"{program} {found}" for program in programs if (found := version_of(program))]
    versions += [f"{library} {metadata.version(library)}" for library in libraries]
    command = shlex.join([".venv/bin/python", "-m", f"benchmarks.{name}", *sys.argv[1:]])
    today = time.strftime("%Y-%m-%d", time.gmtime())
    text = (
        f"# {title}\n\n"
        f"`{command}`, {today}, on {hardware()}. Machines are shared: read the ratios.\n\n"
        f"Beside {', '.join(versions)}.\n\n"
        f"{figures.strip()}\n"
    )
    (RESULTS / f"{name}.md").write_text(text)


def hardware() -> str:
    """The machine in a few words: processor, cores, memory, accelerator."""
    cpus = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"^model name\s*: (.*)$", cpus, re.MULTILINE)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    accelerator = "no accelerator"
    if shutil.which("nvidia-smi"):
        line = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        named = subprocess.run(line, capture_output=True, text=True, check=False).stdout.split("\n")
        accelerator = named[0].strip() or accelerator
    return f"{os.cpu_count()} cores of {model[1] if model else platform.machine()}, {memory:.0f} GiB, {accelerator}"


def version_of(program: str) -> str:
    """The version that a program says; empty where it is not there."""
    if shutil.which(program) is None:
        return ""
    line = [program, *shlex.split(_ASKED.get(program, "--version"))]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    found = re.search(r"\d+\.\d+(?:\.\d+)?", done.stdout + done.stderr)
    return found[0] if found else ""
