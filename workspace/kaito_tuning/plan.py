"""What a Workspace will cost, before anything is scheduled: steps, memory, disk, time, and what would be better.

    samples   = rows x train_test_split
    step      = per_device_train_batch_size x gradient_accumulation_steps x GPUs x nodes samples
    steps     = ceil(samples / step) x num_train_epochs; with packing a sample is a pack of max_length tokens

What is not known is assumed, and said.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kaito_tuning.instances import find_instance
from kaito_tuning.pod import Pod
from kaito_tuning.sampling import Sample
from kaito_tuning.workspace import Workspace
from tuning.memory import (
    DEFAULT_BATCH,
    Model,
    Prediction,
    Settings,
    fitting_settings,
    predict,
    settings_of,
    trainable_parameters,
)
from tuning.training_config import TrainingConfig

GIB = 1 << 30
# English text, in the tokenizers of the presets, by their publishers' figures.
CHARACTERS_PER_TOKEN = 4.0
# A pack where the configuration names no length, and a sample where nothing is known of the data.
PACK_LENGTH = 2048
# Dense bf16 matrix rates in 10^12 operations a second, by the makers' data sheets, and the share that a tuning reaches.
_RATES = {"T4": 65, "V100": 125, "A10": 125, "A10G": 125, "L4": 121, "L40S": 362, "A100": 312, "H100": 990, "H200": 990}
_REACHED = 0.35
# Where nothing is known of the GPU.
_ASSUMED_GIB = 79


@dataclass(frozen=True)
class Suggestion:
    """A setting that would be better, and what it changes."""

    setting: str
    effect: str


@dataclass(frozen=True)
class Plan:
    """The figures of a run. Memory is of one GPU; None stands for what cannot be known from here."""

    model: str
    method: str
    gpus: int
    gpu: str
    gpu_gib: int
    rows: int | None
    tokens_per_row: int | None
    samples_per_step: int
    batch: int
    length: int
    epochs: float
    steps: int | None
    trainable: int | None
    memory: Prediction | None
    fits: bool | None
    checkpointing: bool
    data_bytes: int | None
    output_bytes: int | None
    seconds: float | None
    suggestions: tuple[Suggestion, ...]
    assumptions: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values, for programs."""
        content = {**vars(self)}
        content["memory"] = {**vars(self.memory), "total": self.memory.total} if self.memory else None
        content["suggestions"] = [vars(suggestion) for suggestion in self.suggestions]
        content["assumptions"] = list(self.assumptions)
        return content


def make_plan(
    workspace: Workspace,
    config: TrainingConfig,
    pod: Pod,
    model: Model | None,
    sample: Sample | None,
    notes: Sequence[str] = (),
) -> Plan:
    """The plan of `workspace` with `config`, for a base model and a dataset like `sample`, each None where not known.

    `notes` stand before what is assumed here.
    """
    assumptions = list(notes)
    instance = find_instance(workspace.resource.instance_type)
    if instance is None:
        named = workspace.resource.instance_type or "none is named"
        assumptions.append(f"the instance type is not known ({named}): a GPU of {_ASSUMED_GIB} GiB")
    available = (instance.gib if instance else _ASSUMED_GIB) * GIB
    if model is None:
        assumptions.append(f"the shape of {workspace.preset.hub_id} is not known: no memory is predicted")
    if sample is None:
        assumptions.append("the dataset could not be sampled: give --data with a local copy, or --rows")
    else:
        assumptions.append(f"{CHARACTERS_PER_TOKEN:.0f} characters are a token")
        if not sample.whole:
            assumptions.append("the rows are estimated from the first MiB of each file")
    arguments = config.arguments
    packing = bool(arguments.get("packing"))
    tokens = math.ceil(sample.characters_per_row / CHARACTERS_PER_TOKEN) if sample else None
    length = _length(arguments, model, tokens, packing=packing)
    nodes = workspace.resource.count
    targets = config.lora.get("target_modules") or workspace.preset.targets
    wanted = settings_of(config, targets, length, _bits(config))
    fitting = fitting_settings(model, wanted, available) if model else None
    chosen = _chosen(arguments, wanted, fitting)
    memory = predict(model, chosen) if model else None
    per_step = _samples_per_step(arguments, wanted.batch, pod.gpus * nodes)
    epochs = float(arguments.get("num_train_epochs") or 3)
    samples = None if sample is None else sample.rows * float(config.dataset.get("train_test_split") or 1)
    steps = _steps(arguments, samples, tokens, length, per_step, epochs, packing=packing)
    trainable = trainable_parameters(model, chosen) if model else None
    plan = Plan(
        model=workspace.preset.hub_id,
        method=workspace.method,
        gpus=pod.gpus * nodes,
        gpu=instance.gpu if instance else "",
        gpu_gib=available // GIB,
        rows=sample.rows if sample else None,
        tokens_per_row=tokens,
        samples_per_step=per_step,
        batch=chosen.batch,
        length=length,
        epochs=epochs,
        steps=steps,
        trainable=trainable,
        memory=memory,
        fits=None if memory is None else memory.total <= available,
        checkpointing=chosen.checkpointing,
        data_bytes=(sample.size_bytes or None) if sample else None,
        # Adapter in full precision, and its image's worth of it again while it is saved.
        output_bytes=None if trainable is None else 2 * 4 * trainable,
        seconds=_seconds(
            model, instance.gpu if instance else "", steps, per_step, length, tokens, pod.gpus * nodes, packing
        ),
        suggestions=(),
        assumptions=tuple(assumptions),
    )
    found = _suggestions(plan, model, chosen, arguments, samples, available)
    return replace(plan, suggestions=tuple(found))


def sample_of_workspace(workspace: Workspace) -> Path | None:
    """The folder of this machine that holds the dataset, where the Workspace names one (a hostPath)."""
    host = (workspace.tuning.input.volume_source or {}).get("hostPath", {})
    return Path(host["path"]) if "path" in host else None


def _length(arguments: Any, model: Model | None, tokens: int | None, *, packing: bool) -> int:
    """Tokens of the longest sample, or of a pack: as configured, else as the data has, never above the context."""
    context = model.shape.context if model else PACK_LENGTH
    limit = min(int(arguments.get("max_length") or context), context)
    if packing or tokens is None:
        return min(limit, PACK_LENGTH) if not arguments.get("max_length") else limit
    # The longest rows are a few times as long as the mean.
    return min(limit, max(128, 4 * tokens))


def _bits(config: TrainingConfig) -> int:
    return 4 if config.quantization.get("load_in_4bit") else 8 if config.quantization.get("load_in_8bit") else 16


def _chosen(arguments: Any, wanted: Settings, fitting: Settings | None) -> Settings:
    """What the trainer will do: it turns checkpointing on and halves a batch that it chose itself; nothing more."""
    if fitting is None or fitting.length != wanted.length:
        return replace(wanted, checkpointing=True)
    if fitting.batch != wanted.batch and "per_device_train_batch_size" in arguments:
        return replace(wanted, checkpointing=True)
    return fitting


def _samples_per_step(arguments: Any, batch: int, gpus: int) -> int:
    return batch * int(arguments.get("gradient_accumulation_steps") or 1) * gpus


def _steps(
    arguments: Any,
    samples: float | None,
    tokens: int | None,
    length: int,
    per_step: int,
    epochs: float,
    *,
    packing: bool,
) -> int | None:
    if (limit := int(arguments.get("max_steps") or -1)) > 0:
        return limit
    if samples is None or tokens is None:
        return None
    passed = math.ceil(samples * min(tokens, length) / length) if packing else math.ceil(samples)
    return math.ceil(math.ceil(passed / per_step) * epochs)


def _seconds(
    model: Model | None,
    gpu: str,
    steps: int | None,
    per_step: int,
    length: int,
    tokens: int | None,
    gpus: int,
    packing: bool,
) -> float | None:
    """Forward, and backward to the activations: 4 operations for each weight and token (arXiv:2001.08361, 2.1)."""
    if model is None or steps is None or tokens is None or gpu not in _RATES:
        return None
    passed = steps * per_step * (length if packing else min(tokens, length))
    return 4.0 * model.parameters * passed / (_RATES[gpu] * 1e12 * _REACHED * gpus)


def _suggestions(
    plan: Plan, model: Model | None, chosen: Settings, arguments: Any, samples: float | None, available: int
) -> Iterator[Suggestion]:
    """What would help, the most helpful first."""
    if model is not None and plan.fits is False:
        smaller = fitting_settings(model, replace(chosen, checkpointing=True), available)
        if smaller:
            yield Suggestion(
                f"per_device_train_batch_size: {smaller.batch}, max_length: {smaller.length}",
                f"fits: {_gib(predict(model, smaller).total)} of {plan.gpu_gib} GiB",
            )
        elif chosen.bits == 16:
            quantized = replace(chosen, bits=4, batch=1, checkpointing=True)
            total = predict(model, quantized).total
            fits = "fits" if total <= available else "still does not fit"
            yield Suggestion("method: qlora", f"{fits}: {_gib(total)} of {plan.gpu_gib} GiB")
    if samples and plan.tokens_per_row and plan.steps and not arguments.get("packing"):
        packed = _steps(
            arguments,
            samples,
            plan.tokens_per_row,
            PACK_LENGTH,
            _samples_per_step(arguments, 1, plan.gpus),
            plan.epochs,
            packing=True,
        )
        if packed and packed < plan.steps * 0.8 and int(arguments.get("max_steps") or -1) < 0:
            yield Suggestion(f"packing: true, max_length: {PACK_LENGTH}", f"{plan.steps:,} → {packed:,} steps")
    asked = arguments.get("per_device_train_batch_size")
    if model is not None and asked and plan.fits and plan.steps:
        larger = chosen.batch
        while larger < DEFAULT_BATCH and predict(model, replace(chosen, batch=larger * 2)).total <= available:
            larger *= 2
        if larger > chosen.batch:
            total = predict(model, replace(chosen, batch=larger)).total
            steps = math.ceil(plan.steps * chosen.batch / larger)
            yield Suggestion(
                f"per_device_train_batch_size: {larger}",
                f"fits: {_gib(total)} of {plan.gpu_gib} GiB, {plan.steps:,} → {steps:,} steps",
            )


def _gib(size: int) -> str:
    return f"{size / GIB:.0f} GiB"
