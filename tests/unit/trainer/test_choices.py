"""What a run picks for its hardware, data and memory, and what the user's own word does to it."""

import json
from typing import Any

import pytest

from trainer.choices import Choices, Hardware, choose
from tuning.errors import ResourceExhausted
from tuning.memory import GIB, model_of_preset
from tuning.presets import presets
from tuning.training_config import TrainingConfig, parse_training_config

LLAMA = model_of_preset(presets()["llama-3.1-8b-instruct"])
QUANTIZED = {"load_in_4bit": True, "bnb_4bit_use_double_quant": True}


def config(**sections: Any) -> TrainingConfig:
    return parse_training_config(json.dumps({"training_config": sections}), source="x")


def pick(gib: float, settings: TrainingConfig | None = None, length: int = 1024, **hardware: Any) -> Choices:
    gpu = {"cuda": True, "bf16": True, "flash_attention": False, "free_bytes": int(gib * GIB), **hardware}
    return choose(settings or config(), Hardware(**gpu), LLAMA, length, "all-linear")


def test_on_a_large_gpu_nothing_is_traded_for_memory() -> None:
    picked = pick(140)
    assert picked.arguments["activation_checkpointing"] is False
    assert picked.arguments["bf16"]
    assert picked.arguments["tf32"]
    assert picked.arguments["per_device_train_batch_size"] == 8
    assert picked.model == {"attn_implementation": "sdpa"}
    assert "no checkpointing: it fits without" in "; ".join(picked.reasons)


def test_checkpointing_is_on_where_memory_needs_it() -> None:
    picked = pick(40)
    assert picked.arguments["activation_checkpointing"] is True
    assert "without it it would not fit" in "; ".join(picked.reasons)


def test_a_batch_that_nobody_asked_for_is_done_in_parts() -> None:
    picked = pick(17.7)
    part = picked.arguments["per_device_train_batch_size"]
    assert part < 8
    assert part * picked.arguments["gradient_accumulation_steps"] == 8


def test_a_batch_that_was_asked_for_and_does_not_fit_is_refused_with_what_does() -> None:
    with pytest.raises(ResourceExhausted, match=r"\d+ bytes .* are predicted for batch size 8") as caught:
        pick(17.7, config(TrainingArguments={"per_device_train_batch_size": 8}))
    assert "the largest that fits: per_device_train_batch_size" in caught.value.hint
    with pytest.raises(ResourceExhausted) as caught:
        pick(8)
    assert "qlora" in caught.value.hint
    pick(12, config(QuantizationConfig=QUANTIZED))


def test_checkpointing_that_was_refused_stays_off() -> None:
    with pytest.raises(ResourceExhausted):
        pick(40, config(TrainingArguments={"activation_checkpointing": False, "per_device_train_batch_size": 8}))


def test_what_no_gpu_holds_alone_is_spread_over_all() -> None:
    llama_70b = model_of_preset(presets()["llama-3.3-70b-instruct"])
    hardware = Hardware(cuda=True, bf16=True, flash_attention=False, free_bytes=78 * GIB, processes=4)
    picked = choose(config(), hardware, llama_70b, 1024, "all-linear")
    assert picked.arguments["fsdp"] is True
    assert picked.arguments["fsdp_config"]["version"] == 2
    assert "FSDP over 4 GPUs" in "; ".join(picked.reasons)


def test_padding_is_avoided_as_far_as_the_kernels_allow() -> None:
    assert pick(140, flash_attention=True).arguments["padding_free"] is True
    assert pick(140).arguments["train_sampling_strategy"] == "group_by_length"
    packed = pick(140, config(TrainingArguments={"packing": True}), 4096)
    assert "train_sampling_strategy" not in packed.arguments
    assert packed.arguments["per_device_train_batch_size"] == 1
    one = pick(140, config(TrainingArguments={"per_device_train_batch_size": 1}))
    assert "train_sampling_strategy" not in one.arguments


def test_a_model_of_unknown_shape_is_not_planned() -> None:
    hardware = Hardware(cuda=True, bf16=True, flash_attention=False, free_bytes=1)
    assert choose(config(), hardware, None, 1024, "all-linear").arguments["activation_checkpointing"] is False


def test_fp16_that_was_asked_for_is_not_joined_by_bf16() -> None:
    assert pick(140, config(TrainingArguments={"fp16": True})).arguments["bf16"] is False
