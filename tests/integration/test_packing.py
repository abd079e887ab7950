"""Packed samples never see each other: for each architecture, the gradients are those of the samples alone."""

from pathlib import Path
from typing import Any

import pytest
from tests.integration.test_architectures import ARCHITECTURES, make_model
from tests.support.tuning import CHATS, QUICK, tune_here

from trainer.tokens import Encoded
from tuning.row_files import Place


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_gradients_of_a_pack_are_those_of_its_samples(architecture: str, tiny_model: Path, tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from trainer import fitting

    folder = make_model(tmp_path / "model", tiny_model, architecture)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    generator = torch.Generator().manual_seed(1)
    samples = []
    for length in (9, 14, 5):
        ids = torch.randint(5, 1000, (length,), generator=generator).tolist()
        samples.append(Encoded(ids, list(ids), Place("x", "1")))

    def gradients(section: dict[str, Any]) -> dict[str, Any]:
        arguments = fitting.parse_arguments(
            section,
            {"use_cpu": True, "bf16": False, "report_to": "none", "router_aux_loss_coef": 0.0},
            tmp_path,
            64,
            evaluates=False,
        )
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        lora = LoraConfig(r=4, task_type="CAUSAL_LM", target_modules="all-linear", init_lora_weights=False)
        torch.manual_seed(3)
        trainer = fitting._make_trainer(model, tokenizer, samples, [], fitting.Recipe(lora, arguments), ())
        trainer.model.eval()
        found: dict[str, Any] = {}
        for batch in trainer.get_train_dataloader():
            learnt = (batch["labels"][..., 1:] != -100).sum() if not section.get("packing") else None
            loss = trainer.compute_loss(trainer.model, dict(batch))
            # The mean over a batch, back to the sum over its tokens: a pack holds three samples, a batch one.
            count = learnt if learnt is not None else sum(len(sample.input_ids) - 1 for sample in samples)
            (loss * count).backward()
        for name, parameter in trainer.model.named_parameters():
            if parameter.grad is not None:
                found[name] = parameter.grad.clone()
        return found

    apart = gradients({"per_device_train_batch_size": 1})
    packed = gradients({"per_device_train_batch_size": 1, "packing": True})
    assert apart.keys() == packed.keys()
    assert apart
    largest = max(float(gradient.abs().max()) for gradient in apart.values())
    for name, gradient in apart.items():
        assert torch.allclose(gradient, packed[name], atol=1e-4 * largest, rtol=1e-3), name


@pytest.mark.parametrize("architecture", ["llama", "falcon", "gpt_oss"])
def test_packing_saves_steps_and_says_how_many(
    architecture: str, tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = make_model(tmp_path / "model", tiny_model, architecture)
    caplog.set_level("INFO")
    arguments = {key: value for key, value in QUICK.items() if key not in ("max_steps", "per_device_train_batch_size")}
    done = tune_here(
        tmp_path,
        model,
        CHATS * 4,
        TrainingArguments={**arguments, "packing": True, "max_length": 128, "num_train_epochs": 1, "logging_steps": 1},
        LoraConfig={"target_modules": ["o_proj"] if architecture == "gpt_oss" else "all-linear"},
    )
    assert done.steps < 20
    line = next(record.getMessage() for record in caplog.records if record.getMessage().startswith("packing: "))
    assert line.startswith("packing: 40 samples in ")
    assert f"takes {done.steps} steps instead of 40" in line
