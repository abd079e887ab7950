"""The command `kaito-tuning`."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from kaito_tuning.job import Images, Rendered, render
from kaito_tuning.local import Local, Verdict, run_as_processes
from kaito_tuning.workspace import read_workspace
from tuning.errors import TuningError

app = typer.Typer(add_completion=False, no_args_is_help=True, help="A Workspace becomes a Job that tunes an adapter.")

_File = Annotated[Path, typer.Argument(help="A Workspace; a ConfigMap may stand beside it as a second document.")]
_Registry = Annotated[str, typer.Option(help="Where the three images are.")]
_Tag = Annotated[str, typer.Option(help="The tag of the three images.")]


@app.command("render")
def render_command(file: _File, registry: _Registry = Images.registry, tag: _Tag = Images.tag) -> None:
    """Print the Job, and the ConfigMap it needs, as YAML for `kubectl apply -f -`."""
    sys.stdout.write(_render(file, Images(registry, tag)).to_yaml())


@app.command("run")
def run_command(
    file: _File,
    work_dir: Annotated[Path, typer.Option(help="Where the pod's volumes are kept.")] = Path("kaito-tuning-run"),
    weights: Annotated[
        Path | None, typer.Option(help="The base model's folder, in place of the one in the trainer's image.")
    ] = None,
    docker_config: Annotated[
        Path | None, typer.Option(help="A folder with a config.json, in place of the push secret.")
    ] = None,
) -> None:
    """Run the same pod on this machine as processes; the exit code is the Job's verdict."""
    verdict = run_as_processes(_render(file, Images()), Local(work_dir, weights, docker_config), os.environ)
    _show(verdict)
    raise typer.Exit(verdict.exit_code)


def _render(file: Path, images: Images) -> Rendered:
    workspace, configmap = read_workspace(file)
    return render(workspace, configmap, images)


def _show(verdict: Verdict) -> None:
    table = Table("container", "exit code", "said")
    for ended in verdict.ended:
        table.add_row(ended.container, str(ended.exit_code), ended.message)
    Console(stderr=True).print(table)


def main() -> None:
    """Run the command; an error is one line and its exit code."""
    sys.exit(_guard(app))


def _guard(command: Callable[[], None]) -> int:
    try:
        command()
    except TuningError as error:
        hint = f"\nhint: {error.hint}" if error.hint else ""
        print(f"error: {error.message}{hint}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    main()
