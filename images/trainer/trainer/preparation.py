"""Everything that can be known, and can be wrong, before the weights are loaded."""

import hashlib
import importlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.base_model import empty_model, find_base_model, load_shape, load_tokenizer, longest_context
from trainer.chat_template import choose_chat_template
from trainer.checkpoints import find_checkpoint
from trainer.dataset import Dataset, read_dataset
from trainer.labels import Labels, write_report
from trainer.serving import serving_problems
from trainer.settings import Settings
from trainer.targets import check_targets, choose_targets
from trainer.tokens import Encoded, Learnt
from tuning import memory
from tuning.errors import InputNotFound
from tuning.presets import Preset, find_preset
from tuning.training_config import TrainingConfig, parse_training_config

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """A run that is known to be right: what is trained on what, and how."""

    config: TrainingConfig
    source: str
    base_model_name: str
    model_options: Mapping[str, Any]
    dataset: Dataset
    tokenizer: Any
    template_is_ours: bool
    train: Sequence[Encoded]
    held_out: Sequence[Encoded]
    report: Mapping[str, Any]
    recipe: Any
    serving_problems: Sequence[str]
    identity: Mapping[str, str]


def prepare(settings: Settings, results: Path, processes: int, *, first: bool) -> Prepared:
    """Read and check all that goes into the run; the `first` of its `processes` writes the label report.

    Raises the cause of what is wrong, the cheap ones to find first.
    """
    start = time.monotonic()
    config = read_config(settings)
    source = find_base_model(config, settings.weights)
    dataset = read_dataset(
        settings.dataset_folder, config.dataset, config.arguments.get("dataset_text_field") or "text"
    )
    identity = {"config": config.digest, "data": dataset.digest or _digest_of_rows(dataset), "base_model": source}
    checkpoint = find_checkpoint(config.arguments.get("resume_from_checkpoint"), results, identity)
    logger.info(
        "checked method=%s base_model=%s train_samples=%d held_out_samples=%d seconds=%.2f",
        config.method,
        source,
        len(dataset.train),
        len(dataset.held_out),
        time.monotonic() - start,
    )
    name = settings.base_model_name or (Path(source).name if Path(source).is_dir() else source)
    preset = find_preset(name)
    # From here on the libraries are needed, which take seconds to import.
    importlib.import_module("trainer.libraries").quiet_libraries()
    fitting = importlib.import_module("trainer.fitting")
    choices = importlib.import_module("trainer.choices")
    choices.set_threads()
    shape = load_shape(source, config)
    context = longest_context(shape)
    tokenizer = load_tokenizer(source, config)
    template_is_ours = choose_chat_template(tokenizer, config, preset)
    labels = Labels(
        tokenizer,
        config.arguments.get("max_length") or context,
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
    if first:
        write_report(results, report)
    targets = choose_targets(config.lora, preset)
    if (empty := empty_model(source, config)) is not None:
        check_targets(targets, config.lora, empty)
    longest = max(len(sample.input_ids) for sample in [*train, *held_out])
    length = longest
    if config.arguments.get("packing"):
        packing = importlib.import_module("trainer.packing")
        length = config.arguments.get("max_length") or packing.pack_length(longest, context)
    hardware = choices.look_at_hardware(processes, use_cpu=bool(config.arguments.get("use_cpu")))
    chosen = choices.choose(config, hardware, _memory_model(source, preset), length, targets)
    if chosen.reasons:
        logger.info("picked %s", "; ".join(chosen.reasons))
    recipe = fitting.Recipe(
        lora=fitting.parse_lora(config.lora, targets),
        arguments=fitting.parse_arguments(
            config.arguments, chosen.arguments, results, length, evaluates=bool(held_out)
        ),
        collator=config.collator,
        loraplus_lr_ratio=config.lora.get("loraplus_lr_ratio"),
        checkpoint=checkpoint,
        oom_retry=settings.oom_retry,
    )
    problems = serving_problems(recipe.lora, shape.model_type)
    for problem in problems:
        logger.warning("vLLM: %s", problem)
    return Prepared(
        config=config,
        source=source,
        base_model_name=name,
        model_options=chosen.model,
        dataset=dataset,
        tokenizer=tokenizer,
        template_is_ours=template_is_ours,
        train=train,
        held_out=held_out,
        report=report,
        recipe=recipe,
        serving_problems=problems,
        identity=identity,
    )


def _memory_model(source: str, preset: Preset | None) -> memory.Model | None:
    if Path(source).is_dir():
        return memory.model_of_folder(Path(source))
    return memory.model_of_preset(preset) if preset else None


def _digest_of_rows(dataset: Dataset) -> str:
    """What tells one dataset from another where no manifest does."""
    rows = hashlib.sha256()
    for sample in [*dataset.train, *dataset.held_out]:
        rows.update(repr(sample).encode())
    return "rows:" + rows.hexdigest()


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
