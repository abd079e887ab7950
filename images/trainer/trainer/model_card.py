"""The model card of an adapter, written from its run (huggingface.co/docs/hub/model-cards)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tuning.files import write_whole

FILE = "README.md"
METHOD_NAMES = {"lora": "LoRA", "qlora": "QLoRA"}


@dataclass(frozen=True)
class Run:
    """What the card tells: names, settings and figures of one run."""

    base_model: str
    method: str
    dataset_files: Sequence[Mapping[str, Any]]
    tokens: Mapping[str, Any]
    settings: Mapping[str, Any]
    metrics: Mapping[str, float]
    steps: int
    trainable_parameters: int
    serving_problems: Sequence[str]
    has_plot: bool
    has_template: bool


def write_model_card(results: Path, run: Run) -> None:
    """Put `README.md` into the results folder, whole."""
    write_whole(results / FILE, render_model_card(run).encode())


def render_model_card(run: Run) -> str:
    """The card as Markdown, with the metadata that hubs read."""
    front = yaml.safe_dump(
        {
            "base_model": run.base_model,
            "library_name": "peft",
            "pipeline_tag": "text-generation",
            "tags": sorted({"lora", run.method, "sft", "kaito-tuning"}),
        },
        sort_keys=False,
    )
    plot = "![Loss over the steps](loss.png)\n\n" if run.has_plot else ""
    return f"""---
{front}---

# {METHOD_NAMES[run.method]} adapter of {run.base_model}

{run.steps} steps, {run.trainable_parameters:,} trained parameters.

## Results

{_table(("figure", "value"), [(name.replace("_", " "), f"{value:.4f}") for name, value in run.metrics.items()])}

{plot}## Data

{_table(("file", "rows", "used", "tokens", "trained"), [_file_row(file) for file in run.dataset_files])}

Loss falls on {run.tokens["shares"]["trained"]:.1%} of {run.tokens["total"]:,} tokens; \
{run.tokens["truncated"]:,} were cut off, {run.tokens["dropped"]:,} dropped. \
`label_report.json` tells which, `provenance.json` what went in.

## Settings

{_table(("key", "value"), [(f"`{key}`", f"`{value}`") for key, value in run.settings.items()])}

## Use

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained("{run.base_model}", dtype="auto", device_map="auto")
model = PeftModel.from_pretrained(base, ".")
tokenizer = AutoTokenizer.from_pretrained("{"." if run.has_template else run.base_model}")
```

{_serving(run)}
"""


def _serving(run: Run) -> str:
    rank = next((problem for problem in run.serving_problems if "--max-lora-rank" in problem), "")
    flag = " --max-lora-rank " + rank.split("--max-lora-rank ")[1].split()[0] if rank else ""
    others = [problem for problem in run.serving_problems if problem != rank]
    if others:
        return "vLLM cannot serve this adapter as it is:\n\n" + "\n".join(f"- {problem}" for problem in others)
    template = " --chat-template ./chat_template.jinja" if run.has_template else ""
    return f"```sh\nvllm serve {run.base_model} --enable-lora --lora-modules adapter=.{flag}{template}\n```"


def _file_row(file: Mapping[str, Any]) -> tuple[str, ...]:
    tokens = file["tokens"]
    return (
        f"`{file['file']}`",
        f"{file['rows']:,}",
        f"{file['used']:,}",
        f"{tokens['total']:,}",
        f"{tokens['shares']['trained']:.1%}",
    )


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
