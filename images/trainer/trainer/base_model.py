"""The base model: where it is, its tokenizer, and its weights, quantized or not."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuning.errors import ConfigurationError, InputNotFound, ResourceExhausted, TransientError
from tuning.training_config import TrainingConfig

logger = logging.getLogger(__name__)

_OURS = {"pretrained_model_name_or_path", "chat_template", "torch_dtype"}
# A share below 1 allows for layers that the quantizer leaves alone on purpose (routers, small projections).
_LEAST_QUANTIZED_SHARE = 0.9


def find_base_model(config: TrainingConfig, weights: str) -> str:
    """The base model's folder, or its hub id. A folder is checked for its parts, without loading them.

    Raises InputNotFound naming what is missing.
    """
    name = str(config.model.get("pretrained_model_name_or_path") or weights)
    path = Path(name)
    if not path.is_absolute() and not path.exists():
        return name
    if not path.is_dir():
        raise InputNotFound(f"there is no base model at {path}: no such folder", hint=_WEIGHTS_HINT)
    for needed in ("config.json", "tokenizer_config.json"):
        if not (path / needed).is_file():
            raise InputNotFound(f"there is no base model at {path}: {needed} is missing", hint=_WEIGHTS_HINT)
    index = path / "model.safetensors.index.json"
    shards = {"model.safetensors"}
    if index.is_file():
        shards = set(json.loads(index.read_bytes())["weight_map"].values())
    missing = sorted(shard for shard in shards if not (path / shard).is_file())
    if missing and not (index.is_file() is False and list(path.glob("*.safetensors"))):
        raise InputNotFound(f"there is no base model at {path}: {', '.join(missing)} is missing", hint=_WEIGHTS_HINT)
    return name


_WEIGHTS_HINT = "mount the weights there, or set ModelConfig.pretrained_model_name_or_path to a folder or a hub id"


def load_tokenizer(name: str, config: TrainingConfig, default_template: Path) -> Any:
    """The base model's tokenizer, with the chat template of the configuration, its own, or the default one."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **_hub_options(config))
    except OSError as error:
        raise _not_loaded(name, error) from error
    template = config.model.get("chat_template")
    if template:
        tokenizer.chat_template = _read_template(str(template))
    elif not tokenizer.chat_template:
        logger.warning("the base model has no chat template; conversations use the default one (ChatML)")
        tokenizer.chat_template = default_template.read_text()
    if tokenizer.eos_token_id is None:
        raise ConfigurationError(
            f"the tokenizer of {name} has no end-of-sequence token, so the adapter could never learn to stop",
            hint="set TrainingArguments.eos_token",
        )
    if tokenizer.pad_token_id is None:
        # Labels are made from the text, not from the pad token, so this never hides an end of sequence.
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def longest_context(name: str, config: TrainingConfig) -> int:
    """The most tokens that the base model was made to read; 2048 where its configuration does not say."""
    from transformers import AutoConfig

    try:
        shape = AutoConfig.from_pretrained(name, **_hub_options(config)).get_text_config()
    except (OSError, ValueError) as error:
        raise _not_loaded(name, error) from error
    return int(getattr(shape, "max_position_embeddings", None) or 2048)


def _hub_options(config: TrainingConfig) -> dict[str, Any]:
    return {key: config.model[key] for key in _HUB_OPTIONS if key in config.model}


_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "token", "trust_remote_code")


def load_base_model(name: str, config: TrainingConfig) -> Any:
    """Load the weights as ModelConfig and QuantizationConfig say.

    Raises InputNotFound, TransientError or ResourceExhausted where they cannot be loaded, and ConfigurationError where
    quantization was asked for and did not happen.
    """
    import torch
    from transformers import AutoModelForCausalLM

    options: dict[str, Any] = {key: value for key, value in config.model.items() if key not in _OURS}
    dtype = config.model.get("dtype", config.model.get("torch_dtype"))
    options["dtype"] = dtype if dtype is not None else "auto"
    if not torch.cuda.is_available():
        options["device_map"] = {"": "cpu"} if config.quantized else None
    elif options.get("device_map", "auto") == "auto":
        # One process drives one GPU; `auto` would spread the model over all of them and run them one after another.
        options["device_map"] = {"": torch.cuda.current_device()}
    if config.quantized:
        options["quantization_config"] = _quantization(config.quantization)
        _let_falcon_be_quantized()
    try:
        model = AutoModelForCausalLM.from_pretrained(name, **options)
    except OSError as error:
        raise _not_loaded(name, error) from error
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigurationError(f"ModelConfig: {name} cannot be loaded so: {error}") from error
    except torch.OutOfMemoryError as error:
        raise ResourceExhausted(
            f"the weights of {name} do not fit into the GPU's memory", hint="use method qlora, or a larger GPU"
        ) from error
    if config.quantized:
        _check_quantized(model, name)
    return model


def _quantization(section: Mapping[str, Any]) -> Any:
    from transformers import BitsAndBytesConfig

    try:
        return BitsAndBytesConfig(**section)
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigurationError(f"QuantizationConfig: {error}") from error


def _let_falcon_be_quantized() -> None:
    """transformers 5.23 replaces only exact `nn.Linear`; Falcon's own subclass of it would silently stay as it is."""
    import torch
    from transformers.models.falcon import modeling_falcon

    modeling_falcon.FalconLinear = torch.nn.Linear


def _check_quantized(model: Any, name: str) -> None:
    import bitsandbytes
    import torch

    quantized_types = (bitsandbytes.nn.Linear4bit, bitsandbytes.nn.Linear8bitLt)
    head = model.get_output_embeddings()
    quantized = total = 0
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and module is not head:
            total += 1
            quantized += isinstance(module, quantized_types)
        if isinstance(module, bitsandbytes.nn.Linear4bit) and not torch.cuda.is_available():
            # bitsandbytes 0.50 on a CPU with AVX512-BF16 repacks the weights in the first evaluation and then loses
            # the gradient through them (LoRA gradients differ by a cosine of 0.5 to 1).
            module.support_avx512bf16_for_cpu = False
    if total == 0 or quantized < _LEAST_QUANTIZED_SHARE * total:
        raise ConfigurationError(
            f"only {quantized} of {total} linear layers of {name} could be quantized",
            hint="use method lora for this architecture",
        )


def _read_template(value: str) -> str:
    if any(mark in value for mark in "{}\n"):
        return value
    try:
        return Path(value).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(
            f"ModelConfig.chat_template: cannot read {value}: {error.strerror}",
            hint="give a path in the image, or the template itself",
        ) from error


def _not_loaded(name: str, error: Exception) -> Exception:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if Path(name).is_dir():
        return InputNotFound(f"the base model at {name} cannot be loaded: {text}", hint=_WEIGHTS_HINT)
    if "connect" in text.lower() or "offline" in text.lower():
        return TransientError(f"the base model {name} cannot be fetched from the hub: {text}", hint="check the network")
    return InputNotFound(
        f"the base model {name} is not on the hub: {text}", hint="check the id, and the token for a gated model"
    )
