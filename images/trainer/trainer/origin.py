"""Where an adapter comes from: `provenance.json`, with digests of all that went in and no secret."""

import hashlib
import logging
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from tuning.files import sha256_of, write_json
from tuning.provenance import DatasetManifest
from tuning.redaction import redact
from tuning.training_config import TrainingConfig

FILE = "provenance.json"
_LIBRARIES = ("accelerate", "bitsandbytes", "peft", "safetensors", "tokenizers", "torch", "transformers", "trl")
_MODEL_FILES = ("*.safetensors", "*.bin", "*.json", "*.model", "*.jinja", "*.txt", "*.gguf")
# Keys whose values are secrets.
_SECRETS = ("token", "hub_token", "proxies")

logger = logging.getLogger(__name__)


def describe_base_model(name: str, config: TrainingConfig) -> Mapping[str, Any]:
    """What identifies the base model: of a folder the digest of each file, of a hub id its commit.

    Reads every byte of a folder: some seconds for each 10 GB.
    """
    path = Path(name)
    if not path.is_dir():
        return {"hub_id": name, "revision": _commit(name, config)}
    files = sorted({file for pattern in _MODEL_FILES for file in path.glob(pattern)})
    digests = {file.name: f"sha256:{sha256_of(file)}" for file in files}
    lines = "".join(f"{digest}  {file}\n" for file, digest in digests.items())
    return {"digest": "sha256:" + hashlib.sha256(lines.encode()).hexdigest(), "files": digests}


def _commit(name: str, config: TrainingConfig) -> str:
    from trainer.base_model import load_shape

    return str(getattr(load_shape(name, config), "_commit_hash", None) or config.model.get("revision") or "main")


def write_provenance(
    results: Path,
    *,
    config: TrainingConfig,
    base_model: Mapping[str, Any],
    manifest: DatasetManifest | None,
    seeds: Mapping[str, int],
) -> None:
    """Put `provenance.json` into the results folder, whole."""
    write_json(
        results / FILE,
        {
            "base_model": base_model,
            "dataset": {
                "digest": manifest.digest if manifest else None,
                "files": [
                    {"name": file.name, "url": file.url, "size_bytes": file.size_bytes, "sha256": file.sha256}
                    for file in (manifest.files if manifest else ())
                ],
            },
            "configuration": {
                "digest": config.digest,
                "method": config.method,
                "ModelConfig": _printable(config.model),
                "QuantizationConfig": _printable(config.quantization),
                "LoraConfig": _printable(config.lora),
                "TrainingArguments": _printable(config.arguments),
                "DataCollator": _printable(config.collator),
                "DatasetConfig": _printable(config.dataset),
            },
            "seeds": dict(seeds),
            "software": {"python": platform.python_version(), **{name: metadata.version(name) for name in _LIBRARIES}},
            "hardware": _hardware(),
        },
    )


def _printable(section: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: "***" if key in _SECRETS else redact(value) if isinstance(value, str) else value
        for key, value in section.items()
    }


def _hardware() -> dict[str, Any]:
    import torch

    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {"machine": platform.machine(), "gpus": gpus, "cuda": torch.version.cuda if gpus else None}
