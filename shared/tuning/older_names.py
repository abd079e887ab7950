"""Keys of older releases of the libraries, and what they are called today.

Sources: the release notes of transformers 4.x to 5, trl 0.x to 1, peft 0.3, and their deprecation warnings.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tuning.errors import Problem

Sections = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Renamed:
    """The key has another name today; `convert` gives its value there, None if there is nothing to set."""

    key: str
    section: str = ""
    convert: Callable[[Any], Any] = lambda value: value


@dataclass(frozen=True)
class Obsolete:
    """The key has no effect today. `refused` are the values that ask for what is no longer there."""

    reason: str
    refused: tuple[Any, ...] = ()


OLDER_NAMES: Mapping[str, Mapping[str, Renamed | Obsolete]] = {
    "ModelConfig": {
        "torch_dtype": Renamed("dtype"),
        "use_auth_token": Renamed("token"),
        "use_flash_attention_2": Renamed(
            "attn_implementation", convert=lambda value: "flash_attention_2" if value else None
        ),
        "load_in_4bit": Renamed("load_in_4bit", "QuantizationConfig"),
        "load_in_8bit": Renamed("load_in_8bit", "QuantizationConfig"),
        "low_cpu_mem_usage": Obsolete("weights are always loaded so"),
        "resume_download": Obsolete("downloads are always resumed"),
        "_fast_init": Obsolete("weights are always initialised so"),
        "offload_state_dict": Obsolete("weights are never held twice"),
        "mirror": Obsolete("set HF_ENDPOINT for another hub"),
        "from_tf": Obsolete("TensorFlow weights cannot be read", refused=(True,)),
        "from_flax": Obsolete("Flax weights cannot be read", refused=(True,)),
    },
    "QuantizationConfig": {
        "quant_method": Obsolete("bitsandbytes is the only quantizer", refused=("gptq", "awq", "aqlm", "hqq")),
        "bnb_4bit_compute_type": Renamed("bnb_4bit_compute_dtype"),
    },
    "LoraConfig": {
        "merge_weights": Obsolete("an adapter is merged after training, with merge_and_unload"),
        "enable_lora": Obsolete("name the layers in target_modules", refused=(True,)),
    },
    "TrainingArguments": {
        "evaluation_strategy": Renamed("eval_strategy"),
        "evaluate_during_training": Renamed("eval_strategy", convert=lambda value: "steps" if value else "no"),
        "per_gpu_train_batch_size": Renamed("per_device_train_batch_size"),
        "per_gpu_eval_batch_size": Renamed("per_device_eval_batch_size"),
        "max_seq_length": Renamed("max_length"),
        "max_seq_len": Renamed("max_length"),
        "warmup_ratio": Renamed("warmup_steps", convert=lambda value: value or None),
        "group_by_length": Renamed(
            "train_sampling_strategy", convert=lambda value: "group_by_length" if value else "random"
        ),
        "no_cuda": Renamed("use_cpu"),
        "use_liger": Renamed("use_liger_kernel"),
        "gradient_checkpointing": Renamed("activation_checkpointing"),
        "gradient_checkpointing_kwargs": Renamed("activation_checkpointing_kwargs"),
        "adafactor": Renamed("optim", convert=lambda value: "adafactor" if value else None),
        "xpu_backend": Renamed("ddp_backend"),
        "torchdynamo": Renamed("torch_compile_backend"),
        "push_to_hub_token": Renamed("hub_token"),
        "push_to_hub_model_id": Renamed("hub_model_id"),
        "save_safetensors": Obsolete("an adapter is always saved as safetensors", refused=(False,)),
        "overwrite_output_dir": Obsolete("an earlier attempt's files are replaced"),
        "logging_dir": Obsolete("set the variable TENSORBOARD_LOGGING_DIR"),
        "half_precision_backend": Obsolete("there is one backend"),
        "fp16_backend": Obsolete("there is one backend"),
        "fp16_opt_level": Obsolete("it belonged to apex"),
        "include_tokens_per_second": Obsolete("tokens a second are always said"),
        "include_inputs_for_metrics": Obsolete("use include_for_metrics"),
        "dataset_batch_size": Obsolete("samples are prepared all at once"),
        "num_of_sequences": Obsolete("packs are filled without it"),
        "chars_per_token": Obsolete("packs are filled without it"),
        "use_mps_device": Obsolete("the device is found"),
        "jit_mode_eval": Obsolete("use torch_compile"),
        "use_ipex": Obsolete("torch has its kernels"),
        "past_index": Obsolete("no base model here has such a past"),
        "use_legacy_prediction_loop": Obsolete("there is one loop"),
        "tpu_num_cores": Obsolete("there is no TPU in this Job"),
        "tpu_metrics_debug": Obsolete("there is no TPU in this Job"),
        "ray_scope": Obsolete("it belonged to the search for hyperparameters"),
        "mp_parameters": Obsolete("it belonged to SageMaker"),
        "sharded_ddp": Obsolete("use fsdp", refused=("simple", "zero_dp_2", "zero_dp_3")),
        "fsdp_min_num_params": Obsolete("use fsdp_config"),
        "fsdp_transformer_layer_cls_to_wrap": Obsolete("use fsdp_config"),
    },
    "DataCollator": {
        "mlm": Obsolete("every base model here is causal, and its labels are made before the collator"),
        "mlm_probability": Obsolete("every base model here is causal"),
        "mask_replace_prob": Obsolete("every base model here is causal"),
        "random_replace_prob": Obsolete("every base model here is causal"),
        "tf_experimental_compile": Obsolete("it belonged to TensorFlow"),
    },
    "DatasetConfig": {},
}


def translate(sections: Sections) -> tuple[dict[str, dict[str, Any]], list[str], list[Problem]]:
    """`sections` with the names of today, one warning for each older name, and what cannot be translated."""
    translated = {heading: dict(section) for heading, section in sections.items()}
    warnings: list[str] = []
    problems: list[Problem] = []
    for heading, section in sections.items():
        for old, value in section.items():
            meaning = OLDER_NAMES.get(heading, {}).get(old)
            if meaning is None:
                continue
            path = f"{heading}.{old}"
            del translated[heading][old]
            if isinstance(meaning, Obsolete):
                if value in meaning.refused:
                    problems.append(Problem(path, "is no longer possible", meaning.reason))
                else:
                    warnings.append(f"{path} has no effect: {meaning.reason}")
                continue
            home = meaning.section or heading
            if meaning.key in sections.get(home, {}):
                problems.append(
                    Problem(path, f"is the older name of {home}.{meaning.key}, which is also set", "keep one")
                )
                continue
            warnings.append(f"{path} is read under its name of today, {home}.{meaning.key}")
            if (converted := meaning.convert(value)) is not None:
                translated.setdefault(home, {})[meaning.key] = converted
    return translated, warnings, problems
