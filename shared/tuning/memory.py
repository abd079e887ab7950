"""Predicted peak GPU memory of a tuning run, from the model's shape and the settings: no torch, microseconds.

    peak = weights + adapter + activations + head + workspace + context

- weights: 2 bytes a parameter; quantized ones 0.5 plus their constants (QLoRA, Dettmers et al., 2023, section 3).
- adapter: weights, gradients and AdamW's two moments of the trained parameters.
- activations: what a layer's forward pass keeps for its backward pass, counted tensor by tensor (eager operations under
  autocast, an attention kernel that keeps no scores). With checkpointing only each layer's input, and one whole layer.
- head: the loss of trl works on tiles of the logits, which are never whole.
- workspace: the largest layer, dequantized; context: what CUDA and its allocator take.
"""

import json
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tuning.presets import Preset, Shape
from tuning.training_config import TrainingConfig

# Samples of a step where the configuration says nothing.
DEFAULT_BATCH = 8

GIB = 1 << 30
# CUDA's context and libraries, and what the allocator cannot use for its pieces.
CONTEXT_BYTES = int(0.9 * GIB)
FRAGMENTATION = 0.05
_HEAD_TILE_TOKENS, _HEAD_TILE_VOCABULARY = 4096, 32768


@dataclass(frozen=True)
class Model:
    """What of a base model matters for memory. `parameters` counts all of its weights."""

    architecture: str
    shape: Shape
    parameters: int
    tied: bool = False


@dataclass(frozen=True)
class Settings:
    """What of the configuration matters for memory. `batch` samples of `length` tokens pass at a time."""

    batch: int
    length: int
    rank: int = 8
    targets: str | tuple[str, ...] = "all-linear"
    bits: int = 16
    double_quantized: bool = False
    dropout: bool = False
    checkpointing: bool = False
    eight_bit_optimizer: bool = False
    # Over how many GPUs the weights are spread.
    shards: int = 1


def settings_of(config: TrainingConfig, targets: str | Sequence[str], length: int, bits: int) -> Settings:
    """What `config` asks for with samples, or packs, of `length` tokens and base weights of `bits` each."""
    section = config.arguments
    return Settings(
        batch=int(section.get("per_device_train_batch_size") or (1 if section.get("packing") else DEFAULT_BATCH)),
        length=length,
        rank=int(config.lora.get("r") or 8),
        targets=targets if isinstance(targets, str) else tuple(targets),
        bits=bits,
        double_quantized=bool(config.quantization.get("bnb_4bit_use_double_quant")),
        dropout=bool(config.lora.get("lora_dropout")),
        checkpointing=bool(section.get("activation_checkpointing")),
        eight_bit_optimizer="8bit" in str(section.get("optim", "")),
    )


@dataclass(frozen=True)
class Prediction:
    """Bytes of each part on one GPU."""

    weights: int
    adapter: int
    activations: int
    head: int
    workspace: int

    @property
    def total(self) -> int:
        """The predicted peak, the CUDA context included."""
        return CONTEXT_BYTES + int(self.allocated * (1 + FRAGMENTATION))

    @property
    def allocated(self) -> int:
        """The predicted peak of what the allocator hands out."""
        return self.weights + self.adapter + self.activations + self.head + self.workspace


def linear_layers(model: Model) -> dict[str, tuple[int, int]]:
    """The linear layers of one decoder block that LoRA adapts, each with its input and output width."""
    shape = model.shape
    hidden, inner = shape.hidden, shape.intermediate
    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    separate = {"q_proj": (hidden, query), "k_proj": (hidden, key), "v_proj": (hidden, key)}
    match model.architecture:
        case "phi3":
            return {
                "qkv_proj": (hidden, query + 2 * key),
                "o_proj": (query, hidden),
                "gate_up_proj": (hidden, 2 * inner),
                "down_proj": (inner, hidden),
            }
        case "falcon":
            return {
                "query_key_value": (hidden, query + 2 * key),
                "dense": (query, hidden),
                "dense_h_to_4h": (hidden, inner),
                "dense_4h_to_h": (inner, hidden),
            }
        case "phi":
            return {**separate, "dense": (query, hidden), "fc1": (hidden, inner), "fc2": (inner, hidden)}
        case "gpt_oss":
            return {**separate, "o_proj": (query, hidden)}
    return {
        **separate,
        "o_proj": (query, hidden),
        "gate_proj": (hidden, inner),
        "up_proj": (hidden, inner),
        "down_proj": (inner, hidden),
    }


def adapted_layers(model: Model, targets: str | tuple[str, ...]) -> dict[str, tuple[int, int]]:
    """Those of `linear_layers` that `targets` (as LoraConfig.target_modules) means; all of them where none is known."""
    layers = linear_layers(model)
    if isinstance(targets, str):
        chosen = {name for name in layers if re.search(targets, f"model.layers.0.block.{name}")}
    else:
        chosen = {name for name in layers if any(target.split(".")[-1] == name for target in targets)}
    return {name: widths for name, widths in layers.items() if name in chosen} or layers


def trainable_parameters(model: Model, settings: Settings) -> int:
    """The parameters of the adapter: r x (input + output) of each adapted layer."""
    adapted = adapted_layers(model, settings.targets)
    return model.shape.layers * settings.rank * sum(sum(widths) for widths in adapted.values())


def kept_bytes_per_token(model: Model, settings: Settings) -> int:
    """What one layer keeps of each token for the backward pass, in bytes.

    Every adapted layer keeps its input in half precision, once more in full where dropout is applied to it.
    """
    shape = model.shape
    hidden, inner = shape.hidden, shape.intermediate
    query, keys = shape.heads * shape.head_dim, 2 * shape.kv_heads * shape.head_dim
    adapted = adapted_layers(model, settings.targets)
    # q, the output of attention, k, v, and the log-sum-exp of each head.
    attention = 4 * query + 2 * keys + 4 * shape.heads
    # RMSNorm works in full precision and keeps its input so; two of them in a block.
    norms = 8 * hidden
    # Gate, its activation, and the other branch.
    mlp = 6 * inner
    match model.architecture:
        case "gemma3_text":
            norms, attention = 16 * hidden, attention + 4 * query + 2 * keys
        case "qwen3":
            attention += 4 * query + 2 * keys
        case "phi3":
            # v is a view that keeps the whole fused projection.
            attention += 2 * query + keys
        case "phi":
            norms, mlp = 2 * hidden, 8 * inner
        case "falcon":
            norms, mlp = 8 * hidden, 2 * inner
        case "gpt_oss":
            # Router and experts of the chosen four of them, in eager operations.
            mlp = 4 * 10 * inner
    inputs = sum(width for width, _ in adapted.values())
    if settings.bits == 16:
        adapters = 2 * inputs
    else:
        # trl keeps the adapter of a quantized model in half precision: layers with one input share it.
        adapters = 2 * sum({(name[:1] in "qkv", width): width for name, (width, _) in adapted.items()}.values())
    dropout = 4 * inputs if settings.dropout else 0
    return norms + attention + mlp + adapters + dropout + 2 * settings.rank * len(adapted)


def predict(model: Model, settings: Settings) -> Prediction:
    """The peak memory of one training step on one GPU."""
    shape = model.shape
    embeddings = shape.vocabulary * shape.hidden * (1 if model.tied else 2)
    linear = max(model.parameters - embeddings, 0)
    if settings.bits == 16:
        weights = 2 * model.parameters
    else:
        # A constant for 64 weights: 4 bytes, or 1 and 4 for 256 of them where they are quantized themselves.
        constants = 1 / 64 + 4 / (64 * 256) if settings.double_quantized else 4 / 64
        weights = int(linear * (settings.bits / 8 + (constants if settings.bits == 4 else 0))) + 2 * embeddings
    trained = trainable_parameters(model, settings)
    precision = 4 if settings.bits == 16 else 2
    moments = 2 if settings.eight_bit_optimizer else 2 * precision
    tokens = settings.batch * settings.length
    kept = kept_bytes_per_token(model, settings)
    if settings.checkpointing:
        activations = tokens * (2 * shape.hidden * shape.layers + kept)
    else:
        activations = tokens * kept * shape.layers
    tile = min(tokens, _HEAD_TILE_TOKENS) * min(shape.vocabulary, _HEAD_TILE_VOCABULARY) * 2
    largest = max(inputs * outputs for inputs, outputs in linear_layers(model).values())
    return Prediction(
        weights=weights // settings.shards,
        adapter=trained * (2 * precision + moments),
        activations=activations,
        head=tile + 6 * tokens * shape.hidden,
        workspace=2 * largest if settings.bits == 4 or settings.shards > 1 else 0,
    )


def fitting_settings(model: Model, wanted: Settings, available_bytes: int) -> Settings | None:
    """The largest settings that fit: as wanted, with checkpointing, with a smaller batch, then with shorter samples.

    None where not even one sample of 128 tokens does.
    """
    if predict(model, wanted).total <= available_bytes:
        return wanted
    smaller = replace(wanted, checkpointing=True)
    while predict(model, smaller).total > available_bytes:
        if smaller.batch > 1:
            smaller = replace(smaller, batch=smaller.batch // 2)
        elif smaller.length > 128:
            smaller = replace(smaller, length=max(smaller.length // 2, 128))
        else:
            return None
    return smaller


def model_of_preset(preset: Preset) -> Model | None:
    """The model of a preset; None where its shape is not known."""
    if preset.shape is None:
        return None
    return Model(preset.architecture, preset.shape, preset.parameters, preset.tied)


def model_of_config(config: Mapping[str, Any], parameters: int = 0) -> Model | None:
    """The model that a `config.json` describes; None where it does not say its widths.

    `parameters` as the weights' headers say; counted from the widths where they are not at hand.
    """
    text = config.get("text_config") or config
    try:
        hidden, heads = int(text["hidden_size"]), int(text["num_attention_heads"])
        falcon = text.get("model_type") == "falcon"
        one = falcon and text.get("multi_query", True) and not text.get("new_decoder_architecture")
        shape = Shape(
            layers=int(text["num_hidden_layers"]),
            hidden=hidden,
            intermediate=int(text.get("intermediate_size") or text.get("ffn_hidden_size") or 4 * hidden),
            heads=heads,
            kv_heads=1 if one else int(text.get("num_key_value_heads") or text.get("num_kv_heads") or heads),
            head_dim=int(text.get("head_dim") or hidden // heads),
            vocabulary=int(text["vocab_size"]),
            context=int(text.get("max_position_embeddings") or 2048),
        )
    except (KeyError, TypeError, ValueError):
        return None
    model = Model(str(text.get("model_type", "")), shape, parameters, bool(config.get("tie_word_embeddings", falcon)))
    if not parameters:
        linear = shape.layers * sum(inputs * outputs for inputs, outputs in linear_layers(model).values())
        model = replace(model, parameters=linear + shape.vocabulary * hidden * (1 if model.tied else 2))
    return model


def model_of_folder(folder: Path) -> Model | None:
    """The model in a folder, from its `config.json` and the headers of its safetensors."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
        parameters = sum(_count_parameters(path) for path in folder.glob("*.safetensors"))
    except (OSError, ValueError, struct.error):
        return None
    return model_of_config(config, parameters)


def _count_parameters(path: Path) -> int:
    """The elements of all tensors in a safetensors file, from its header (huggingface.co/docs/safetensors, Format)."""
    with path.open("rb") as stream:
        (size,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(size))
    count = 0
    for name, tensor in header.items():
        if name != "__metadata__":
            elements = 1
            for width in tensor["shape"]:
                elements *= width
            count += elements
    return count
