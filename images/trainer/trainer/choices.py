"""What a run picks where the configuration says nothing: for the hardware, the data and the memory at hand."""

import importlib.util
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from tuning.errors import ResourceExhausted
from tuning.memory import CONTEXT_BYTES, DEFAULT_BATCH, Model, Settings, fitting_settings, predict, settings_of
from tuning.training_config import TrainingConfig

logger = logging.getLogger(__name__)

_CGROUP_LIMIT, _CGROUP_USED = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")


@dataclass(frozen=True)
class Hardware:
    """What a process has: `free_bytes` of its GPU's memory, or of the machine's where there is no GPU."""

    cuda: bool
    bf16: bool
    flash_attention: bool
    free_bytes: int
    processes: int = 1


@dataclass(frozen=True)
class Choices:
    """Defaults for trl's SFTConfig and for from_pretrained, which what the user wrote goes over, and why."""

    arguments: Mapping[str, Any]
    model: Mapping[str, Any]
    reasons: tuple[str, ...] = field(default=())


def look_at_hardware(processes: int = 1, *, use_cpu: bool = False) -> Hardware:
    """What this process can use. `processes` is how many train together."""
    if use_cpu or not torch.cuda.is_available():
        return Hardware(cuda=False, bf16=False, flash_attention=False, free_bytes=_free_memory(), processes=processes)
    return Hardware(
        cuda=True,
        bf16=torch.cuda.is_bf16_supported(),
        flash_attention=importlib.util.find_spec("flash_attn") is not None,
        free_bytes=torch.cuda.mem_get_info()[0],
        processes=processes,
    )


def set_threads() -> None:
    """Use as many threads as the container may: more stand in each other's way (measured: twelve times slower)."""
    allowed = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            allowed = min(allowed, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    torch.set_num_threads(allowed)


def choose(config: TrainingConfig, hardware: Hardware, model: Model | None, length: int, targets: Any) -> Choices:
    """Pick for samples, or packs, of at most `length` tokens.

    `model` is None where its shape is unknown; then memory is not planned. Raises ResourceExhausted where what was
    configured would not fit, before anything is loaded.
    """
    section = config.arguments
    packing = bool(section.get("packing"))
    reasons = []
    arguments: dict[str, Any] = {
        # trl's 2e-5 is for full fine-tuning; LoRA wants ten times that and more.
        "learning_rate": 2e-4,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.03,
        "logging_steps": 5,
        "save_strategy": "no",
        "save_total_limit": 2,
        "activation_checkpointing": False,
        "per_device_train_batch_size": DEFAULT_BATCH,
        "use_cpu": not hardware.cuda,
        # Every adapter weight has a gradient in every step.
        "ddp_find_unused_parameters": False,
        "bf16": hardware.bf16 and not section.get("fp16"),
        "tf32": True if hardware.bf16 else None,
        # The router of a mixture of experts is frozen, so its balance is not ours to change.
        "router_aux_loss_coef": 0.0,
        "report_to": "none",
        "disable_tqdm": True,
    }
    options: dict[str, Any] = {}
    if hardware.cuda:
        options["attn_implementation"] = "flash_attention_2" if hardware.flash_attention else "sdpa"
    wanted = settings_of(config, targets, length, _bits(config, hardware))
    batch = wanted.batch
    arguments["per_device_train_batch_size"] = batch
    if packing:
        reasons.append(f"packs of {length} tokens: no padding")
    elif batch > 1 and hardware.flash_attention and not config.collator:
        arguments["padding_free"] = True
        reasons.append("flash attention: batches without padding")
    elif batch > 1:
        arguments["train_sampling_strategy"] = "group_by_length"
        reasons.append("samples of like length together: little padding")
    if not hardware.cuda and not packing:
        # On a CPU each new shape of bf16 costs a set-up: fewer shapes are faster by 1.4.
        arguments["pad_to_multiple_of"] = 64
    if model is not None:
        planned = _plan_memory(config, hardware, model, wanted)
        arguments.update(planned.arguments)
        reasons += planned.reasons
    return Choices(arguments, options, tuple(reasons))


def _plan_memory(config: TrainingConfig, hardware: Hardware, model: Model, wanted: Settings) -> Choices:
    asked = config.arguments.get("activation_checkpointing")
    # The context is CUDA's; a CPU has none.
    context = 0 if hardware.cuda else CONTEXT_BYTES
    available = hardware.free_bytes + context
    needed = predict(model, wanted).total
    told = f"predicted {_gib(needed - context)}, free {_gib(hardware.free_bytes)}"
    if needed <= available:
        reason = "checkpointing as asked for" if asked else "no checkpointing: it fits without"
        return Choices({}, {}, (f"{reason} ({told})",))
    checkpointed = replace(wanted, checkpointing=True)
    if asked is None and predict(model, checkpointed).total <= available:
        return Choices(
            {"activation_checkpointing": True}, {}, (f"checkpointing: without it it would not fit ({told})",)
        )
    spread = replace(checkpointed, shards=hardware.processes)
    if hardware.processes > 1 and predict(model, spread).total <= available and not config.arguments.get("fsdp"):
        return Choices(_FSDP, {}, (f"FSDP over {hardware.processes} GPUs: one alone would not hold it ({told})",))
    fits = fitting_settings(model, wanted, available)
    if fits is not None and "per_device_train_batch_size" not in config.arguments and fits.length == wanted.length:
        smaller = {
            "activation_checkpointing": True,
            "per_device_train_batch_size": fits.batch,
            "gradient_accumulation_steps": wanted.batch // fits.batch,
        }
        return Choices(smaller, {}, (f"{fits.batch} samples at a time, {wanted.batch} a step ({told})",))
    advice = (
        f"the largest that fits: per_device_train_batch_size {fits.batch}, max_length {fits.length}, "
        "activation_checkpointing true"
        if fits
        else "nothing fits on this GPU: use method qlora, or a larger GPU"
    )
    raise ResourceExhausted(
        f"the run would not fit into memory: {needed - context} bytes ({_gib(needed - context)}) are predicted for "
        f"batch size {wanted.batch} and {wanted.length} tokens, {hardware.free_bytes} bytes "
        f"({_gib(hardware.free_bytes)}) are free",
        hint=advice,
    )


# Fully sharded: weights, gradients and optimizer over all GPUs, gathered layer by layer.
_FSDP: dict[str, Any] = {
    "fsdp": True,
    "fsdp_config": {
        "version": 2,
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "cpu_ram_efficient_loading": True,
        "activation_checkpointing": True,
    },
}


def _bits(config: TrainingConfig, hardware: Hardware) -> int:
    if config.quantization.get("load_in_4bit"):
        return 4
    if config.quantization.get("load_in_8bit"):
        return 8
    return 32 if str(config.model.get("dtype", "")).endswith("float32") or not hardware.cuda else 16


def _free_memory() -> int:
    """The bytes that this container can still take: of the machine's, and of its own limit."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    try:
        return min(free, int(_CGROUP_LIMIT.read_text()) - int(_CGROUP_USED.read_text()))
    except (OSError, ValueError):
        return free


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB"
