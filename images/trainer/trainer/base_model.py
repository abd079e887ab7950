"""The base model: where it is, its tokenizer, and its weights, quantized or not."""

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuning.errors import ConfigurationError, InputNotFound, ResourceExhausted, TransientError
from tuning.training_config import TrainingConfig

logger = logging.getLogger(__name__)

# What from_pretrained must not get: ours, or what returns something else than a model.
_OURS = {"pretrained_model_name_or_path", "chat_template", "output_loading_info"}
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
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
    unreadable = next((file for file in [path, *path.glob("*")] if not os.access(file, _READABLE[file.is_dir()])), None)
    if unreadable:
        raise InputNotFound(
            f"the base model cannot be read: {unreadable} is closed to user {os.getuid()}",
            hint="let others read it: chmod -R a+rX",
        )
    for needed in ("config.json", "tokenizer_config.json"):
        if not (path / needed).is_file():
            raise InputNotFound(f"there is no base model at {path}: {needed} is missing", hint=_WEIGHTS_HINT)
    _check_shards(path, config)
    return name


def _check_shards(path: Path, config: TrainingConfig) -> None:
    if config.model.get("use_safetensors") is False or config.model.get("gguf_file"):
        return
    pickled = sorted(file.name for pattern in _PICKLED for file in path.glob(pattern))
    if pickled and not list(path.glob("*.safetensors")):
        raise InputNotFound(
            f"the base model at {path} has no safetensors, only {pickled[0]}, which can run code when it is read",
            hint="convert it, or set ModelConfig.use_safetensors: false if you trust it",
        )
    index = path / "model.safetensors.index.json"
    shards = {"model.safetensors"}
    if index.is_file():
        shards = set(json.loads(index.read_bytes())["weight_map"].values())
    missing = sorted(shard for shard in shards if not (path / shard).is_file())
    if missing and not (index.is_file() is False and list(path.glob("*.safetensors"))):
        raise InputNotFound(f"there is no base model at {path}: {', '.join(missing)} is missing", hint=_WEIGHTS_HINT)


# A file is read; a folder is entered, too.
_READABLE = {False: os.R_OK, True: os.R_OK | os.X_OK}
_WEIGHTS_HINT = "mount the weights there, or set ModelConfig.pretrained_model_name_or_path to a folder or a hub id"


def load_tokenizer(name: str, config: TrainingConfig) -> Any:
    """The base model's tokenizer, with the end and pad tokens of TrainingArguments where they are set.

    Raises InputNotFound or TransientError where it cannot be loaded, ConfigurationError where it has no end token.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **_hub_options(config))
    except (OSError, ValueError) as error:
        raise _not_loaded(name, error) from error
    for key in ("eos_token", "pad_token"):
        if token := config.arguments.get(key):
            if token not in tokenizer.get_vocab():
                raise ConfigurationError(
                    f"TrainingArguments.{key}: {token!r} is not in the vocabulary of {name}",
                    hint=f"it has {', '.join(tokenizer.all_special_tokens) or 'no special tokens'}",
                )
            setattr(tokenizer, key, token)
    if tokenizer.eos_token_id is None:
        raise ConfigurationError(
            f"the tokenizer of {name} has no end-of-sequence token, so the adapter could never learn to stop",
            hint="set TrainingArguments.eos_token",
        )
    if tokenizer.pad_token_id is None:
        # Labels are made from the text, not from the pad token, so this never hides an end of sequence.
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def empty_model(name: str, config: TrainingConfig) -> Any | None:
    """The model without weights, in milliseconds; None where its code cannot make one so."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(
                load_shape(name, config), trust_remote_code=bool(config.model.get("trust_remote_code"))
            )
    except (RuntimeError, NotImplementedError, AttributeError, TypeError) as error:
        logger.info("the model cannot be looked at before it is loaded reason=%s", error)
        return None


def load_shape(name: str, config: TrainingConfig) -> Any:
    """The base model's configuration. Raises InputNotFound or TransientError."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(name, **_hub_options(config))
    except (OSError, ValueError, KeyError) as error:
        raise _not_loaded(name, error) from error


def longest_context(shape: Any) -> int:
    """The most tokens that a model of this configuration was made to read; 2048 where it does not say."""
    return int(getattr(shape.get_text_config(), "max_position_embeddings", None) or 2048)


def _hub_options(config: TrainingConfig) -> dict[str, Any]:
    return {key: config.model[key] for key in _HUB_OPTIONS if key in config.model}


_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "token", "trust_remote_code")


def load_base_model(name: str, config: TrainingConfig, defaults: Mapping[str, Any], *, spread: bool = False) -> Any:
    """Load the weights as ModelConfig and QuantizationConfig say, over `defaults`.

    With `spread` they will be spread over all GPUs, and none gets the whole of them.

    Raises InputNotFound, TransientError or ResourceExhausted where they cannot be loaded, and ConfigurationError where
    quantization was asked for and did not happen.
    """
    import torch
    from transformers import AutoModelForCausalLM

    options: dict[str, Any] = {**defaults, **config.model}
    options = {key: value for key, value in options.items() if key not in _OURS}
    options["dtype"] = str(config.model.get("dtype") or "auto").removeprefix("torch.")
    # A pickle can run code when it is read.
    options.setdefault("use_safetensors", True)
    options["trust_remote_code"] = bool(options.get("trust_remote_code"))
    if not torch.cuda.is_available():
        options["device_map"] = {"": "cpu"} if config.quantized else None
    elif spread:
        options["device_map"] = None
    elif options.get("device_map", "auto") == "auto":
        # One process drives one GPU; `auto` would spread the model over all of them and run them one after another.
        options["device_map"] = {"": torch.cuda.current_device()}
    if config.quantized:
        options["quantization_config"] = _quantization(config.quantization, spread=spread)
        _let_falcon_be_quantized()
    try:
        model = AutoModelForCausalLM.from_pretrained(name, **options)
    except OSError as error:
        raise _not_loaded(name, error) from error
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigurationError(f"ModelConfig: {name} cannot be loaded so: {_first_line(error)}") from error
    except torch.OutOfMemoryError as error:
        raise ResourceExhausted(
            f"the weights of {name} do not fit into the GPU's memory", hint="use method qlora, or a larger GPU"
        ) from error
    if config.quantized:
        _check_quantized(model, name)
    return model


def _quantization(section: Mapping[str, Any], *, spread: bool) -> Any:
    from transformers import BitsAndBytesConfig

    try:
        # The library's own default, fp4, is the worse one (Dettmers et al., 2023, table 2).
        defaults = {"bnb_4bit_quant_type": "nf4"}
        if spread:
            # FSDP cuts weights of one type only, that of the layers that are not quantized.
            defaults["bnb_4bit_quant_storage"] = str(section.get("bnb_4bit_compute_dtype") or "bfloat16")
        return BitsAndBytesConfig(**{**defaults, **section})
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


def _not_loaded(name: str, error: Exception) -> Exception:
    text = _first_line(error)
    if "trust_remote_code" in str(error):
        return ConfigurationError(
            f"{name} needs code of its own, which is not run unasked",
            hint="set ModelConfig.trust_remote_code: true if you trust it",
        )
    if Path(name).is_dir():
        return InputNotFound(f"the base model at {name} cannot be loaded: {text}", hint=_WEIGHTS_HINT)
    if "connect" in text.lower() or "offline" in text.lower():
        return TransientError(f"the base model {name} cannot be fetched from the hub: {text}", hint="check the network")
    return InputNotFound(
        f"the base model {name} is not on the hub: {text}", hint="check the id, and the token for a gated model"
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
