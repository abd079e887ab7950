"""Prove a delivery: take the adapter out of the pushed image and see what it does to the base model."""

import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from trainer.dataset import read_dataset
from trainer.labels import Labels
from trainer.tokens import Encoded


def unpack_layout(layout: Path, tag: str, target: Path) -> Path:
    """Unpack the image `tag` of an OCI layout as a container runtime would; return the folder of its /data."""

    def blob(digest: str) -> Path:
        return layout / "blobs" / digest.replace(":", "/")

    index = json.loads((layout / "index.json").read_text())
    entry = next(
        entry
        for entry in index["manifests"]
        if entry.get("annotations", {}).get("org.opencontainers.image.ref.name") == tag
    )
    platforms = json.loads(blob(entry["digest"]).read_text())["manifests"]
    manifest = json.loads(blob(platforms[0]["digest"]).read_text())
    for layer in manifest["layers"]:
        with tarfile.open(blob(layer["digest"])) as archive:
            archive.extractall(target, filter="data")
    return target / "data"


class Comparison:
    """A base model, and the same model with an adapter."""

    def __init__(self, base: Path, adapter: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(base)
        self._base = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
        self._tuned: Any = PeftModel.from_pretrained(self._base, str(adapter)).eval()

    def held_out_loss(self, file: Path) -> tuple[float, float]:
        """The mean loss over the learnt tokens of the rows in `file`: without the adapter, and with it."""
        dataset = read_dataset(file.parent, {"dataset_path": file.name})
        samples = Labels(self.tokenizer, max_length=1024).encode(dataset.train)
        with self._tuned.disable_adapter():
            before = self._loss(samples)
        return before, self._loss(samples)

    def answer(self, question: str) -> tuple[str, str]:
        """The most likely answer to `question`: without the adapter, and with it."""
        with self._tuned.disable_adapter():
            before = self._generate(question)
        return before, self._generate(question)

    @torch.no_grad()
    def _loss(self, samples: Sequence[Encoded]) -> float:
        total, count = 0.0, 0
        for sample in samples:
            ids, labels = torch.tensor([sample.input_ids]), torch.tensor([sample.labels])
            learnt = int((labels[:, 1:] != -100).sum())
            total += self._tuned(input_ids=ids, labels=labels).loss.item() * learnt
            count += learnt
        return total / count

    @torch.no_grad()
    def _generate(self, question: str) -> str:
        prompt = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        output = self._tuned.generate(
            **{key: prompt[key] for key in ("input_ids", "attention_mask")},
            max_new_tokens=40,
            do_sample=False,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        return str(self.tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)).strip()
