"""Make a tiny base model: a tokenizer trained on a text, and a Llama pre-trained on it for seconds."""

import logging
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

END = "<|end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
_ROLES = ["<|system|>", "<|user|>", "<|assistant|>"]
_WINDOW_TOKENS = 128
_BATCH = 8


def train_tokenizer(texts: Iterable[str], vocabulary: int = 2048) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of at most `vocabulary` tokens, with a chat template and an end token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|pad|>", END, *_ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token="<|pad|>", chat_template=CHAT_TEMPLATE
    )


def make_tiny_model(folder: Path, corpus: str, steps: int, seed: int = 1) -> None:
    """Pre-train a Llama of two million parameters on `corpus` for `steps` steps and save it, tokenizer included."""
    tokenizer = train_tokenizer(corpus.splitlines())
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            # bitsandbytes on CPU wants every width to be a multiple of 32.
            vocab_size=-(-len(tokenizer) // 32) * 32,
            hidden_size=160,
            intermediate_size=448,
            num_hidden_layers=4,
            num_attention_heads=5,
            num_key_value_heads=5,
            max_position_embeddings=1024,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            tie_word_embeddings=True,
        )
    )
    _pretrain(model, torch.tensor(tokenizer(corpus)["input_ids"]), steps, seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _pretrain(model: LlamaForCausalLM, tokens: torch.Tensor, steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=max(steps, 2))
    model.train()
    for step in range(steps):
        starts = torch.randint(0, len(tokens) - _WINDOW_TOKENS, (_BATCH,), generator=generator)
        batch = torch.stack([tokens[start : start + _WINDOW_TOKENS] for start in starts.tolist()])
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 50 == 0 or step == steps - 1:
            logger.info("pre-training step %d/%d loss=%.3f", step + 1, steps, loss.item())
