"""Tune in this process: what the trainer does, without the seconds that a process needs to import its libraries."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from trainer.settings import Settings
from trainer.tuning_run import tune
from tuning.errors import TuningError
from tuning.outcome import Completed, read_outcome

CHATS = [
    {"messages": [{"role": "user", "content": f"What is {word}?"}, {"role": "assistant", "content": f"A {word}."}]}
    for word in ("pod", "node", "volume", "secret", "label", "token", "layer", "image", "cache", "queue")
]
# Four steps of two samples: enough to see that something is learnt.
QUICK = {"max_steps": 4, "per_device_train_batch_size": 2, "logging_steps": 2, "learning_rate": 5e-3}


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write rows as JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def fail(error: TuningError) -> None:
    """What the watchdog does in a test."""
    raise AssertionError(error)


def tune_here(
    folder: Path,
    model: Path | str,
    rows: Iterable[Mapping[str, Any]] | None = CHATS,
    *,
    base_model_name: str = "org/tiny",
    oom_retry: bool = True,
    checkpoint_seconds: float | None = None,
    **sections: Mapping[str, Any],
) -> Completed:
    """Tune with the ConfigMap's `sections` and return the announced outcome; the adapter is in `folder`/results.

    With `rows` of None, the data folder is what the test put there.
    """
    data, results = folder / "data", folder / "results"
    results.mkdir(exist_ok=True)
    if rows is not None:
        write_rows(data / "x.jsonl", rows)
    sections = {"TrainingArguments": QUICK, **sections}
    (folder / "training_config.yaml").write_text(yaml.safe_dump({"training_config": dict(sections)}))
    settings = Settings(
        config_path=folder / "training_config.yaml",
        dataset_folder=data,
        weights=str(model),
        base_model_name=base_model_name,
        method="",
        results_path=results,
        run_id="",
        oom_retry=oom_retry,
        checkpoint_seconds=checkpoint_seconds,
        step_timeout_seconds=600,
        progress_seconds=60,
        metrics_port=0,
        processes=1,
        nodes=1,
        node=0,
        master_address="",
        master_port=29500,
    )
    tune(settings, results, fail)
    outcome = read_outcome(results)
    assert isinstance(outcome, Completed)
    return outcome
