"""The whole pod on real conversations and real instructions, LoRA and QLoRA, up to an adapter that has learnt."""

import io
import json
import os
from pathlib import Path

import pytest
import yaml
from demo.file_server import serve
from tests.unit.kaito_tuning.test_workspace import document

from kaito_tuning.job import render
from kaito_tuning.local import Local
from kaito_tuning.processes import run_as_processes
from kaito_tuning.reading import parse_workspace
from tuning.provenance import read_manifest
from tuning.training_config import CONFIG_KEY

HELD_OUT = 40
QUANTIZED = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real datasets, each with its last rows held out."""
    source = Path(__file__).parents[3] / "shared" / "data"
    if not source.is_dir():
        pytest.skip(f"the real datasets are not at hand: there is no {source}")
    folder = tmp_path_factory.mktemp("data")
    for name in ("conversations", "instruction"):
        lines = (source / f"{name}.jsonl").read_text().splitlines(keepends=True)
        (folder / f"{name}.jsonl").write_text("".join(lines[:-HELD_OUT]))
        (folder / f"{name}-held-out.jsonl").write_text("".join(lines[-HELD_OUT:]))
    return folder


@pytest.mark.timeout(600)
@pytest.mark.parametrize("method", ["lora", "qlora"])
@pytest.mark.parametrize("name", ["conversations", "instruction"])
def test_a_real_dataset_becomes_an_adapter_that_lowers_the_held_out_loss(
    name: str, method: str, data: Path, tiny_model: Path, tmp_path: Path
) -> None:
    config = {
        "QuantizationConfig": QUANTIZED if method == "qlora" else {},
        "LoraConfig": {"r": 8, "lora_alpha": 16},
        "TrainingArguments": {
            "max_steps": 12,
            "per_device_train_batch_size": 4,
            "max_length": 256,
            "learning_rate": 5e-3,
            "logging_steps": 4,
        },
    }
    text = yaml.safe_dump({"training_config": config})
    configmap = {"kind": "ConfigMap", "metadata": {"name": "params"}, "data": {CONFIG_KEY: text}}
    with serve(data) as url:
        changes = {
            "tuning__preset": {"name": "org/tiny"},
            "tuning__method": method,
            "tuning__config": "params",
            "tuning__input": {"urls": [f"{url}/{name}.jsonl"]},
            "tuning__output": {"image": "oci:/mnt/results/image:v1"},
        }
        job = render(parse_workspace(document(**changes), source="w.yaml", local=True), configmap)
        output = io.StringIO()
        verdict = run_as_processes(job, Local(tmp_path / "pod", tiny_model), dict(os.environ), output)
    assert verdict.exit_code == 0, output.getvalue()
    assert "step 12/12" in output.getvalue()

    from demo.proof import Comparison, unpack_layout

    layout = tmp_path / "pod" / "results-volume" / "image"
    adapter = unpack_layout(layout, "v1", tmp_path / "unpacked")
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == "org/tiny"
    before, after = Comparison(tiny_model, adapter).held_out_loss(data / f"{name}-held-out.jsonl")
    assert after < before - 0.1
    manifest = read_manifest(tmp_path / "pod" / "data-volume")
    assert manifest is not None
    entries = json.loads((layout / "index.json").read_text())["manifests"]
    [tagged] = [entry for entry in entries if "annotations" in entry]
    index = (layout / "blobs" / tagged["digest"].replace(":", "/")).read_text()
    assert json.loads(index)["annotations"]["sh.kaito.tuning.dataset-digest"] == manifest.digest
