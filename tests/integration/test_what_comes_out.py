"""The files of a run: the adapter, its card, its picture, and where it comes from."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.tuning import CHATS, QUICK, tune_here

from tuning.errors import ConfigurationError
from tuning.provenance import DatasetFile, DatasetManifest, write_manifest

TOKEN = "hf_s3cr3tTokenOfTheHub"


def read(folder: Path, name: str) -> str:
    return (folder / "results" / name).read_text()


def test_the_card_is_written_from_the_run(tmp_path: Path, tiny_model: Path) -> None:
    done = tune_here(
        tmp_path,
        tiny_model,
        base_model_name="org/tiny",
        LoraConfig={"r": 4, "lora_alpha": 8},
        DatasetConfig={"train_test_split": 0.8},
    )
    card = read(tmp_path, "README.md")
    front = yaml.safe_load(card.split("---")[1])
    assert front["base_model"] == "org/tiny"
    assert front["library_name"] == "peft"
    assert f"| eval loss | {done.metrics['eval_loss']:.4f} |" in card
    assert "| `r` | `4` |" in card
    assert "| `x.jsonl` | 10 | 10 |" in card
    assert "![Loss over the steps](loss.png)" in card
    assert "vllm serve org/tiny --enable-lora --lora-modules adapter=." in card
    assert str(tmp_path) not in card


def test_the_code_on_the_card_loads_the_adapter(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tune_here(tmp_path, tiny_model, base_model_name="org/tiny", ModelConfig={"chat_template": "phi-3"})
    code = read(tmp_path, "README.md").split("```python")[1].split("```")[0]
    monkeypatch.chdir(tmp_path / "results")
    names: dict[str, Any] = {}
    exec(code.replace("org/tiny", str(tiny_model)), names)
    assert "<|end|>" in names["tokenizer"].chat_template
    assert any("lora_A" in name for name, _ in names["model"].named_parameters())


def test_the_tokenizer_comes_along_only_where_it_was_changed(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "own").mkdir()
    done = tune_here(tmp_path / "own", tiny_model)
    assert not [file for file in done.files if "token" in file.name]
    done = tune_here(tmp_path, tiny_model, ModelConfig={"chat_template": "phi-3"})
    assert {"chat_template.jinja", "tokenizer.json", "tokenizer_config.json"} <= {file.name for file in done.files}


def test_the_picture_is_one(tmp_path: Path, tiny_model: Path) -> None:
    tune_here(tmp_path, tiny_model, DatasetConfig={"train_test_split": 0.8})
    png = (tmp_path / "results" / "loss.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", png[16:24])
    assert width > 800
    assert height > 400


def test_the_origin_has_digests_of_all_that_went_in_and_no_secret(tmp_path: Path, tiny_model: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    manifest = DatasetManifest((DatasetFile("x.jsonl", "https://host/x.jsonl", 9, "ab" * 32),))
    write_manifest(data, manifest)
    tune_here(
        tmp_path,
        tiny_model,
        ModelConfig={"token": TOKEN},
        TrainingArguments={**QUICK, "seed": 7, "hub_token": TOKEN},
    )
    text = read(tmp_path, "provenance.json")
    assert TOKEN not in text
    origin = json.loads(text)
    assert origin["dataset"]["digest"] == manifest.digest
    assert origin["dataset"]["files"][0]["sha256"] == "ab" * 32
    assert origin["base_model"]["name"] == "org/tiny"
    assert origin["base_model"]["files"].keys() >= {"model.safetensors", "config.json", "tokenizer.json"}
    assert origin["seeds"] == {"seed": 7, "shuffle_seed": 42}
    assert origin["software"]["torch"].startswith("2.13.0")
    assert origin["configuration"]["digest"].startswith("sha256:")
    for name in ("README.md", "label_report.json", "training_metrics.jsonl", "adapter_config.json"):
        assert TOKEN not in read(tmp_path, name)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"r": 24}, "--max-lora-rank 32"),
        ({"use_dora": True}, "DoRA is not served"),
        ({"modules_to_save": ["embed_tokens"]}, "modules_to_save (embed_tokens) is not served"),
        ({"bias": "lora_only"}, "trained biases are not served"),
    ],
)
def test_what_vllm_could_not_serve_is_said_before_training_and_on_the_card(
    tmp_path: Path, tiny_model: Path, caplog: pytest.LogCaptureFixture, section: dict[str, Any], said: str
) -> None:
    tune_here(tmp_path, tiny_model, LoraConfig=section)
    warnings = [record.getMessage() for record in caplog.records if record.getMessage().startswith("vLLM: ")]
    assert len(warnings) == 1
    assert said in warnings[0]
    assert said.removeprefix("its rank is 24: start vLLM with ") in read(tmp_path, "README.md")


def test_a_run_that_diverges_ends_with_its_own_sentence(tmp_path: Path, tiny_model: Path) -> None:
    with pytest.raises(ConfigurationError, match="training diverged") as caught:
        tune_here(tmp_path, tiny_model, TrainingArguments={**QUICK, "learning_rate": 1e30, "warmup_steps": 0})
    assert "learning_rate" in caught.value.hint
    assert not (tmp_path / "results" / "adapter_model.safetensors").exists()


def test_a_collator_as_configured_pads_as_it_says(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    widths = []
    collate = DataCollatorForLanguageModeling.torch_call

    def spy(self: Any, examples: Any) -> Any:
        batch = collate(self, examples)
        widths.append(batch["input_ids"].shape[1])
        return batch

    monkeypatch.setattr(DataCollatorForLanguageModeling, "torch_call", spy)
    tune_here(tmp_path, tiny_model, CHATS, DataCollator={"pad_to_multiple_of": 64})
    assert set(widths) == {64}
