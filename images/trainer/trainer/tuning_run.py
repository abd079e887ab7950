"""The order of work: whatever can be wrong is found before anything that costs.

configuration → base model's folder → dataset → tokenizer and labels → weights → training → adapter → outcome
"""

import importlib
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.adapter import save_adapter
from trainer.base_model import find_base_model, load_base_model, load_tokenizer, longest_context
from trainer.dataset import read_dataset
from trainer.settings import Settings
from trainer.tokens import encode_samples
from tuning.errors import InputNotFound
from tuning.outcome import Completed, announce, describe_files
from tuning.training_config import TrainingConfig, parse_training_config

DEFAULT_CHAT_TEMPLATE = Path(__file__).parents[1] / "chat_templates" / "chatml.jinja"

logger = logging.getLogger(__name__)


def tune(settings: Settings, results: Path) -> Mapping[str, Any]:
    """Tune an adapter into `results` and announce it. Returns what the termination message says."""
    start = time.monotonic()
    config = read_config(settings)
    name = find_base_model(config, settings.weights)
    dataset = read_dataset(settings.dataset_folder, config.dataset)
    logger.info(
        "checked method=%s base_model=%s train_samples=%d held_out_samples=%d seconds=%.2f",
        config.method,
        name,
        len(dataset.train),
        len(dataset.held_out),
        time.monotonic() - start,
    )
    # From here on the libraries are needed, which take seconds to import.
    importlib.import_module("trainer.libraries").quiet_libraries()
    fitting = importlib.import_module("trainer.fitting")
    max_length = config.arguments.get("max_length") or longest_context(name, config)
    arguments = fitting.parse_arguments(config.arguments, results, max_length)
    lora = fitting.parse_lora(config.lora)
    tokenizer = load_tokenizer(name, config, DEFAULT_CHAT_TEMPLATE)
    train = encode_samples(dataset.train, tokenizer, max_length)
    held_out = encode_samples(dataset.held_out, tokenizer, max_length) if dataset.held_out else []
    model = load_base_model(name, config)
    logger.info("loaded base_model=%s seconds=%.1f", name, time.monotonic() - start)
    fitted = fitting.fit(model, tokenizer, train, held_out, lora, arguments)
    base_model_name = settings.base_model_name or Path(name).name if Path(name).is_dir() else name
    files = save_adapter(fitted.model, results, base_model_name)
    completed = Completed(
        run_id=settings.run_id,
        files=describe_files(results, files),
        base_model=base_model_name,
        steps=fitted.steps,
        metrics=fitted.metrics,
        dataset_digest=dataset.digest,
        method=config.method,
    )
    announce(results, completed)
    figures = " ".join(f"{key}={value:.4f}" for key, value in fitted.metrics.items())
    logger.info("completed steps=%d %s seconds=%.1f", fitted.steps, figures, time.monotonic() - start)
    return {"message": f"tuned in {fitted.steps} steps", "steps": fitted.steps, "metrics": dict(fitted.metrics)}


def read_config(settings: Settings) -> TrainingConfig:
    """The checked training configuration. Raises InputNotFound or ConfigurationError."""
    try:
        text = settings.config_path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputNotFound(
            f"cannot read the training configuration {settings.config_path}: {error.strerror}",
            hint="mount the ConfigMap there, or set YAML_FILE_PATH",
        ) from error
    return parse_training_config(text, source=settings.config_path.name, method=settings.method)
