"""Every architecture of the presets, at toy size with random weights: LoRA and QLoRA train, save and load again."""

from pathlib import Path
from typing import Any

import pytest
from tests.support.tuning import QUICK, tune_here

from tuning.presets import Preset, presets

QUANTIZED = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
ARCHITECTURES = {preset.architecture: preset for preset in presets().values()}
# bitsandbytes on a CPU wants every width to be a multiple of 32.
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 256,
}
OTHERS: dict[str, dict[str, Any]] = {
    "falcon": {"multi_query": True, "new_decoder_architecture": False, "ffn_hidden_size": 128, "alibi": False},
    "gpt_oss": {"num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 64, "rope_parameters": None},
    "gemma3_text": {"sliding_window": 64},
    "phi3": {"pad_token_id": 0, "original_max_position_embeddings": 256},
}


def make_model(folder: Path, tokenizer_folder: Path, architecture: str) -> Path:
    """Save a toy model of `architecture` with the tokenizer of another one."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    sizes = {**SIZES, **OTHERS.get(architecture, {})}
    if architecture == "falcon":
        # It computes this one.
        del sizes["head_dim"]
    shape = AutoConfig.for_model(
        architecture,
        **sizes,
        vocab_size=-(-len(tokenizer) // 32) * 32,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("method", ["lora", "qlora"])
@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_an_architecture_trains_and_its_adapter_loads(
    architecture: str, method: str, tiny_model: Path, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    preset = ARCHITECTURES[architecture]
    if method not in preset.methods:
        assert (architecture, method) == ("gpt_oss", "qlora")
        return
    model = make_model(tmp_path / "model", tiny_model, architecture)
    completed = tune_here(
        tmp_path,
        model,
        base_model_name=preset.hub_id,
        QuantizationConfig=QUANTIZED if method == "qlora" else {},
        LoraConfig={"r": 4},
        TrainingArguments={**QUICK, "learning_rate": 1e-2},
    )
    assert completed.steps == 4
    assert completed.method == method
    base = AutoModelForCausalLM.from_pretrained(model)
    tuned = PeftModel.from_pretrained(base, str(tmp_path / "results"))
    changed = {name.split(".")[-4] for name, weight in tuned.named_parameters() if "lora_B" in name and weight.any()}
    expected = {"q_proj", "k_proj", "v_proj", "o_proj"} if architecture == "gpt_oss" else set()
    assert changed >= expected
    assert changed, "the adapter learnt something"


@pytest.mark.parametrize("bits", [{"load_in_8bit": True}, {"load_in_4bit": True, "bnb_4bit_compute_dtype": "bfloat16"}])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bits_and_types(bits: dict[str, Any], dtype: str, tiny_model: Path, tmp_path: Path) -> None:
    assert tune_here(tmp_path, tiny_model, QuantizationConfig=bits, ModelConfig={"dtype": dtype}).method == "qlora"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_lora_on_a_base_of_any_type(dtype: str, tiny_model: Path, tmp_path: Path) -> None:
    assert tune_here(tmp_path, tiny_model, ModelConfig={"dtype": dtype}).method == "lora"


@pytest.mark.parametrize("preset", presets().values(), ids=lambda preset: preset.name)
def test_a_presets_shape_is_that_of_its_parameters(preset: Preset) -> None:
    """The written shape, made without weights, has as many parameters as are written."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = preset.shape
    assert shape is not None
    sizes = {
        "num_hidden_layers": shape.layers,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": shape.context,
    }
    if preset.architecture in ("qwen3", "gemma3_text", "gpt_oss", "llama", "mistral"):
        sizes["head_dim"] = shape.head_dim
    extra: dict[str, Any] = {"tie_word_embeddings": preset.tied} if preset.architecture != "falcon" else {}
    if preset.architecture == "falcon":
        wide = shape.kv_heads > 1
        extra = {"new_decoder_architecture": wide, "num_kv_heads": shape.kv_heads, "alibi": False}
    if preset.experts:
        extra["num_local_experts"] = preset.experts
    if preset.architecture == "phi3":
        extra["pad_token_id"] = 0
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(preset.architecture, **sizes, **extra))
    assert model.num_parameters() == preset.parameters
    assert shape.head_dim * shape.heads == shape.hidden or preset.architecture in ("qwen3", "gemma3_text", "gpt_oss")
