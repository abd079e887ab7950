"""The order of work: whatever can be wrong is found before anything that costs.

configuration → base model's folder → dataset → tokenizer and labels → layers → weights → training → adapter → outcome
"""

import importlib
import logging
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from trainer import model_card, origin
from trainer.adapter import save_adapter
from trainer.base_model import (
    empty_model,
    find_base_model,
    load_base_model,
    load_shape,
    load_tokenizer,
    longest_context,
)
from trainer.chat_template import choose_chat_template
from trainer.checkpoints import find_checkpoint
from trainer.dataset import DEFAULT_SHUFFLE_SEED, read_dataset
from trainer.labels import FILE as LABEL_REPORT
from trainer.labels import Labels, write_report
from trainer.loss_plot import FILE as LOSS_PLOT
from trainer.loss_plot import draw_loss
from trainer.serving import serving_problems
from trainer.settings import Settings
from trainer.targets import check_targets, choose_targets
from trainer.tokens import Learnt
from tuning.errors import InputNotFound
from tuning.outcome import Completed, announce, describe_files
from tuning.presets import find_preset
from tuning.provenance import read_manifest
from tuning.training_config import TrainingConfig, parse_training_config

logger = logging.getLogger(__name__)


def tune(settings: Settings, results: Path) -> Mapping[str, Any]:
    """Tune an adapter into `results` and announce it. Returns what the termination message says."""
    start = time.monotonic()
    config = read_config(settings)
    name = find_base_model(config, settings.weights)
    checkpoint = find_checkpoint(config.arguments.get("resume_from_checkpoint"), results)
    dataset = read_dataset(
        settings.dataset_folder, config.dataset, config.arguments.get("dataset_text_field") or "text"
    )
    logger.info(
        "checked method=%s base_model=%s train_samples=%d held_out_samples=%d seconds=%.2f",
        config.method,
        name,
        len(dataset.train),
        len(dataset.held_out),
        time.monotonic() - start,
    )
    base_model_name = settings.base_model_name or (Path(name).name if Path(name).is_dir() else name)
    preset = find_preset(base_model_name)
    # From here on the libraries are needed, which take seconds to import.
    importlib.import_module("trainer.libraries").quiet_libraries()
    fitting = importlib.import_module("trainer.fitting")
    records = importlib.import_module("trainer.records")
    shape = load_shape(name, config)
    max_length = config.arguments.get("max_length") or longest_context(shape)
    tokenizer = load_tokenizer(name, config)
    template_is_ours = choose_chat_template(tokenizer, config, preset)
    labels = Labels(
        tokenizer,
        max_length,
        Learnt(
            whole_conversations=config.arguments.get("assistant_only_loss") is False,
            whole_instructions=config.arguments.get("completion_only_loss") is False,
        ),
        config.arguments.get("truncation_mode") or "keep_start",
        skip_bad_rows=config.dataset.get("on_bad_rows") == "skip",
    )
    train = labels.encode(dataset.train)
    held_out = labels.encode(dataset.held_out) if dataset.held_out else []
    report = labels.prove(dataset.train, train, dataset.files)
    write_report(results, report)
    targets = choose_targets(config.lora, preset)
    recipe = fitting.Recipe(
        lora=fitting.parse_lora(config.lora, targets),
        arguments=fitting.parse_arguments(config.arguments, results, max_length, evaluates=bool(held_out)),
        collator=config.collator,
        loraplus_lr_ratio=config.lora.get("loraplus_lr_ratio"),
        checkpoint=checkpoint,
    )
    if (empty := empty_model(name, config)) is not None:
        check_targets(targets, config.lora, empty)
    problems = serving_problems(recipe.lora, shape.model_type)
    for problem in problems:
        logger.warning("vLLM: %s", problem)
    model = load_base_model(name, config)
    logger.info("loaded base_model=%s seconds=%.1f", name, time.monotonic() - start)
    with ThreadPoolExecutor(1) as worker:
        # Reading every byte of the weights takes as long as loading them, and needs no GPU.
        base_model = worker.submit(origin.describe_base_model, name, config)
        recorder = records.Records(results, goes_on=checkpoint is not None)
        fitted = fitting.fit(model, tokenizer, train, held_out, recipe, [recorder])
        files = save_adapter(
            fitted.model,
            results,
            base_model_name,
            None if Path(name).is_dir() else config.model.get("revision"),
            tokenizer if template_is_ours or config.arguments.get("eos_token") else None,
        )
        origin.write_provenance(
            results,
            config=config,
            base_model={"name": base_model_name, **base_model.result()},
            manifest=read_manifest(settings.dataset_folder),
            seeds={
                "seed": recipe.arguments.seed,
                "shuffle_seed": config.dataset.get("shuffle_seed", DEFAULT_SHUFFLE_SEED),
            },
        )
    has_plot = draw_loss(
        records.read_records(results), results, f"{model_card.METHOD_NAMES[config.method]} adapter of {base_model_name}"
    )
    model_card.write_model_card(
        results,
        model_card.Run(
            base_model=base_model_name,
            method=config.method,
            dataset_files=report["files"],
            tokens=report["tokens"],
            settings=_settings(recipe, max_length, config),
            metrics=fitted.metrics,
            steps=fitted.steps,
            trainable_parameters=fitted.trainable_parameters,
            serving_problems=problems,
            has_plot=has_plot,
            has_template=template_is_ours,
        ),
    )
    extra = [model_card.FILE, records.FILE, LABEL_REPORT, origin.FILE, *([LOSS_PLOT] if has_plot else [])]
    completed = Completed(
        run_id=settings.run_id,
        files=describe_files(results, [*files, *(file for file in extra if (results / file).is_file())]),
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


def _settings(recipe: Any, max_length: int, config: TrainingConfig) -> dict[str, Any]:
    """The settings that a reader of the model card asks for first."""
    lora, arguments = recipe.lora, recipe.arguments
    targets = lora.target_modules
    return {
        "r": lora.r,
        "lora_alpha": lora.lora_alpha,
        "lora_dropout": lora.lora_dropout,
        "target_modules": targets if isinstance(targets, str) else ", ".join(sorted(targets or [])),
        "quantization": _quantization(config),
        "learning_rate": arguments.learning_rate,
        "lr_scheduler_type": str(getattr(arguments.lr_scheduler_type, "value", arguments.lr_scheduler_type)),
        "batch size": arguments.per_device_train_batch_size
        * arguments.gradient_accumulation_steps
        * arguments.world_size,
        "num_train_epochs": arguments.num_train_epochs,
        "max_length": max_length,
        "packing": arguments.packing,
        "seed": arguments.seed,
    }


def _quantization(config: TrainingConfig) -> str:
    if not config.quantized:
        return "none"
    if config.quantization.get("load_in_8bit"):
        return "8 bit"
    double = ", double" if config.quantization.get("bnb_4bit_use_double_quant") else ""
    return f"4 bit {config.quantization.get('bnb_4bit_quant_type', 'nf4')}{double}"


def read_config(settings: Settings) -> TrainingConfig:
    """The checked training configuration. Raises InputNotFound or ConfigurationError."""
    try:
        text = settings.config_path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputNotFound(
            f"cannot read the training configuration {settings.config_path}: {error.strerror}",
            hint="mount the ConfigMap there, or set YAML_FILE_PATH",
        ) from error
    config = parse_training_config(text, source=settings.config_path.name, method=settings.method)
    for warning in config.warnings:
        logger.warning("%s", warning)
    return config
