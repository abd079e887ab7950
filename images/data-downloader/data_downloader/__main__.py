"""The data-downloader: `DATA_URLS` → `DATA_VOLUME_PATH`."""

import os
import sys
from collections.abc import Mapping
from typing import Any

from data_downloader.dataset import download_dataset
from data_downloader.settings import Settings
from tuning.command import read_command
from tuning.entrypoint import run
from tuning.environment import read_settings


def main(environ: Mapping[str, str]) -> Mapping[str, Any]:
    """Download the dataset; say what was brought."""
    return download_dataset(read_settings(Settings, environ))


if __name__ == "__main__":
    read_command("data-downloader", "Download the dataset's URLs into the data volume.", Settings)
    sys.exit(run(main, os.environ))
