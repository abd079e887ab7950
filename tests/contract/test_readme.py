"""The commands in README are those that exist, and do what it says."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tests.support.tuning import CHATS
from tests.support.web import Web, parts


def commands(root: Path, name: str = "README.md") -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", (root / name).read_text(), re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_every_make_target_exists(root: Path, name: str) -> None:
    targets = [line.split()[1] for line in commands(root, name) if line.startswith("make ")]
    assert {"demo", "test"} <= set(targets)
    for target in targets:
        subprocess.run(["make", "--dry-run", target], cwd=root, check=True, capture_output=True)


@pytest.fixture
def place(root: Path, tmp_path: Path) -> Path:
    """A folder that looks like the repository, where commands may write; kubectl is one of ours."""
    for path in root.iterdir():
        (tmp_path / path.name).symlink_to(path)
    programs = tmp_path / "programs"
    programs.mkdir()
    kubectl = programs / "kubectl"
    kubectl.write_text(f'#!/bin/sh\nexec {sys.executable} {root}/tests/support/kubectl.py {tmp_path}/cluster "$@"\n')
    kubectl.chmod(0o755)
    return tmp_path


def test_every_command_of_the_readme_does_what_it_says(
    root: Path, place: Path, tiny_model: Path, web: Web, tmp_path: Path
) -> None:
    """In their order, in one folder; `make` targets are steps of CI."""
    lines = commands(root)
    steps = (root / ".ci" / "run").read_text()
    environ = {**os.environ, "PATH": f"{place / 'programs'}:{os.environ['PATH']}", "HOME": str(place), "PASSWORD": "x"}
    for line in lines:
        if line.startswith("make "):
            assert f"step {line.partition('#')[0].strip()}\n" in steps
            continue
        if "kaito-tuning run" in line:
            prepare_run(place, tiny_model, web)
        command = ["bash", "-euo", "pipefail", "-c", line]
        done = subprocess.run(command, cwd=place, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (line, done.stdout, done.stderr)
    applied = (place / "cluster" / "applied").read_text().split()
    for kind in ("ConfigMap/mine-params", "Job/mine", "Workspace/mine", "Deployment/controller"):
        assert kind in applied
    assert (place / "run" / "results-volume" / "adapter_model.safetensors").exists()


def prepare_run(place: Path, model: Path, web: Web) -> None:
    """What the command for this machine names: a Workspace whose dataset is here, a model, credentials."""
    rows = "".join(json.dumps(row) + "\n" for row in CHATS).encode()
    document, configmap = yaml.safe_load_all((place / "mine.yaml").read_text())
    document["tuning"]["input"]["urls"] = [web.serve("/chats.jsonl", parts(rows))]
    document["tuning"]["output"] = {"image": "oci:/mnt/results/image:mine", "imagePushSecret": "registry-push"}
    arguments = {"TrainingArguments": {"max_steps": 2, "per_device_train_batch_size": 2}}
    configmap["data"]["training_config.yaml"] = yaml.safe_dump({"training_config": arguments})
    (place / "mine.yaml").write_text(yaml.safe_dump_all([document, configmap]))
    (place / "model").symlink_to(model)
    (place / ".docker").mkdir()
    (place / ".docker" / "config.json").write_text("{}")


def test_the_figures_of_the_readme_are_those_of_the_benchmarks(root: Path) -> None:
    measured = "".join(path.read_text() for path in (root / "benchmarks" / "results").glob("*.md"))
    quoted = re.findall(r"\| ([0-9.]+) times as fast \|", (root / "README.md").read_text())
    assert quoted
    for figure in quoted:
        assert re.search(rf"(?<![0-9.]){re.escape(figure)}", measured), figure


def test_the_reference_and_the_pictures_are_up_to_date(root: Path, tmp_path: Path) -> None:
    from docs.pictures.draw import draw
    from docs.write_reference import reference

    assert (root / "docs" / "reference.md").read_text() == reference()
    draw(tmp_path)
    drawn = {path.name: path.read_text() for path in tmp_path.glob("*.svg")}
    assert drawn == {path.name: path.read_text() for path in (root / "docs" / "pictures").glob("*.svg")}
    for path in [root / "README.md", *root.glob("docs/*.md")]:
        for picture in re.findall(r'(?:src|srcset)="([^"]+)"', path.read_text()):
            assert (path.parent / picture).is_file(), picture


def test_troubleshooting_names_every_reason_of_a_condition(root: Path) -> None:
    text = (root / "docs" / "troubleshooting.md").read_text()
    source = "".join(path.read_text() for path in (root / "workspace/kaito_tuning/controller").glob("*.py"))
    reasons = set(re.findall(r'(?:reason=|_REFUSED = )"([A-Za-z]+)"', source)) - {"PodWaiting", "Unschedulable"}
    assert reasons
    for reason in reasons:
        assert f"*{reason}*" in text, reason


def test_every_link_leads_somewhere(root: Path) -> None:
    for path in [*root.glob("*.md"), *root.glob("docs/**/*.md"), *root.glob("images/*/README.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
            assert (path.parent / target).exists(), (path.name, target)


def test_ci_runs_the_test_command_of_the_readme(root: Path) -> None:
    assert re.search(r"^step make test$", (root / ".ci" / "run").read_text(), re.MULTILINE)


def test_troubleshooting_describes_every_exit_code(root: Path) -> None:
    from tuning.errors import CAUSES

    text = (root / "docs" / "troubleshooting.md").read_text()
    for cause in CAUSES:
        ending = "fails" if cause.reaction == "FailJob" else "tries again"
        assert re.search(rf"^\| {cause.exit_code} \| {cause.__name__} \|.*\| {ending} \|", text, re.MULTILINE), cause
