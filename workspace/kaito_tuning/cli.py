"""The command `kaito-tuning`."""

import functools
import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from kaito_tuning.base_models import find_model
from kaito_tuning.engine import run_in_containers
from kaito_tuning.explain import explain
from kaito_tuning.job import Rendered, render
from kaito_tuning.local import Local
from kaito_tuning.options import Images, Options
from kaito_tuning.plan import CHARACTERS_PER_TOKEN, make_plan, sample_of_workspace
from kaito_tuning.pod import HUB_TOKEN_KEY, Pod
from kaito_tuning.processes import run_as_processes
from kaito_tuning.reading import parse_workspace, read_documents
from kaito_tuning.sampling import Sample, sample_path, sample_urls
from kaito_tuning.scaffold import needs_secret, scaffold
from kaito_tuning.schema import custom_resource_definition, json_schema
from kaito_tuning.show import show_explanations, show_json, show_plan, show_verdict
from kaito_tuning.workspace import Workspace
from kaito_tuning.yaml_output import to_yaml
from tuning.environment import HF_ENDPOINT
from tuning.errors import ConfigurationError, TuningError
from tuning.logs import configure_logging
from tuning.presets import presets
from tuning.training_config import METHODS, TrainingConfig

app = typer.Typer(no_args_is_help=True, help="A Workspace becomes a Job that tunes an adapter.")
_state = {"debug": False}


class Output(StrEnum):
    """What a command prints."""

    TEXT = "text"
    YAML = "yaml"
    JSON = "json"


class LogFormat(StrEnum):
    """How log lines look."""

    TEXT = "text"
    JSON = "json"


class Backend(StrEnum):
    """What runs a pod on this machine."""

    PROCESS = "process"
    DOCKER = "docker"


_File = Annotated[Path, typer.Argument(help="A Workspace; a ConfigMap may stand beside it as a second document.")]
_Files = Annotated[list[Path], typer.Argument(help="A Workspace, and perhaps its ConfigMap, in one file or two.")]
_Output = Annotated[Output, typer.Option("--output", "-o", help="text for people, json for programs.")]
_Registry = Annotated[str, typer.Option(help="Where the images are.")]
_Tag = Annotated[str, typer.Option(help="The tag of the images.")]
_Gpus = Annotated[int | None, typer.Option(min=1, help="GPUs of a node, where its instance type does not tell.")]

_Memory = Annotated[str, typer.Option(help="Memory of the trainer, as in 64Gi.")]
_Deadline = Annotated[int | None, typer.Option(min=1, help="activeDeadlineSeconds of the Job.")]
_Ttl = Annotated[int | None, typer.Option(min=0, help="ttlSecondsAfterFinished of the Job.")]
_Queue = Annotated[str, typer.Option(help="A LocalQueue of Kueue.")]
_DataSecret = Annotated[str, typer.Option(help="A Secret with a token for each host of the URLs.")]
_WeightsClaim = Annotated[str, typer.Option(help="A PersistentVolumeClaim with the base model's folder.")]
_WeightsImage = Annotated[str, typer.Option(help="An image with the base model's folder, mounted.")]
_Ca = Annotated[str, typer.Option(help="A ConfigMap with the key ca.crt, a private authority's certificates.")]


@app.callback()
def _options(debug: Annotated[bool, typer.Option(help="Show where an error comes from.")] = False) -> None:
    _state["debug"] = debug


@app.command("validate")
def validate_command(
    files: _Files,
    old: Annotated[Path | None, typer.Option(help="The Workspace as it was: what may not change is named.")] = None,
    output: _Output = Output.TEXT,
) -> None:
    """Check a Workspace and its training configuration; every problem at once."""
    before = read_documents([old])[0] if old else None
    document, configmap = read_documents(files)
    workspace = parse_workspace(document, source=_names(files), old=before)
    rendered = render(workspace, configmap)
    warnings = rendered.config.warnings if rendered.config else ()
    if output is Output.JSON:
        show_json({"valid": True, "name": workspace.metadata.name, "warnings": list(warnings)})
        return
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    checked = "" if rendered.config else f"; the ConfigMap {workspace.tuning.config} is not at hand and was not checked"
    print(f"{_names(files)}: the Workspace {workspace.metadata.name} is valid{checked}")


def _site(
    registry: _Registry = Images.registry,
    tag: _Tag = Images.tag,
    gpus: _Gpus = None,
    memory: _Memory = "",
    deadline: _Deadline = None,
    ttl: _Ttl = None,
    queue: _Queue = "",
    data_secret: _DataSecret = "",
    weights_claim: _WeightsClaim = "",
    weights_image: _WeightsImage = "",
    ca: _Ca = "",
) -> Options:
    """What a Job is given that no Workspace says."""
    return Options(
        images=Images(registry, tag),
        gpus=gpus,
        memory=memory,
        deadline_seconds=deadline,
        ttl_seconds=ttl,
        queue=queue,
        data_secret=data_secret,
        weights_claim=weights_claim,
        weights_image=weights_image,
        ca_configmap=ca,
    )


def _of_a_site(command: Callable[..., None]) -> Callable[..., None]:
    """Let `command` take the options of `_site` as well; it gets what they come to as `site`."""
    shared = inspect.signature(_site).parameters
    own = [parameter for name, parameter in inspect.signature(command).parameters.items() if name != "site"]

    @functools.wraps(command)
    def wrapped(**given: Any) -> None:
        command(site=_site(**{name: given.pop(name) for name in shared}), **given)

    # The signature is what typer makes a command line of.
    wrapped.__signature__ = inspect.Signature([*own, *shared.values()])  # type: ignore[attr-defined]
    return wrapped


@app.command("render")
@_of_a_site
def render_command(
    file: _File,
    site: Options,
    owned: Annotated[bool, typer.Option("--owned", help="The Workspace owns what is rendered.")] = False,
    kaito_images: Annotated[
        bool, typer.Option("--kaito-images", help="The paths and the command line of Kaito's own controller.")
    ] = False,
    output: _Output = Output.YAML,
) -> None:
    """Print the Job, and the ConfigMap it needs, as YAML for `kubectl apply -f -`."""
    _, rendered = _render(file, replace(site, owned=owned, kaito=kaito_images))
    if output is Output.JSON:
        show_json({"apiVersion": "v1", "kind": "List", "items": rendered.documents})
    else:
        sys.stdout.write(rendered.to_yaml())


@app.command("plan")
def plan_command(
    file: _File,
    data: Annotated[Path | None, typer.Option(help="A local copy of the dataset, in place of its URLs.")] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="The rows of a dataset that cannot be sampled.")] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Their mean length, with --rows.")] = 256,
    gpus: _Gpus = None,
    output: _Output = Output.TEXT,
) -> None:
    """Say what it will cost: steps, memory, disk, time, and which settings would be better."""
    options = Options(gpus=gpus)
    workspace, rendered = _render(file, options, local=True)
    config = _config(rendered)
    folder = data or sample_of_workspace(workspace)
    if data and not data.exists():
        raise ConfigurationError(f"--data {data} does not exist")
    sample: Sample | None
    if rows:
        sample, notes = Sample(rows, CHARACTERS_PER_TOKEN * tokens, 0, whole=True), ["the rows are as told"]
    elif folder and folder.exists():
        sample, notes = sample_path(folder)
    else:
        sample, notes = sample_urls(workspace.tuning.input.urls)
    hub = os.environ.get("HF_ENDPOINT") or str(HF_ENDPOINT.default)
    model, more = find_model(workspace.preset, hub, os.environ.get(HUB_TOKEN_KEY, ""))
    plan = make_plan(workspace, config, Pod(workspace, options, "", Path("/")), model, sample, [*notes, *more])
    if output is Output.JSON:
        show_json(plan.to_dict())
    else:
        show_plan(plan)


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
    ca: Annotated[Path | None, typer.Option(help="Certificates of a private authority.")] = None,
    backend: Annotated[
        Backend, typer.Option(help="process needs nothing; docker runs the real images.")
    ] = Backend.PROCESS,
    registry: _Registry = Images.registry,
    tag: _Tag = Images.tag,
    memory: _Memory = "",
    keep: Annotated[bool, typer.Option("--keep", help="Leave the containers for a look.")] = False,
    output: _Output = Output.TEXT,
) -> None:
    """Run the same pod on this machine; the exit code is the Job's verdict."""
    options = Options(
        images=Images(registry, tag),
        memory=memory,
        # In a container the folder is mounted, in place of an image with the model.
        weights_claim="local" if weights and backend is Backend.DOCKER else "",
        ca_configmap="local" if ca else "",
    )
    _, rendered = _render(file, options, local=True)
    local = Local(work_dir, weights, docker_config, ca)
    if backend is Backend.DOCKER:
        verdict = run_in_containers(rendered, local, os.environ, keep=keep)
    else:
        verdict = run_as_processes(rendered, local, os.environ)
    if output is Output.JSON:
        show_json(
            {"exitCode": verdict.exit_code, "job": verdict.reaction, "containers": [vars(e) for e in verdict.ended]}
        )
    else:
        show_verdict(verdict)
    raise typer.Exit(verdict.exit_code)


@app.command("controller")
@_of_a_site
def controller_command(
    site: Options,
    namespace: Annotated[
        list[str] | None, typer.Option(help="Where to look for Workspaces, once for each; everywhere if never given.")
    ] = None,
    peering: Annotated[str, typer.Option(help="A ClusterKopfPeering, by which several replicas choose a leader.")] = "",
    liveness: Annotated[str, typer.Option(help="Answer the kubelet here, as http://0.0.0.0:8080/healthz.")] = "",
    log_format: Annotated[LogFormat, typer.Option(help="How log lines look.")] = LogFormat.TEXT,
) -> None:
    """Watch a cluster: every Workspace becomes its Job, and tells how it stands. For clusters without Kaito's own."""
    try:
        # kopf is in the extra `controller` alone: who writes Workspaces does not need it.
        from kaito_tuning.controller.watch import Watch
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"the controller needs {error.name}", hint="pip install 'kaito-tuning[workspace,controller]'"
        ) from error
    configure_logging(log_format.value)
    Watch(site, tuple(namespace or ()), peering, liveness).run()


@app.command("init")
def init_command(
    preset: Annotated[
        str, typer.Option(prompt="Base model (a preset, or org/name on the hub)", help="The base model.")
    ],
    data: Annotated[str, typer.Option(prompt="Dataset (URL or image)", help="URLs, or an image with /data.")],
    to: Annotated[str, typer.Option(prompt="Adapter image (registry/repository:tag)", help="Where the adapter goes.")],
    method: Annotated[str, typer.Option(help=" or ".join(METHODS))] = METHODS[0],
    name: Annotated[str, typer.Option(help="The Workspace's name.")] = "my-adapter",
    secret: Annotated[str, typer.Option(help="The Secret for the push; asked for where one is needed.")] = "",
    file: Annotated[Path | None, typer.Option(help="Where to write it; standard output where nothing is said.")] = None,
) -> None:
    """Write a first Workspace and its ConfigMap, with comments."""
    if needs_secret(to) and not secret:
        secret = typer.prompt("Push secret (kubectl create secret docker-registry NAME)", err=True)
    text = scaffold(name, preset, method, data, to, secret)
    if file is None:
        sys.stdout.write(text)
        return
    if file.exists():
        raise ConfigurationError(f"{file} exists already", hint="give another name; nothing is overwritten")
    file.write_text(text)
    print(f"{file} is written; next: kaito-tuning plan {file}", file=sys.stderr)


@app.command("explain")
def explain_command(
    key: Annotated[str, typer.Argument(help="A key of the training configuration, Section.key, or a section.")],
    output: _Output = Output.TEXT,
) -> None:
    """Say what a key of the training configuration does: its type, default and source."""
    found = explain(key)
    if output is Output.JSON:
        show_json([vars(entry) for entry in found])
    else:
        show_explanations(found)


@app.command("presets")
def presets_command(output: _Output = Output.TEXT) -> None:
    """List the base models that a Workspace may name."""
    if output is Output.JSON:
        show_json(
            [{**vars(preset), "shape": vars(preset.shape) if preset.shape else None} for preset in presets().values()]
        )
        return
    for preset in presets().values():
        print(f"{preset.name:32} {', '.join(preset.methods):12} {preset.hub_id}")


@app.command("schema")
def schema_command(
    crd: Annotated[bool, typer.Option("--crd", help="The CustomResourceDefinition for the cluster.")] = False,
) -> None:
    """Print the Workspace's JSON Schema, or its CustomResourceDefinition."""
    if crd:
        sys.stdout.write(to_yaml([custom_resource_definition()]))
    else:
        show_json(json_schema())


def _render(file: Path, options: Options, *, local: bool = False) -> tuple[Workspace, Rendered]:
    document, configmap = read_documents([file])
    workspace = parse_workspace(document, source=file.name, local=local)
    return workspace, render(workspace, configmap, options)


def _config(rendered: Rendered) -> TrainingConfig:
    if rendered.config is None:
        raise ConfigurationError(
            "the ConfigMap that tuning.config names is not at hand",
            hint="write it into the Workspace's file, as a second document",
        )
    return rendered.config


def _names(files: list[Path]) -> str:
    return " and ".join(file.name for file in files)


def main() -> None:
    """Run the command; an error is one line and its exit code."""
    sys.exit(_guard(app))


def _guard(command: Callable[[], Any]) -> int:
    try:
        command()
    except TuningError as error:
        if _state["debug"]:
            raise
        hint = f"\nhint: {error.hint}" if error.hint else ""
        print(f"error: {error.message}{hint}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    main()
