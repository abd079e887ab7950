"""Workspace + training configuration → the Job and what it needs, a pure function to plain dicts.

What the containers share (paths, variables, exit codes) comes from `tuning`, never from a second list here.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from kaito_tuning.options import Options
from kaito_tuning.pod import Manifest, Pod, layout_of
from kaito_tuning.workspace import Workspace
from kaito_tuning.yaml_output import to_yaml
from tuning import environment
from tuning.errors import CAUSES, ConfigurationError, JobReaction
from tuning.training_config import CONFIG_KEY, TrainingConfig, parse_training_config
from tuning.volumes import normalise_output_dir

BACKOFF_LIMIT = 3
REVISION = "workspace.kaito.io/revision"
HASH = "workspace.kaito.io/hash"
WORKSPACE_LABEL = "kaito.sh/workspace"
# The API server's limit for a ConfigMap.
_LARGEST_CONFIGMAP_BYTES = 1 << 20


@dataclass(frozen=True)
class Rendered:
    """The Job, the ConfigMap it reads (None where the cluster has it), and where its nodes meet, if it has several."""

    job: Manifest
    configmap: Manifest | None
    config: TrainingConfig | None = None
    service: Manifest | None = None

    @property
    def documents(self) -> list[Manifest]:
        """All manifests, in the order in which they are applied."""
        return [document for document in (self.configmap, self.service, self.job) if document]

    def to_yaml(self) -> str:
        """All manifests as one YAML text, in the order in which they are applied."""
        return to_yaml(self.documents)


def render(workspace: Workspace, configmap: Mapping[str, Any] | None, options: Options | None = None) -> Rendered:
    """The Job of `workspace`.

    `configmap` is the one that `tuning.config` names, if it is at hand; without `tuning.config` the default of the
    method is rendered, too. Raises ConfigurationError with all problems of the training configuration.
    """
    options = options or Options()
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
    pod = Pod(workspace, options, name, results, bad_rows).spec()
    job = _job(workspace, pod, revision_hash(workspace, rendered_configmap), options)
    service = _service(workspace) if workspace.resource.count > 1 else None
    rendered = Rendered(job, rendered_configmap, config, service)
    if options.owned:
        for document in (job, *([service] if service else [])):
            document["metadata"]["ownerReferences"] = [_owner(workspace)]
    return rendered


def revision_hash(workspace: Workspace, configmap: Mapping[str, Any] | None) -> str:
    """What the Job depends on, as a digest: the resource and tuning sections and the ConfigMap's content."""
    content = {
        **workspace.model_dump(mode="json", by_alias=True, include={"resource", "tuning"}),
        "config": (configmap or {}).get("data"),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _check_layout(workspace: Workspace, results: Path) -> None:
    layout = layout_of(workspace)
    if layout and not layout.folder.is_relative_to(results):
        raise ConfigurationError(
            f"tuning.output.image {layout} lies in no volume", hint=f"put the OCI layout below {results}"
        )


def _configmap(workspace: Workspace, given: Mapping[str, Any] | None) -> tuple[Manifest | None, str]:
    wanted = workspace.tuning.config
    if not wanted:
        default = default_configmap(workspace.method)
        wanted = default["metadata"]["name"]
        name = wanted if given is None else given.get("metadata", {}).get("name")
        if name != wanted:
            raise ConfigurationError(f"the ConfigMap {name} is not used", hint=f"write tuning.config: {name}")
        given = given or default
    if given is None:
        return None, wanted
    metadata = {**given.get("metadata", {}), "namespace": workspace.metadata.namespace}
    if metadata.get("name") != wanted:
        raise ConfigurationError(f"tuning.config names the ConfigMap {wanted}, the one given is {metadata.get('name')}")
    size = sum(len(str(text).encode()) for text in (given.get("data") or {}).values())
    if size > _LARGEST_CONFIGMAP_BYTES:
        raise ConfigurationError(
            f"ConfigMap {wanted} has {size} bytes, a cluster takes {_LARGEST_CONFIGMAP_BYTES}",
            hint="only the training configuration belongs into it; datasets are given as tuning.input",
        )
    return {"apiVersion": "v1", **given, "metadata": metadata}, wanted


def default_configmap(method: str) -> Manifest:
    """The ConfigMap used where the Workspace names none."""
    text = resources.files("kaito_tuning").joinpath("defaults", f"{method}-params.yaml").read_text()
    content: Manifest = yaml.safe_load(text)
    return content


def _job(workspace: Workspace, pod: Manifest, digest: str, options: Options) -> Manifest:
    name, count = workspace.metadata.name, workspace.resource.count
    labels = {WORKSPACE_LABEL: name}
    several = {"completionMode": "Indexed", "completions": count, "parallelism": count} if count > 1 else {}
    limits = {"activeDeadlineSeconds": options.deadline_seconds, "ttlSecondsAfterFinished": options.ttl_seconds}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "namespace": workspace.metadata.namespace,
            "labels": {**labels, **({"kueue.x-k8s.io/queue-name": options.queue} if options.queue else {})},
            "annotations": {REVISION: str(options.revision), HASH: digest},
        },
        "spec": {
            "backoffLimit": BACKOFF_LIMIT,
            "podFailurePolicy": pod_failure_policy(),
            **several,
            **{key: value for key, value in limits.items() if value is not None},
            # Kueue lets it go.
            **({"suspend": True} if options.queue else {}),
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def _service(workspace: Workspace) -> Manifest:
    """A headless Service, through which the pods of an Indexed Job find node 0 by its name."""
    name = workspace.metadata.name
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": workspace.metadata.namespace,
            "labels": {WORKSPACE_LABEL: name},
        },
        "spec": {
            "clusterIP": "None",
            # The nodes meet before any of them is ready.
            "publishNotReadyAddresses": True,
            "selector": {WORKSPACE_LABEL: name},
            "ports": [{"name": "rendezvous", "port": environment.MASTER_PORT.default}],
        },
    }


def _owner(workspace: Workspace) -> Manifest:
    if not workspace.metadata.uid:
        raise ConfigurationError(
            "metadata.uid is missing, so that nothing can be owned by the Workspace",
            hint="render what `kubectl get workspace -o yaml` prints",
        )
    return {
        "apiVersion": workspace.api_version,
        "kind": workspace.kind,
        "name": workspace.metadata.name,
        "uid": workspace.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": True,
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
