"""Write requirements.lock: what the trainer's image installs, with torch's CUDA build, and a hash for each wheel.

pip resolves for the image's Python and platform from metadata alone, so no wheel of gigabytes is downloaded. The
versions are those of requirements-cpu.lock, which pip-compile makes; what only CUDA needs comes in addition.

    python images/trainer/lock_cuda.py
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

PYTHON = "3.12"
# A wheel may ask for any glibc up to that of the image's Debian; pip matches each name exactly.
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(39, 4, -1)] + [
    "manylinux2014_x86_64",
    "manylinux1_x86_64",
]


def resolve(lock: Path) -> list[tuple[str, str, str]]:
    """Name, version and sha256 of each wheel that `lock` comes to in the image."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        line = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        line += ["--only-binary=:all:", f"--python-version={PYTHON}", "--target", folder, "--report", str(report)]
        line += [f"--platform={platform}" for platform in PLATFORMS]
        subprocess.run([*line, "--requirement", str(lock)], check=True)  # noqa: S603 - no shell
        found = json.loads(report.read_text())["install"]
    wheels = [(entry["metadata"], entry["download_info"]["archive_info"]["hashes"]["sha256"]) for entry in found]
    return sorted(
        (metadata["name"].lower().replace("_", "-"), metadata["version"], digest) for metadata, digest in wheels
    )


if __name__ == "__main__":
    here = Path(__file__).parent
    wheels = resolve(here / "requirements-cpu.lock")
    if not any(name == "nvidia-cublas" for name, _, _ in wheels):
        sys.exit("torch was not resolved to its CUDA build")
    text = "".join(f"{name}=={version} \\\n    --hash=sha256:{digest}\n" for name, version, digest in wheels)
    (here / "requirements.lock").write_text(text)
