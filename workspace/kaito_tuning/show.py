"""What the commands print for people: tables, and a bar for the memory."""

import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kaito_tuning.explain import Explanation
from kaito_tuning.local import Verdict
from kaito_tuning.plan import GIB, Plan

_BAR = 40
# The parts of the memory, in the order of the bar.
_PARTS = {"weights": "cyan", "adapter": "magenta", "activations": "yellow", "head": "green", "workspace": "blue"}


def show_json(content: Any) -> None:
    """Print `content` for programs."""
    print(json.dumps(content, indent=2, default=str, ensure_ascii=False))


def show_verdict(verdict: Verdict) -> None:
    """Print how the containers ended, and what the Job would do."""
    table = Table("container", "exit code", "seconds", "said")
    for ended in verdict.ended:
        color = "green" if ended.exit_code == 0 else "red"
        table.add_row(ended.container, f"[{color}]{ended.exit_code}", f"{ended.seconds:.1f}", Text(ended.message))
    console = Console(stderr=True)
    console.print(table)
    console.print(f"The Job: {verdict.reaction}")


def show_explanations(found: Sequence[Explanation]) -> None:
    """Print what keys do."""
    if len(found) > 3:
        table = Table("key", "default", "what it does")
        for entry in found:
            table.add_row(entry.path.partition(".")[2], _value(entry.default), Text(entry.meaning))
        Console().print(table)
        return
    for entry in found:
        print(f"{entry.path}\n  {entry.meaning}")
        print(f"  takes:   {', '.join(entry.choices or entry.kinds) or 'anything'}")
        print(f"  default: {_value(entry.default)}\n  source:  {entry.source}")


def _value(value: Any) -> str:
    return "none" if value is None else json.dumps(value)


def show_plan(plan: Plan) -> None:
    """Print a plan: its figures, a bar of the memory, suggestions, and what was assumed."""
    console = Console()
    table = Table(show_header=False, title=f"{plan.model}, {plan.method}", title_justify="left")
    table.add_column(justify="right", style="bold")
    table.add_column()
    for name, value in _rows(plan):
        table.add_row(name, value)
    console.print(table)
    if plan.memory is not None:
        console.print(_bar(plan))
    for suggestion in plan.suggestions:
        console.print(Text.assemble(("→ ", "green"), (suggestion.setting, "bold"), f"  {suggestion.effect}"))
    for assumption in plan.assumptions:
        console.print(Text(f"assumed: {assumption}", style="dim"))


def _rows(plan: Plan) -> list[tuple[str, str]]:
    unknown = "not known"
    rows = unknown if plan.rows is None else f"{plan.rows:,} of about {plan.tokens_per_row:,} tokens"
    step = f"{plan.samples_per_step} samples of up to {plan.length:,} tokens"
    if plan.samples_per_step != plan.batch * plan.gpus:
        step += f", {plan.batch} at a time"
    gpus = f"{plan.gpus} x {plan.gpu or 'GPU'}, {plan.gpu_gib} GiB each"
    return [
        ("rows", rows),
        ("a step", step),
        ("steps", unknown if plan.steps is None else f"{plan.steps:,} in {plan.epochs:g} epochs"),
        ("trained", unknown if plan.trainable is None else f"{plan.trainable:,} parameters"),
        ("GPUs", gpus),
        ("memory", _memory(plan)),
        ("disk", f"data {_size(plan.data_bytes)}, results {_size(plan.output_bytes)}"),
        ("duration", unknown if plan.seconds is None else f"roughly {_duration(plan.seconds)}"),
    ]


def _memory(plan: Plan) -> str:
    if plan.memory is None:
        return "not known"
    fits = "fits" if plan.fits else "does NOT fit"
    how = ", with checkpointing" if plan.checkpointing else ""
    return f"{plan.memory.total / GIB:.1f} of {plan.gpu_gib} GiB on each GPU{how}: {fits}"


def _bar(plan: Plan) -> Text:
    """The memory of one GPU, a character for each fortieth; what goes over it in red."""
    assert plan.memory is not None  # noqa: S101 - asked before
    bar, legend = Text("["), Text(" ")
    used = 0
    for name, color in _PARTS.items():
        size = getattr(plan.memory, name)
        width = round(size / GIB / plan.gpu_gib * _BAR)
        room = max(0, min(width, _BAR - used))
        bar.append("█" * room, style=color)
        bar.append("█" * min(width - room, _BAR), style="red")
        used += width
        legend.append(f"{name} {size / GIB:.1f}  ", style=color)
    bar.append("·" * max(0, _BAR - used) + "]\n")
    return bar + legend


def _size(size: int | None) -> str:
    if size is None:
        return "not known"
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / (1 << 20):.1f} MiB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
