"""Whether vLLM can serve an adapter as it is.

Source: vLLM's documentation of LoRA adapters and the checks of its `PEFTHelper` (modules_to_save, use_dora, bias, r).
"""

from typing import Any

DEFAULT_MAX_RANK = 16
# Listed in vLLM's table of supported models without LoRA.
_WITHOUT_LORA = ("falcon",)


def serving_problems(lora: Any, architecture: str) -> list[str]:
    """What stands against serving the adapter of this peft `LoraConfig` with vLLM, a sentence each."""
    problems = []
    rank = max([lora.r, *(lora.rank_pattern or {}).values()])
    if rank > DEFAULT_MAX_RANK:
        problems.append(f"its rank is {rank}: start vLLM with --max-lora-rank {_next_rank(rank)} (the default is 16)")
    if lora.use_dora:
        problems.append("DoRA is not served: merge the adapter into the base model")
    if lora.modules_to_save:
        problems.append(f"modules_to_save ({', '.join(lora.modules_to_save)}) is not served: merge the adapter")
    if lora.bias != "none" or lora.lora_bias:
        problems.append("trained biases are not served: merge the adapter into the base model")
    if lora.trainable_token_indices:
        problems.append("trained token embeddings are not served: merge the adapter into the base model")
    if architecture in _WITHOUT_LORA:
        problems.append(f"vLLM serves no adapters on {architecture}: merge the adapter into the base model")
    return problems


def _next_rank(rank: int) -> int:
    """vLLM takes 8, 16, 32, 64, 128, 256, 320 and 512."""
    return next((known for known in (32, 64, 128, 256, 320, 512) if known >= rank), rank)
