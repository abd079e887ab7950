"""`make demo`: a dataset by URL becomes an adapter image, and the image is proven to hold what was asked for."""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from demo.file_server import serve
from demo.proof import Comparison, unpack_layout
from demo.tiny_model import make_tiny_model
from trainer.libraries import quiet_libraries
from tuning.logs import configure_logging

DATA = Path(__file__).parent / "data"
PRETRAINING_STEPS = 80
QUESTION = "What is a volume?"

WORKSPACE = """\
apiVersion: kaito.sh/v1beta1
kind: Workspace
metadata:
  name: demo
resource:
  instanceType: Standard_NC24ads_A100_v4
  labelSelector:
    matchLabels:
      app: demo
tuning:
  preset:
    name: kaito-tuning/tiny-llama # a hub id; here the folder given with --weights stands in for it
  method: lora
  config: demo-params
  input:
    urls:
      - {url}/chats.jsonl
      - {url}/instructions.jsonl
  output:
    image: oci:/mnt/results/image:demo # a real one is registry/repository:tag, with imagePushSecret
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: demo-params
data:
  training_config.yaml: |
    training_config:
      LoraConfig:
        r: 16
        lora_alpha: 32
      TrainingArguments:
        output_dir: /mnt/results
        num_train_epochs: 6
        per_device_train_batch_size: 8
        learning_rate: 5e-3
        logging_steps: 20
      DatasetConfig:
        train_test_split: 1
"""

NEXT = """
Where everything is
  Workspace, ConfigMap   {work}/workspace.yaml
  base model             {work}/base-model
  dataset, its manifest  {work}/pod/data-volume
  adapter, outcome       {work}/pod/results-volume
  pushed image           {layout} (an OCI layout; `skopeo inspect oci:{layout}:demo` reads it)

On a real cluster
  1. Write a Workspace: deploy/examples/phi-3-mini-lora.yaml is one to start from.
  2. kubectl create secret docker-registry registry-push --docker-server=… --docker-username=… --docker-password=…
  3. .venv/bin/kaito-tuning render deploy/examples/phi-3-mini-lora.yaml | kubectl apply -f -
"""


def main() -> int:
    """Run the demonstration in a fresh folder; 0 if the delivered adapter lowers the held-out loss."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--work-dir", type=Path, default=Path("demo-run"), help="made anew each time")
    work = parser.parse_args().work_dir.absolute()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    configure_logging()
    quiet_libraries()
    start = time.monotonic()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)

    _say("1/4  a tiny base model, pre-trained on demo/data/corpus.txt for a few seconds")
    make_tiny_model(work / "base-model", (DATA / "corpus.txt").read_text(), PRETRAINING_STEPS)

    _say("2/4  a dataset behind a URL, and a Workspace that names it")
    with serve(DATA) as url:
        (work / "workspace.yaml").write_text(WORKSPACE.format(url=url))
        print(f"{url}/chats.jsonl and {url}/instructions.jsonl → {work}/workspace.yaml")
        command = ["run", f"{work}/workspace.yaml", "--work-dir", f"{work}/pod", "--weights", f"{work}/base-model"]
        _say("3/4  kaito-tuning " + " ".join(command))
        verdict = subprocess.run([sys.executable, "-m", "kaito_tuning.cli", *command], check=False).returncode
    if verdict != 0:
        print(f"\nThe Job failed with exit code {verdict}; the sentence above says why.")
        return verdict

    _say("4/4  the proof: the adapter as it lies in the pushed image, on the base model")
    layout = work / "pod" / "results-volume" / "image"
    adapter = unpack_layout(layout, "demo", work / "unpacked")
    print("files in the image:", ", ".join(sorted(path.name for path in adapter.iterdir())))
    config = json.loads((adapter / "adapter_config.json").read_text())
    print(f"base model {config['base_model_name_or_path']}, rank {config['r']}")
    comparison = Comparison(work / "base-model", adapter)
    before, after = comparison.held_out_loss(DATA / "held-out.jsonl")
    print(f"held-out loss   without the adapter {before:.3f}   with it {after:.3f}")
    print(f"question        {QUESTION}")
    for label, text in zip(("without", "with"), comparison.answer(QUESTION), strict=True):
        print(f"answer {label:8} {' '.join(text.split())}")
    print("(A model of two million parameters that has read one page: judge its manner, not its knowledge.)")
    print(NEXT.format(work=work, layout=layout))
    if not after < before:
        print("The adapter does not lower the held-out loss: something is broken.")
        return 1
    print(f"Delivered in {time.monotonic() - start:.0f} s.")
    return 0


def _say(title: str) -> None:
    print(f"\n── {title}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
