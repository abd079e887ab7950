"""The memory plan against what the layers of the real models keep, measured at their real widths."""

import json
from pathlib import Path
from typing import Any

import pytest

from tuning.memory import (
    GIB,
    Model,
    Settings,
    adapted_layers,
    fitting_settings,
    kept_bytes_per_token,
    model_of_config,
    model_of_folder,
    model_of_preset,
    predict,
    trainable_parameters,
)
from tuning.presets import presets


def model(name: str) -> Model:
    found = model_of_preset(presets()[name])
    assert found is not None
    return found


def measured_bytes_per_token(name: str, lora: dict[str, Any], *, half: bool) -> float:
    """What one more layer keeps of one more token, in this process, by the hooks of autograd."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    class Attention(torch.autograd.Function):
        """Keeps what a memory-efficient kernel keeps."""

        @staticmethod
        def forward(ctx: Any, q: Any, k: Any, v: Any) -> Any:
            output = torch.empty_like(q).transpose(1, 2).contiguous()
            ctx.save_for_backward(q, k, v, output, torch.empty(q.shape[:3]))
            return output

    ALL_ATTENTION_FUNCTIONS.register("kept", lambda module, q, k, v, mask, **_: (Attention.apply(q, k, v), None))
    preset = presets()[name]
    shape = preset.shape
    assert shape is not None
    sizes: dict[str, Any] = {
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "vocab_size": 1024,
    }
    if preset.architecture in ("qwen3", "gemma3_text", "llama"):
        sizes["head_dim"] = shape.head_dim
    if preset.architecture == "phi3":
        sizes["pad_token_id"] = 0

    def kept(layers: int, tokens: int) -> int:
        config = AutoConfig.for_model(preset.architecture, num_hidden_layers=layers, **sizes)
        with torch.device("meta"):
            base = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="kept")
        config.use_cache = False
        tuned: Any = get_peft_model(
            base, LoraConfig(task_type="CAUSAL_LM", r=8, **lora), low_cpu_mem_usage=True
        ).to_empty(device="cpu")
        if half:
            tuned = tuned.to(torch.bfloat16)
        own = {p.untyped_storage()._cdata for p in [*tuned.parameters(), *tuned.buffers()]}
        seen: dict[int, Any] = {}

        def keep(tensor: Any) -> Any:
            storage = tensor.untyped_storage()
            if storage._cdata not in own:
                seen[storage._cdata] = storage
            return tensor

        hidden = torch.zeros(1, tokens, shape.hidden, dtype=torch.bfloat16, requires_grad=True)
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16),
        ):
            tuned.base_model.model.model(inputs_embeds=hidden)
        return sum(storage.nbytes() for storage in seen.values())

    # The difference of differences leaves out what is kept once for a model or for a layer.
    return (kept(2, 48) - kept(1, 48) - kept(2, 16) + kept(1, 16)) / 32


@pytest.mark.parametrize(
    "lora", [{}, {"lora_dropout": 0.05}, {"target_modules": "some"}], ids=["all", "dropout", "some"]
)
@pytest.mark.parametrize(
    "name",
    ["llama-3.2-1b-instruct", "llama-3.2-3b-instruct", "phi-4-mini-instruct", "phi-2", "qwen3-0.6b", "gemma-3-1b-it"],
)
def test_what_a_layer_keeps_is_predicted_within_a_twentieth(name: str, lora: dict[str, Any]) -> None:
    targets: Any = "all-linear"
    if lora.get("target_modules"):
        targets = ("qkv_proj", "o_proj") if name.startswith("phi-4") else ("q_proj", "v_proj")
    settings = Settings(1, 1, targets=targets, dropout="lora_dropout" in lora)
    given = {**lora, "target_modules": targets if isinstance(targets, str) else list(targets)}
    measured = measured_bytes_per_token(name, given, half=False)
    assert kept_bytes_per_token(model(name), settings) == pytest.approx(measured, rel=0.05)


def test_of_a_quantized_model_the_layers_share_their_input() -> None:
    measured = measured_bytes_per_token("llama-3.2-1b-instruct", {"target_modules": "all-linear"}, half=True)
    predicted = kept_bytes_per_token(model("llama-3.2-1b-instruct"), Settings(1, 1, bits=4))
    assert predicted == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize(
    ("name", "adapter"),
    [("llama-3.1-8b-instruct", 20_971_520), ("phi-3-mini-4k-instruct", 12_582_912), ("falcon-7b", 16_318_464)],
)
def test_the_parameters_of_the_adapter_are_exact(name: str, adapter: int) -> None:
    assert trainable_parameters(model(name), Settings(1, 1, rank=8)) == adapter


def test_the_weights_of_a_quantized_model_are_a_third_of_the_others() -> None:
    whole = predict(model("llama-3.1-8b-instruct"), Settings(1, 1024)).weights
    four = predict(model("llama-3.1-8b-instruct"), Settings(1, 1024, bits=4, double_quantized=True)).weights
    assert whole / GIB == pytest.approx(14.96, abs=0.01)
    assert four / GIB == pytest.approx(5.31, abs=0.05)


def test_checkpointing_keeps_a_fraction() -> None:
    llama = model("llama-3.1-8b-instruct")
    without = predict(llama, Settings(1, 1024)).activations
    with_it = predict(llama, Settings(1, 1024, checkpointing=True)).activations
    assert without / GIB == pytest.approx(6.6, abs=0.3)
    assert with_it / GIB == pytest.approx(0.46, abs=0.03)


def test_the_largest_settings_that_fit_are_found_in_order() -> None:
    llama = model("llama-3.1-8b-instruct")
    wanted = Settings(8, 2048)
    assert fitting_settings(llama, wanted, 200 * GIB) == wanted
    smaller = fitting_settings(llama, wanted, 40 * GIB)
    assert smaller is not None
    assert (smaller.batch, smaller.length, smaller.checkpointing) == (8, 2048, True)
    smaller = fitting_settings(llama, wanted, 18 * GIB)
    assert smaller is not None
    assert smaller.checkpointing
    assert smaller.batch * smaller.length < wanted.batch * wanted.length
    assert predict(llama, smaller).total <= 18 * GIB
    assert fitting_settings(llama, wanted, 10 * GIB) is None


def test_targets_are_read_as_the_library_reads_them() -> None:
    llama = model("llama-3.1-8b-instruct")
    assert list(adapted_layers(llama, ("q_proj", "model.layers.0.mlp.up_proj"))) == ["q_proj", "up_proj"]
    assert list(adapted_layers(llama, r".*\.(q|v)_proj")) == ["q_proj", "v_proj"]
    assert len(adapted_layers(llama, "all-linear")) == 7


def test_a_folder_tells_its_shape_and_parameters(tiny_model: Path) -> None:
    from transformers import AutoModelForCausalLM

    found = model_of_folder(tiny_model)
    assert found is not None
    assert found.parameters == AutoModelForCausalLM.from_pretrained(tiny_model).num_parameters()
    assert (found.architecture, found.shape.layers, found.shape.hidden) == ("llama", 4, 160)
    config = json.loads((tiny_model / "config.json").read_text())
    assert model_of_config(config) == model_of_config({"text_config": config, "tie_word_embeddings": True})
    counted = model_of_config(config)
    assert counted is not None
    assert counted.parameters == pytest.approx(found.parameters, rel=0.01)
    assert model_of_config({"model_type": "strange"}) is None
    assert model_of_folder(tiny_model / "nowhere") is None
