"""The adapter as files: the weights and their configuration, complete, readable by the pusher, free of local paths."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuning.files import sync_folder, write_json

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"

_DRAFT = ".adapter.draft"


def save_adapter(
    model: Any,
    results: Path,
    base_model_name: str,
    revision: str | None,
    tokenizer: Any | None,
    state: Mapping[str, Any] | None = None,
) -> list[str]:
    """Save the adapter of the PEFT `model` into `results` and return the names of its files.

    `base_model_name` is what a server will look for; the folder the base model was loaded from means nothing there.
    `tokenizer` is saved too, where it is given because it differs from the base model's; `state` are the weights where
    they are spread over processes.
    """
    draft = results / _DRAFT
    shutil.rmtree(draft, ignore_errors=True)
    model.save_pretrained(str(draft), safe_serialization=True, state_dict=state)
    config = json.loads((draft / CONFIG).read_text())
    # Set here and not before saving: peft would look the name up on the hub.
    config["base_model_name_or_path"] = base_model_name
    config["revision"] = revision
    if isinstance(config.get("target_modules"), list):
        # Kept as a set, whose order changes from run to run.
        config["target_modules"] = sorted(config["target_modules"])
    write_json(draft / CONFIG, config)
    (draft / "README.md").unlink(missing_ok=True)
    if tokenizer is not None:
        tokenizer.save_pretrained(str(draft))
    files = sorted(path.name for path in draft.iterdir())
    for name in files:
        # safetensors writes 0600, which a pusher under another uid could not read.
        (draft / name).chmod(0o644)
        (draft / name).replace(results / name)
    shutil.rmtree(draft)
    sync_folder(results)
    return files
