"""Workspace + training configuration → the Job and what it needs, a pure function to plain dicts.

What the containers share (paths, variables, exit codes) comes from `tuning`, never from a second list here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from kaito_tuning.workspace import Workspace
from tuning import environment, volumes
from tuning.destination import LayoutDestination, parse_destination
from tuning.environment import Variable
from tuning.errors import CAUSES, ConfigurationError, JobReaction
from tuning.training_config import CONFIG_KEY, TrainingConfig, parse_training_config
from tuning.volumes import normalise_output_dir

Manifest = dict[str, Any]
# The volume, where it is mounted, and whether the container may only read it.
Mount = tuple[str, Path, bool]

USER_ID = 65532
BACKOFF_LIMIT = 3

DATA_VOLUME = "data-volume"
RESULTS_VOLUME = "results-volume"
# On a volume that outlives the pod at most so much work is lost.
CHECKPOINT_SECONDS = "900"
CONFIG_VOLUME = "config-volume"
DOCKER_CONFIG_VOLUME = "docker-config"
SHARED_MEMORY_VOLUME = "dshm"
TEMPORARY_VOLUME = "tmp"

PREFLIGHT = "push-preflight"
DATA_DOWNLOADER = "data-downloader"
PUSHER = "pusher"
TRAINER = "trainer"


@dataclass(frozen=True)
class Images:
    """Where the images come from: `registry`/data-downloader:`tag` and so on."""

    registry: str = "ghcr.io/kaito-tuning"
    tag: str = "0.1.0"

    def of(self, name: str) -> str:
        """The reference of the image `name`."""
        return f"{self.registry}/{name}:{self.tag}"


@dataclass(frozen=True)
class Rendered:
    """The Job, and the ConfigMap it reads; `configmap` is None where the cluster has it already."""

    job: Manifest
    configmap: Manifest | None
    config: TrainingConfig | None = field(default=None)

    def to_yaml(self) -> str:
        """All manifests as one YAML text, in the order in which they are applied."""
        documents = [document for document in (self.configmap, self.job) if document]
        return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def render(workspace: Workspace, configmap: Mapping[str, Any] | None, images: Images) -> Rendered:
    """The Job of `workspace`.

    `configmap` is the one that `tuning.config` names, if it is at hand; without `tuning.config` the default of the
    method is rendered, too. Raises ConfigurationError with all problems of the training configuration.
    """
    rendered_configmap, name = _configmap(workspace, configmap)
    config = None
    if rendered_configmap is not None:
        text = rendered_configmap.get("data", {}).get(CONFIG_KEY)
        if not isinstance(text, str):
            raise ConfigurationError(f"ConfigMap {name} has no key {CONFIG_KEY} in its data")
        config = parse_training_config(text, source=f"ConfigMap {name}", method=workspace.method)
    results = Path(normalise_output_dir(config.arguments.get("output_dir") if config else None))
    _check_layout(workspace, results)
    bad_rows = str(config.dataset.get("on_bad_rows", "")) if config else ""
    return Rendered(_job(workspace, name, results, bad_rows, images), rendered_configmap, config)


def _check_layout(workspace: Workspace, results: Path) -> None:
    layout = _layout(workspace)
    if layout and not layout.folder.is_relative_to(results):
        raise ConfigurationError(
            f"tuning.output.image {layout} lies in no volume", hint=f"put the OCI layout below {results}"
        )


def _layout(workspace: Workspace) -> LayoutDestination | None:
    image = workspace.tuning.output.image
    destination = parse_destination(image) if image else None
    return destination if isinstance(destination, LayoutDestination) else None


def _configmap(workspace: Workspace, given: Mapping[str, Any] | None) -> tuple[Manifest | None, str]:
    wanted = workspace.tuning.config
    if not wanted:
        if given is not None:
            name = given.get("metadata", {}).get("name")
            raise ConfigurationError(f"the ConfigMap {name} is not used", hint=f"write tuning.config: {name}")
        given = default_configmap(workspace.method)
        wanted = given["metadata"]["name"]
    if given is None:
        return None, wanted
    metadata = {**given.get("metadata", {}), "namespace": workspace.metadata.namespace}
    if metadata.get("name") != wanted:
        raise ConfigurationError(f"tuning.config names the ConfigMap {wanted}, the one given is {metadata.get('name')}")
    return {**given, "metadata": metadata}, wanted


def default_configmap(method: str) -> Manifest:
    """The ConfigMap used where the Workspace names none."""
    text = resources.files("kaito_tuning").joinpath("defaults", f"{method}-params.yaml").read_text()
    content: Manifest = yaml.safe_load(text)
    return content


def _job(workspace: Workspace, configmap: str, results: Path, bad_rows: str, images: Images) -> Manifest:
    labels = {"kaito.sh/workspace": workspace.metadata.name}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": workspace.metadata.name, "namespace": workspace.metadata.namespace, "labels": labels},
        "spec": {
            "backoffLimit": BACKOFF_LIMIT,
            "podFailurePolicy": pod_failure_policy(),
            "template": {"metadata": {"labels": labels}, "spec": _pod(workspace, configmap, results, bad_rows, images)},
        },
    }


def pod_failure_policy() -> Manifest:
    """The exit-code table as the Job controller reads it: what cannot get better fails the Job at once."""
    # The API server refuses unsorted values.
    final = sorted({cause.exit_code for cause in CAUSES if cause.reaction is JobReaction.FAIL_JOB})
    return {
        "rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "FailJob", "onExitCodes": {"operator": "In", "values": final}},
        ]
    }


def _pod(workspace: Workspace, configmap: str, results: Path, bad_rows: str, images: Images) -> Manifest:
    tuning = workspace.tuning
    init = []
    if tuning.output.image:
        init.append(_preflight(workspace, results, images))
    if tuning.input.urls:
        init.append(_downloader(workspace, bad_rows, images))
    elif tuning.input.image:
        init.append(_data_image(workspace))
    main = [_trainer(workspace, results, images)]
    if tuning.output.image:
        main.append(_pusher(workspace, results, images))
    pull_secrets = sorted({*tuning.input.image_pull_secrets, *tuning.preset.preset_options.image_pull_secrets})
    spec: Manifest = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "initContainers": init,
        "containers": main,
        "volumes": _volumes(workspace, configmap),
        "tolerations": [
            {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
            {"key": "sku", "operator": "Equal", "value": "gpu", "effect": "NoSchedule"},
        ],
    }
    if pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in pull_secrets]
    expressions = _node_expressions(workspace)
    if expressions:
        terms = [{"matchExpressions": expressions}]
        required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
        spec["affinity"] = {"nodeAffinity": required}
    return spec


def _node_expressions(workspace: Workspace) -> list[Manifest]:
    selector = workspace.resource.label_selector
    labels = [{"key": key, "operator": "In", "values": [value]} for key, value in sorted(selector.match_labels.items())]
    return labels + selector.match_expressions


def _preflight(workspace: Workspace, results: Path, images: Images) -> Manifest:
    return _container(
        PREFLIGHT,
        images.of(PUSHER),
        args=["preflight"],
        env=[(environment.OUTPUT_IMAGE, workspace.tuning.output.image), *_push_env(workspace)],
        mounts=[*([(RESULTS_VOLUME, results, False)] if _layout(workspace) else []), *_push_mounts(workspace)],
        resources=_small(),
    )


def _downloader(workspace: Workspace, bad_rows: str, images: Images) -> Manifest:
    return _container(
        DATA_DOWNLOADER,
        images.of(DATA_DOWNLOADER),
        env=[
            (environment.DATA_URLS, "\n".join(workspace.tuning.input.urls)),
            (environment.DATA_VOLUME_PATH, str(volumes.DATA)),
            *([(environment.DATA_BAD_ROWS, bad_rows)] if bad_rows else []),
        ],
        mounts=[(DATA_VOLUME, volumes.DATA, False)],
        resources=_small(),
    )


def _data_image(workspace: Workspace) -> Manifest:
    """The user's own image copies its /data; the volume is mounted elsewhere, or it would hide that folder."""
    target = "/mnt/data"
    return _container(
        DATA_DOWNLOADER,
        workspace.tuning.input.image,
        command=["sh", "-c", f"cp -r /data/. {target}/"],
        mounts=[(DATA_VOLUME, Path(target), False)],
        resources=_small(),
    )


def _trainer(workspace: Workspace, results: Path, images: Images) -> Manifest:
    preset = workspace.preset
    gpus = {"nvidia.com/gpu": preset.gpus}
    container = _container(
        workspace.metadata.name,
        workspace.tuning.preset.preset_options.image
        or images.of(f"{TRAINER}-{preset.name}" if preset.in_image else TRAINER),
        env=[
            (environment.YAML_FILE_PATH, str(volumes.TRAINING_CONFIG)),
            (environment.DATASET_FOLDER_PATH, str(volumes.DATA)),
            (environment.MODEL_WEIGHTS_PATH, str(volumes.WEIGHTS) if preset.in_image else preset.hub_id),
            (environment.BASE_MODEL_NAME, preset.hub_id),
            (environment.TUNING_METHOD, workspace.method),
            (environment.RESULTS_PATH, str(results)),
            # What lies in the pod's own volume dies with it.
            *([(environment.CHECKPOINT_SECONDS, CHECKPOINT_SECONDS)] if workspace.tuning.output.volume_source else []),
        ],
        mounts=[
            (CONFIG_VOLUME, volumes.TRAINING_CONFIG.parent, True),
            (DATA_VOLUME, volumes.DATA, True),
            (RESULTS_VOLUME, results, False),
            (SHARED_MEMORY_VOLUME, Path("/dev/shm"), False),  # noqa: S108 - the volume torch's workers share
        ],
        resources={"limits": gpus, "requests": dict(gpus)},
    )
    container["env"] += [_RUN_ID, {"name": "PYTORCH_CUDA_ALLOC_CONF", "value": "expandable_segments:True"}]
    return container


def _pusher(workspace: Workspace, results: Path, images: Images) -> Manifest:
    container = _container(
        PUSHER,
        images.of(PUSHER),
        env=[
            (environment.OUTPUT_IMAGE, workspace.tuning.output.image),
            (environment.PRESET_NAME, workspace.tuning.preset.name),
            (environment.RESULTS_PATH, str(results)),
            *_push_env(workspace),
        ],
        mounts=[(RESULTS_VOLUME, results, False), *_push_mounts(workspace)],
        resources=_small(),
    )
    container["env"].append(_RUN_ID)
    return container


_RUN_ID: Manifest = {"name": environment.TUNING_RUN_ID.name, "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}


def _push_env(workspace: Workspace) -> list[tuple[Variable[Any], str]]:
    return (
        [(environment.DOCKER_CONFIG, str(volumes.DOCKER_CONFIG))] if workspace.tuning.output.image_push_secret else []
    )


def _push_mounts(workspace: Workspace) -> list[Mount]:
    secret = workspace.tuning.output.image_push_secret
    return [(DOCKER_CONFIG_VOLUME, volumes.DOCKER_CONFIG, True)] if secret else []


def _volumes(workspace: Workspace, configmap: str) -> list[Manifest]:
    tuning = workspace.tuning
    found: list[Manifest] = [
        {"name": CONFIG_VOLUME, "configMap": {"name": configmap}},
        {"name": DATA_VOLUME, **(tuning.input.volume_source or {"emptyDir": {}})},
        {"name": RESULTS_VOLUME, **(tuning.output.volume_source or {"emptyDir": {}})},
        {"name": SHARED_MEMORY_VOLUME, "emptyDir": {"medium": "Memory"}},
        {"name": TEMPORARY_VOLUME, "emptyDir": {}},
    ]
    if tuning.output.image_push_secret:
        items = [{"key": ".dockerconfigjson", "path": "config.json"}]
        secret = {"secretName": tuning.output.image_push_secret, "items": items}
        found.append({"name": DOCKER_CONFIG_VOLUME, "secret": secret})
    return found


def _small() -> Manifest:
    return {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}}


def _container(
    name: str,
    image: str,
    *,
    mounts: list[Mount],
    resources: Manifest,
    env: list[tuple[Variable[Any], str]] | None = None,
    command: list[str] | None = None,
    args: list[str] | None = None,
) -> Manifest:
    container: Manifest = {"name": name, "image": image}
    if command:
        container["command"] = command
    if args:
        container["args"] = args
    container["env"] = [{"name": variable.name, "value": value} for variable, value in env or []]
    container["resources"] = resources
    container["securityContext"] = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    # Each container has a folder of its own in the one volume.
    container["volumeMounts"] = [
        *(
            {"name": volume, "mountPath": str(path), **({"readOnly": True} if read_only else {})}
            for volume, path, read_only in mounts
        ),
        {"name": TEMPORARY_VOLUME, "mountPath": "/tmp", "subPath": name},  # noqa: S108
    ]
    return container


class _Dumper(yaml.SafeDumper):
    """YAML for people: no aliases, lists indented, texts of several lines as blocks."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent_text)
