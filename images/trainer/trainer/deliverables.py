"""What a run leaves for others: the adapter, its card, its figures, and where it comes from."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer import model_card, origin
from trainer.adapter import save_adapter
from trainer.dataset import DEFAULT_SHUFFLE_SEED
from trainer.labels import FILE as LABEL_REPORT
from trainer.loss_plot import FILE as LOSS_PLOT
from trainer.loss_plot import draw_loss
from trainer.preparation import Prepared
from trainer.settings import Settings
from tuning.outcome import Completed, describe_files
from tuning.provenance import read_manifest
from tuning.training_config import TrainingConfig


def write_deliverables(
    prepared: Prepared, fitted: Any, base_model: Mapping[str, Any], settings: Settings, results: Path
) -> Completed:
    """Write all files of the run into `results` and return the outcome that names them.

    `base_model` is what `origin.describe_base_model` found.
    """
    records = importlib.import_module("trainer.records")
    config, name = prepared.config, prepared.base_model_name
    changed = prepared.template_is_ours or config.arguments.get("eos_token")
    files = save_adapter(
        fitted.model,
        results,
        name,
        None if Path(prepared.source).is_dir() else config.model.get("revision"),
        prepared.tokenizer if changed else None,
        fitted.state,
    )
    origin.write_provenance(
        results,
        config=config,
        base_model={"name": name, **base_model},
        manifest=read_manifest(settings.dataset_folder),
        seeds={
            "seed": fitted.arguments.seed,
            "shuffle_seed": config.dataset.get("shuffle_seed", DEFAULT_SHUFFLE_SEED),
        },
    )
    title = f"{model_card.METHOD_NAMES[config.method]} adapter of {name}"
    has_plot = draw_loss(records.read_records(results), results, title)
    model_card.write_model_card(
        results,
        model_card.Run(
            base_model=name,
            method=config.method,
            dataset_files=prepared.report["files"],
            tokens=prepared.report["tokens"],
            settings=_settings(prepared, fitted.arguments),
            metrics=fitted.metrics,
            steps=fitted.steps,
            trainable_parameters=fitted.trainable_parameters,
            serving_problems=prepared.serving_problems,
            has_plot=has_plot,
            has_template=prepared.template_is_ours,
        ),
    )
    extra = [model_card.FILE, records.FILE, LABEL_REPORT, origin.FILE, *([LOSS_PLOT] if has_plot else [])]
    return Completed(
        run_id=settings.run_id,
        files=describe_files(results, [*files, *(file for file in extra if (results / file).is_file())]),
        base_model=name,
        steps=fitted.steps,
        metrics=fitted.metrics,
        dataset_digest=prepared.dataset.digest,
        method=config.method,
    )


def _settings(prepared: Prepared, arguments: Any) -> dict[str, Any]:
    """The settings that a reader of the model card asks for first."""
    lora = prepared.recipe.lora
    targets = lora.target_modules
    return {
        "r": lora.r,
        "lora_alpha": lora.lora_alpha,
        "lora_dropout": lora.lora_dropout,
        "target_modules": targets if isinstance(targets, str) else ", ".join(sorted(targets or [])),
        "quantization": _quantization(prepared.config),
        "learning_rate": arguments.learning_rate,
        "lr_scheduler_type": str(getattr(arguments.lr_scheduler_type, "value", arguments.lr_scheduler_type)),
        "batch size": arguments.per_device_train_batch_size
        * arguments.gradient_accumulation_steps
        * arguments.world_size,
        "num_train_epochs": arguments.num_train_epochs,
        "max_length": prepared.report["max_length"],
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
