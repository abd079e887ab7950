"""The commands in README are those that exist, and do what it says."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kaito_tuning.cli import app


def commands(root: Path, name: str = "README.md") -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", (root / name).read_text(), re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_every_make_target_exists(root: Path, name: str) -> None:
    targets = [line.split()[1] for line in commands(root, name) if line.startswith("make ")]
    assert {"demo", "test"} <= set(targets)
    for target in targets:
        subprocess.run(["make", "--dry-run", target], cwd=root, check=True, capture_output=True)


def test_every_rendering_renders(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    found = [line for line in commands(root) if "kaito-tuning render" in line]
    assert found
    for line in found:
        arguments = shlex.split(line.partition("|")[0])[1:]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        assert "kind: Job" in result.output


def test_every_option_of_a_run_exists(root: Path) -> None:
    offered = CliRunner().invoke(app, ["run", "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"}).output
    found = [line for line in commands(root) if "kaito-tuning run" in line]
    assert found
    for option in re.findall(r"--[a-z-]+", " ".join(found)):
        assert option in re.sub(r"\x1b\[[0-9;]*m", "", offered)


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
