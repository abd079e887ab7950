"""How fast does the trainer learn, beside the original's loop and trl's defaults? One table, all in this run.

    .venv/bin/python -m benchmarks.trainer [--size tiny|8b] [--rows 300] [--rounds 2] [--data FILE] [--only NAME …]

Every contender is a process of its own, on the same base model, rows and seed; its steps are timed as they are told.
Tokens are real ones: padding is no work done. The held-out loss is that of all tokens of rows that nobody trained on,
measured by one and the same function on the adapters that came out. On a GPU the size 8b (random weights, Llama-3-8B's
shape) tells how much of the GPU's own matrix rate is used, counting 4N operations a token: LoRA needs no gradients of
the weights.
"""

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.page import write_page

FOLDER = Path("/dev/shm/kaito-tuning-benchmark-trainer")
ROOT = Path(__file__).parents[1]
HELD_OUT = 40
ORIGINAL = "original"
TRL = "trl defaults"
SAME = "ours, the original's settings"
DEFAULT = "ours, default"
TUNED = "ours, packed"
QLORA = "ours, packed, QLoRA"

# Where start-up time goes: what our trainer says when a stage is behind it.
STAGES = {
    "configuration and data read": "checked method=",
    "libraries imported, labels made": "labels tokens=",
    "memory planned": "picked ",
    "weights loaded": "loaded base_model=",
    "trainer made": "training steps=",
}
# The original's defaults: attention only, one sample at a time, the loss on the whole text.
_ORIGINALS = {
    "per_device_train_batch_size": 1,
    "learning_rate": 2e-5,
    "max_length": 1024,
    "lr_scheduler_type": "linear",
}


@dataclass(frozen=True)
class Result:
    """What one run of a contender measured."""

    tokens: int
    seconds: float
    first_step_seconds: float
    peak_bytes: int
    loss: float

    @property
    def rate(self) -> float:
        """Real tokens a second, from the first step's start to the last one's end."""
        return self.tokens / self.seconds


def ours(name: str, size: str) -> dict[str, Any]:
    """The ConfigMap's sections of one of our contenders."""
    arguments: dict[str, Any] = {"num_train_epochs": 1, "logging_steps": 1, "seed": 1}
    lora: dict[str, Any] = {"r": 8, "lora_alpha": 8}
    quantization: dict[str, Any] = {}
    whole = {"assistant_only_loss": False, "completion_only_loss": False}
    pack = 4096 if size == "8b" else 512
    match name:
        case "ours, the original's settings":
            arguments |= {**_ORIGINALS, **whole, "warmup_steps": 0}
            lora["target_modules"] = ["q_proj", "v_proj"]
        case "ours, default":
            arguments |= {**whole, "per_device_train_batch_size": 1}
        case _:
            arguments |= {**whole, "packing": True, "max_length": pack, "learning_rate": 1e-3}
            lora |= {"lora_alpha": 16}
    if name == QLORA:
        quantization = {"load_in_4bit": True, "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": "bfloat16"}
    return {
        "ModelConfig": {"dtype": "bfloat16"},
        "QuantizationConfig": quantization,
        "LoraConfig": lora,
        "TrainingArguments": arguments,
        "DatasetConfig": {"shuffle_seed": 1},
    }


def run_ours(name: str, size: str, folder: Path) -> tuple[int, float, float, int]:
    """Run our trainer as the process it is."""
    import yaml

    results = folder / "results"
    shutil.rmtree(folder, ignore_errors=True)
    results.mkdir(parents=True)
    config = folder / "training_config.yaml"
    config.write_text(yaml.safe_dump({"training_config": ours(name, size)}))
    variables = {
        "YAML_FILE_PATH": str(config),
        "DATASET_FOLDER_PATH": str(FOLDER / "data"),
        "MODEL_WEIGHTS_PATH": str(FOLDER / "model"),
        "RESULTS_PATH": str(results),
        "METRICS_PORT": "0",
        "TUNING_PROCESSES": "1",
    }
    seconds, first, peak = timed([sys.executable, "-m", "trainer"], variables, told=STAGES)
    tokens = json.loads((results / "label_report.json").read_text())["tokens"]
    return tokens["trained"] + tokens["masked"], seconds, first, peak


def timed(
    command: Sequence[str], variables: Mapping[str, str], told: Mapping[str, str] | None = None
) -> tuple[float, float, int]:
    """Run a contender: seconds of all its steps, seconds before the first of them, and its peak memory in bytes.

    Prints when each of the stages that it has `told` of was reached.
    """
    reached: dict[str, float] = {}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **variables}
    start = time.monotonic()
    begin = end = 0.0
    peak = 0
    log = []
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            log.append(line)
            now = time.monotonic()
            for stage, words in (told or {}).items():
                if words in line:
                    reached.setdefault(stage, now - start)
            if "training steps=" in line:
                begin = now
            elif " step " in line and "loss=" in line:
                end = now
                if "memory=" in line:
                    peak = int(float(line.split("memory=")[1].split("GiB")[0]) * (1 << 30))
            elif line.startswith("peak_bytes="):
                peak = int(line.split("=")[1])
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or not end:
        raise SystemExit("".join(log[-30:]))
    if reached:
        print("start-up: " + ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in reached.items()), flush=True)
    return end - begin, begin - start, peak or usage.ru_maxrss * 1024


def run_peer(name: str, folder: Path) -> tuple[int, float, float, int]:
    """Run the original's loop, or trl as it comes, each in a process of its own."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "results").mkdir(parents=True)
    command = [sys.executable, "-m", "benchmarks.trainer", "--peer", name, "--folder", str(folder)]
    seconds, first, peak = timed(command, {})
    return int((folder / "tokens").read_text()), seconds, first, peak


def peer(name: str, folder: Path) -> None:
    """What a peer does: the original's loop re-created from what is known of it, or trl's defaults."""
    import datasets
    import torch
    import transformers
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

    tokenizer = AutoTokenizer.from_pretrained(FOLDER / "model")
    cuda = torch.cuda.is_available()
    model = AutoModelForCausalLM.from_pretrained(
        FOLDER / "model", dtype=torch.bfloat16, device_map={"": 0} if cuda else None
    )
    rows = [json.loads(line) for line in (FOLDER / "data" / "train.jsonl").read_text().splitlines()]
    random.Random(1).shuffle(rows)
    texts = [tokenizer.apply_chat_template(row["messages"], tokenize=False) for row in rows]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"][:1024] for text in texts]
    (folder / "tokens").write_text(str(sum(map(len, ids))))

    class Told(TrainerCallback):
        """Tells the steps as our trainer does; the original also empties the cache after each."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            print("training steps=", flush=True)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if name == ORIGINAL and cuda:
                torch.cuda.empty_cache()
            print(f" step {state.global_step} loss=", flush=True)

    common: dict[str, Any] = {
        "output_dir": str(folder / "out"),
        "num_train_epochs": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": not cuda,
        "seed": 1,
    }
    lora = LoraConfig(r=8, lora_alpha=8, task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"])
    table = datasets.Dataset.from_dict({"input_ids": ids})
    torch.manual_seed(1)
    trainer: Any
    if name == ORIGINAL:
        model = get_peft_model(model, lora)
        model.enable_input_require_grads()
        trainer = transformers.Trainer(
            model=model,
            args=transformers.TrainingArguments(
                **common,
                per_device_train_batch_size=1,
                learning_rate=2e-5,
                gradient_checkpointing=True,
                bf16=True,
            ),
            train_dataset=table,
            data_collator=transformers.DataCollatorForLanguageModeling(tokenizer, mlm=False),
            callbacks=[Told()],
        )
        # Autocast on a CPU, too, as the configuration says bf16.
        trainer.accelerator.state._mixed_precision = "bf16"
    else:
        from trl import SFTConfig, SFTTrainer

        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(**common, bf16=cuda),
            train_dataset=table,
            processing_class=tokenizer,
            peft_config=lora,
            callbacks=[Told()],
        )
    trainer.train()
    trainer.save_model(str(folder / "results"))
    peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"peak_bytes={peak}", flush=True)


def held_out_loss(adapter: Path | None) -> float:
    """The mean loss of all tokens of the rows that nobody trained on."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(FOLDER / "model")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model: Any = AutoModelForCausalLM.from_pretrained(FOLDER / "model", dtype=dtype).to(device)
    if adapter:
        model = PeftModel.from_pretrained(model, str(adapter))
    model.eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for line in (FOLDER / "held-out.jsonl").read_text().splitlines():
            text = tokenizer.apply_chat_template(json.loads(line)["messages"], tokenize=False)
            ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"][:1024]], device=device)
            total += model(input_ids=ids, labels=ids).loss.item() * (ids.shape[1] - 1)
            count += ids.shape[1] - 1
    return total / count


def prepare(size: str, rows: int, data: Path | None) -> None:
    """Make the base model and the rows."""
    import torch
    from demo.tiny_model import make_tiny_model, train_tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM

    shutil.rmtree(FOLDER, ignore_errors=True)
    (FOLDER / "data").mkdir(parents=True)
    corpus = (ROOT / "demo" / "data" / "corpus.txt").read_text()
    chats = data.read_text().splitlines() if data else [json.dumps(row) for row in synthetic_chats(corpus, rows)]
    chats = chats[: rows + HELD_OUT]
    (FOLDER / "held-out.jsonl").write_text("\n".join(chats[:HELD_OUT]) + "\n")
    (FOLDER / "data" / "train.jsonl").write_text("\n".join(chats[HELD_OUT:]) + "\n")
    if size == "tiny":
        make_tiny_model(FOLDER / "model", corpus, steps=60)
        return
    tokenizer = train_tokenizer(corpus.splitlines())
    torch.manual_seed(1)
    # Llama-3-8B (Grattafiori et al., 2024, table 3).
    shape = LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        torch.set_default_dtype(torch.bfloat16)
        model = LlamaForCausalLM(shape)
        torch.set_default_dtype(torch.float32)
    model.save_pretrained(FOLDER / "model")
    tokenizer.save_pretrained(FOLDER / "model")


def synthetic_chats(corpus: str, rows: int) -> list[dict[str, Any]]:
    """Chats of many lengths (log-normal: most are short, some are ten times as long), from the sentences of a text."""
    chance = random.Random(1)
    sentences = [line.strip() for line in corpus.replace(". ", ".\n").splitlines() if line.strip()]
    chats = []
    for _ in range(rows + HELD_OUT):
        answer = " ".join(
            chance.choice(sentences) for _ in range(max(1, min(40, round(chance.lognormvariate(1.1, 0.9)))))
        )
        question = f"Tell me of {' '.join(chance.choice(sentences).split()[:6])}"
        chats.append({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]})
    return chats


def matrix_rate() -> float:
    """The operations a second that this GPU reaches in a bf16 product of two matrices, measured."""
    import torch

    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    for _ in range(5):
        a @ a
    torch.cuda.synchronize()
    start = time.monotonic()
    for _ in range(30):
        a @ a
    torch.cuda.synchronize()
    return 30 * 2 * 8192**3 / (time.monotonic() - start)


def table(results: Mapping[str, Sequence[Result]], size: str) -> str:
    """The results as Markdown: of each figure the best round."""
    import torch

    base = max(result.rate for result in results[ORIGINAL]) if ORIGINAL in results else 0.0
    cuda = torch.cuda.is_available()
    peak_rate = matrix_rate() if cuda else 0.0
    lines = [
        "| contender | real tokens/s | ratio | peak memory | held-out loss | before the first step |"
        + (" of the matrix rate |" if peak_rate else ""),
        "|---|---|---|---|---|---|" + ("---|" if peak_rate else ""),
    ]
    for name, rounds in results.items():
        best = max(rounds, key=lambda result: result.rate)
        ratio = f"{best.rate / base:.2f}" if base else "-"
        line = (
            f"| {name} | {best.rate:,.0f} | {ratio} | {best.peak_bytes / (1 << 30):.2f} GiB | {best.loss:.3f} "
            f"| {min(result.first_step_seconds for result in rounds):.1f} s |"
        )
        if peak_rate:
            line += f" {4 * 8.03e9 * best.rate / peak_rate:.1%} |" if size == "8b" else " - |"
        lines.append(line)
    return "\n".join(lines)


def main() -> None:
    """Measure, print the table, and write it where results are kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("tiny", "8b"), default="tiny")
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--write", action="store_true", help="write the page of results")
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peer:
        peer(given.peer, given.folder)
        return
    prepare(given.size, given.rows, given.data)
    names = [ORIGINAL, TRL, SAME, DEFAULT, TUNED] + ([QLORA] if given.size == "8b" else [])
    results: dict[str, list[Result]] = {name: [] for name in given.only or names}
    for number in range(given.rounds):
        # Forwards and backwards: what warms up or slows down with time meets each of them.
        for name in list(results)[:: 1 if number % 2 == 0 else -1]:
            folder = FOLDER / "runs" / name.replace(" ", "-").replace(",", "").replace("'", "")
            measured = run_peer(name, folder) if name in (ORIGINAL, TRL) else run_ours(name, given.size, folder)
            results[name].append(Result(*measured, held_out_loss(folder / "results")))
            print(f"round {number + 1} {name}: {results[name][-1]}", flush=True)
    without = f"Without an adapter the held-out loss is {held_out_loss(None):.3f}."
    text = f"{table(results, given.size)}\n\n{without}\n"
    print(text)
    if given.write:
        libraries = ("torch", "transformers", "trl", "peft")
        write_page("trainer", "The trainer beside the original's loop and trl's defaults", text, libraries=libraries)
    shutil.rmtree(FOLDER)


if __name__ == "__main__":
    main()
