import json
import math
from pathlib import Path
from typing import Any

import pytest

from kaito_tuning.base_models import find_model
from kaito_tuning.job import render
from kaito_tuning.options import Options
from kaito_tuning.plan import Plan, make_plan
from kaito_tuning.pod import Pod
from kaito_tuning.reading import parse_workspace
from kaito_tuning.sampling import SAMPLE_BYTES, Sample, sample_path, sample_urls
from tests.support.web import Web, content, parts
from tests.unit.kaito_tuning.test_workspace import document
from tuning.memory import Settings, model_of_preset, predict
from tuning.presets import Preset, presets


def plan(settings: str = "", sample: Sample | None = None, gpus: int | None = None, **changes: Any) -> Plan:
    changes = {"resource__instanceType": "Standard_NC24ads_A100_v4", **changes}
    method = changes.get("tuning__method", "lora")
    quantized = "QuantizationConfig: {load_in_4bit: true}, " if method == "qlora" else ""
    text = f"training_config: {{{quantized}TrainingArguments: {{{settings}}}}}"
    configmap = {"kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"training_config.yaml": text}}
    workspace = parse_workspace(document(**changes, tuning__config="c"), source="w.yaml")
    config = render(workspace, configmap).config
    assert config is not None
    pod = Pod(workspace, Options(gpus=gpus), "", Path("/"))
    return make_plan(workspace, config, pod, model_of_preset(workspace.preset), sample)


def sample(rows: int, tokens: int) -> Sample:
    return Sample(rows, 4.0 * tokens, rows * tokens * 4, whole=True)


@pytest.mark.parametrize(
    ("settings", "gpus", "expected"),
    [
        ("num_train_epochs: 1", 1, math.ceil(1000 / 8)),
        ("num_train_epochs: 3", 1, math.ceil(math.ceil(1000 / 8) * 3)),
        ("num_train_epochs: 1, per_device_train_batch_size: 3", 1, math.ceil(1000 / 3)),
        ("num_train_epochs: 1, per_device_train_batch_size: 2, gradient_accumulation_steps: 4", 1, 125),
        ("num_train_epochs: 1, per_device_train_batch_size: 2", 4, 125),
        ("max_steps: 17", 1, 17),
        ("num_train_epochs: 1, packing: true, max_length: 1000", 1, 200),
    ],
)
def test_steps_follow_the_formula(settings: str, gpus: int, expected: int) -> None:
    assert plan(settings, sample(1000, 200), gpus).steps == expected


def test_the_memory_is_the_one_that_the_trainer_plans() -> None:
    found = plan("per_device_train_batch_size: 4, max_length: 512", sample(10_000, 500))
    model = model_of_preset(presets()["phi-3-mini-128k-instruct"])
    assert model is not None
    assert found.memory == predict(model, Settings(batch=4, length=512))
    assert (found.batch, found.length, found.fits) == (4, 512, True)
    assert found.trainable == 12_582_912


def test_packing_is_suggested_with_its_effect() -> None:
    found = plan("num_train_epochs: 3, per_device_train_batch_size: 1", sample(1000, 200))
    packed = math.ceil(1000 * 200 / 2048) * 3
    assert [s for s in found.suggestions if s.effect == f"3,000 → {packed:,} steps"], found.suggestions


def test_a_larger_batch_is_suggested_where_it_fits() -> None:
    found = plan("per_device_train_batch_size: 1, max_length: 256", sample(1000, 200))
    assert any(s.setting == "per_device_train_batch_size: 8" and "of 79 GiB" in s.effect for s in found.suggestions)


def test_what_does_not_fit_says_what_would() -> None:
    big = {"tuning__preset": {"name": "qwen2.5-coder-32b-instruct"}, "resource__instanceType": "g5.xlarge"}
    found = plan("per_device_train_batch_size: 8, max_length: 4096", sample(1000, 4000), **big)
    assert found.fits is False
    assert [s.setting for s in found.suggestions if s.setting.startswith("method: qlora")]
    small = {"tuning__preset": {"name": "phi-3-mini-128k-instruct"}, "resource__instanceType": "g5.xlarge"}
    found = plan("per_device_train_batch_size: 64, max_length: 4096", sample(1000, 4000), **small)
    assert found.fits is False
    [fitting] = [s for s in found.suggestions if s.setting.startswith("per_device_train_batch_size")]
    assert "fits" in fitting.effect


def test_what_is_not_known_is_said_and_nothing_is_made_up() -> None:
    found = plan(resource__instanceType="unheard-of", tuning__preset={"name": "org/model"})
    assert (found.rows, found.steps, found.memory, found.fits, found.seconds) == (None, None, None, None, None)
    said = "; ".join(found.assumptions)
    assert "the instance type is not known (unheard-of)" in said
    assert "the shape of org/model is not known" in said
    assert "could not be sampled" in said


def rows(number: int) -> bytes:
    return b"".join(json.dumps({"prompt": "p" * 100, "completion": "c" * 100}).encode() + b"\n" for _ in range(number))


def test_the_beginning_of_a_large_file_tells_its_rows(tmp_path: Path, web: Web) -> None:
    content = rows(20_000)
    assert len(content) > 2 * SAMPLE_BYTES
    (tmp_path / "x.jsonl").write_bytes(content)
    local, _ = sample_path(tmp_path)
    remote, notes = sample_urls([web.serve("/x.jsonl", parts(content))])
    assert notes == []
    for found in (local, remote):
        assert found is not None
        assert found.rows == pytest.approx(20_000, rel=0.01)
        assert (found.characters_per_row, found.whole, found.size_bytes) == (200, False, len(content))


def test_rows_that_cannot_be_learnt_from_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"text": "a"}\n{"text": "b"\n')
    sample, notes = sample_path(tmp_path / "x.jsonl")
    assert sample
    assert sample.rows == 1
    [note] = notes
    assert note.startswith("1 of 2 sampled rows cannot be learnt from, the first: x.jsonl line 2 is not JSON")


def test_a_source_that_cannot_be_sampled_is_named_without_its_query() -> None:
    for url, said in {
        "s3://bucket/key": "s3://bucket/key was not sampled: s3:// is not sampled",
        "http://127.0.0.1:1/x.jsonl?token=s3cret": "http://127.0.0.1:1/x.jsonl?… was not sampled: ",
    }.items():
        found, [note] = sample_urls([url])
        assert found is None
        assert note.startswith(said)
        assert "s3cret" not in note


def test_the_sizes_of_a_model_that_is_no_preset_come_from_the_hub(web: Web) -> None:
    phi = presets()["phi-3-mini-128k-instruct"]
    assert phi.shape is not None
    config = {
        "model_type": "phi3",
        "hidden_size": phi.shape.hidden,
        "num_attention_heads": phi.shape.heads,
        "num_hidden_layers": phi.shape.layers,
        "intermediate_size": phi.shape.intermediate,
        "vocab_size": phi.shape.vocabulary,
        "max_position_embeddings": phi.shape.context,
    }
    hub = web.serve("/org/model/resolve/main/config.json", content(json.dumps(config).encode()))
    preset = Preset("org/model", "org/model")
    model, notes = find_model(preset, hub.removesuffix("/org/model/resolve/main/config.json"))
    assert notes == []
    assert model is not None
    assert model.parameters == pytest.approx(phi.parameters, rel=0.01)
    known, _ = find_model(phi, "https://nowhere.invalid")
    assert known == model_of_preset(phi), "a preset asks nobody"
    missing, [note] = find_model(preset, "http://127.0.0.1:1", token="s3cret")
    assert missing is None
    assert note.startswith("the hub did not tell the sizes of org/model: ")
    assert "s3cret" not in note
