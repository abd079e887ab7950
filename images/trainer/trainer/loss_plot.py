"""The loss of a run as a picture: `loss.png`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FILE = "loss.png"
_INK, _TRAIN, _EVAL, _RATE, _GRID = "#1f2430", "#9db8d9", "#c8553d", "#8a8f98", "#e6e8eb"
_TREND = "#2a5d9f"
# Fewer points show their trend themselves.
_FEW = 20


def draw_loss(records: Sequence[Mapping[str, Any]], results: Path, title: str) -> bool:
    """Draw the training and evaluation loss over the steps, the learning rate below. False where there is too little.

    `records` are those of `training_metrics.jsonl`.
    """
    train = [(record["step"], record["loss"]) for record in records if record.get("loss") is not None]
    evaluation = [(record["step"], record["eval_loss"]) for record in records if record.get("eval_loss") is not None]
    rate = [(record["step"], record["learning_rate"]) for record in records if record.get("learning_rate") is not None]
    if len(train) < 2:
        return False
    # 0.3 s, at the end of a run that takes minutes.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 5), dpi=120, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    loss, schedule = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    if len(train) < _FEW:
        loss.plot(*zip(*train, strict=True), color=_TREND, linewidth=2, label="training")
    else:
        smooth = _trend([value for _, value in train])
        loss.plot(*zip(*train, strict=True), color=_TRAIN, linewidth=1, label="training, each log")
        loss.plot([step for step, _ in train], smooth, color=_TREND, linewidth=2, label="training, trend")
    if evaluation:
        loss.plot(*zip(*evaluation, strict=True), color=_EVAL, linewidth=2, marker="o", markersize=5, label="held out")
        step, value = evaluation[-1]
        loss.annotate(
            f"{value:.3f}", (step, value), (-8, 9), textcoords="offset points", color=_EVAL, ha="right", weight="bold"
        )
    loss.set_ylabel("loss (nats per token)", color=_INK)
    loss.set_title(title, loc="left", color=_INK, fontsize=11, weight="bold")
    loss.legend(frameon=False, fontsize=9, loc="upper right")
    if rate:
        schedule.plot(*zip(*rate, strict=True), color=_RATE, linewidth=1.5)
        schedule.fill_between(*zip(*rate, strict=True), color=_RATE, alpha=0.15)
    schedule.set_ylim(bottom=0)
    schedule.set_ylabel("learning rate", color=_INK)
    schedule.set_xlabel("step", color=_INK)
    schedule.xaxis.set_major_locator(MaxNLocator(integer=True))
    schedule.ticklabel_format(axis="y", style="sci", scilimits=(0, 0), useMathText=True)
    for axes in (loss, schedule):
        axes.grid(color=_GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=_INK, labelsize=9)
    # Without the library's version and the time, equal runs give equal pictures.
    figure.savefig(results / FILE, metadata={"Software": None})
    return True


def _trend(values: Sequence[float]) -> list[float]:
    """Exponential moving average over about a tenth of the values, unbiased at the start (Kingma and Ba, 2015)."""
    keep = 1 - 1 / max(len(values) / 10, 1.5)
    smooth, weight, trend = 0.0, 0.0, []
    for value in values:
        smooth = keep * smooth + (1 - keep) * value
        weight = keep * weight + (1 - keep)
        trend.append(smooth / weight)
    return trend
