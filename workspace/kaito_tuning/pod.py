"""The pod of a Job: its containers in their order, and the volumes where they meet."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kaito_tuning.instances import find_instance
from kaito_tuning.options import Options
from kaito_tuning.workspace import Workspace
from tuning import environment, volumes
from tuning.destination import LayoutDestination, parse_destination
from tuning.environment import Variable

Manifest = dict[str, Any]
# The volume, where it is mounted, and whether the container may only read it.
Mount = tuple[str, Path, bool]

USER_ID = 65532

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
WEIGHTS_VOLUME = "model-weights-volume"
CERTIFICATES_VOLUME = "certificates"
CERTIFICATES = Path("/etc/certificates")
CERTIFICATES_KEY = "ca.crt"
DATA_TOKENS_VOLUME = "data-tokens"
DATA_TOKENS = Path("/etc/data-tokens")
HUB_TOKEN_KEY = "HF_TOKEN"  # noqa: S105 - a name
# For the checkpoint that a preempted trainer saves.
GRACE_SECONDS = 120
# Where the original's controller mounts the dataset, and what it starts.
KAITO_DATA = Path("/mnt/data")
_KAITO_COMMAND = (
    "cd /workspace/tfs/ && python3 metrics_server.py & "
    "accelerate launch --num_processes={processes} /workspace/tfs/fine_tuning.py"
)


_RUN_ID: Manifest = {"name": environment.TUNING_RUN_ID.name, "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}


def layout_of(workspace: Workspace) -> LayoutDestination | None:
    """The OCI layout that the adapter goes to, if it goes to one."""
    image = workspace.tuning.output.image
    destination = parse_destination(image) if image else None
    return destination if isinstance(destination, LayoutDestination) else None


@dataclass(frozen=True)
class Pod:
    """What a pod is made from: the names of its ConfigMap, its results folder, and what to do with bad rows."""

    workspace: Workspace
    options: Options
    configmap: str
    results: Path
    bad_rows: str = ""

    def spec(self) -> Manifest:
        """The pod's spec."""
        workspace, tuning = self.workspace, self.workspace.tuning
        first, then = (
            list(self._init_containers()),
            [self._trainer(), *([self._pusher()] if tuning.output.image else [])],
        )
        spec: Manifest = {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": GRACE_SECONDS,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": USER_ID,
                "runAsGroup": USER_ID,
                "fsGroup": USER_ID,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "initContainers": first,
            "containers": then,
            "volumes": [
                *self._volumes(),
                *({"name": _temporary(container["name"]), "emptyDir": {}} for container in first + then),
            ],
            "tolerations": [
                {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
                {"key": "sku", "operator": "Equal", "value": "gpu", "effect": "NoSchedule"},
            ],
        }
        if self.options.ca_configmap:
            self._trust(spec)
        if not spec["initContainers"]:
            del spec["initContainers"]
        if workspace.resource.count > 1:
            spec["subdomain"] = workspace.metadata.name
        pull_secrets = sorted({*tuning.input.image_pull_secrets, *tuning.preset.preset_options.image_pull_secrets})
        if pull_secrets:
            spec["imagePullSecrets"] = [{"name": name} for name in pull_secrets]
        expressions = _node_expressions(workspace)
        if expressions:
            terms = [{"matchExpressions": expressions}]
            required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
            spec["affinity"] = {"nodeAffinity": required}
        return spec

    def _trust(self, spec: Manifest) -> None:
        """Let our own containers trust the authority of the site."""
        spec["volumes"].append({"name": CERTIFICATES_VOLUME, "configMap": {"name": self.options.ca_configmap}})
        mount = {"name": CERTIFICATES_VOLUME, "mountPath": str(CERTIFICATES), "readOnly": True}
        trust = {"name": environment.REQUESTS_CA_BUNDLE.name, "value": str(CERTIFICATES / CERTIFICATES_KEY)}
        for container in spec["initContainers"] + spec["containers"]:
            if container["image"] != self.workspace.tuning.input.image:
                container["volumeMounts"].append(dict(mount))
                container["env"].append(dict(trust))

    @property
    def gpus(self) -> int:
        """GPUs of one node: as told, as the instance type has, else as the preset takes."""
        instance = find_instance(self.workspace.resource.instance_type)
        return self.options.gpus or (instance.gpus if instance else self.workspace.preset.gpus)

    @property
    def _data(self) -> Path:
        return KAITO_DATA if self.options.kaito else volumes.DATA

    def _init_containers(self) -> Iterator[Manifest]:
        tuning = self.workspace.tuning
        if tuning.output.image:
            yield self._preflight()
        if tuning.input.urls:
            yield self._downloader()
        elif tuning.input.image:
            yield self._data_image()

    def _preflight(self) -> Manifest:
        needs_results = layout_of(self.workspace) is not None
        return _container(
            PREFLIGHT,
            self.options.images.of(PUSHER),
            args=["preflight"],
            env=[(environment.OUTPUT_IMAGE, self.workspace.tuning.output.image), *self._push_env()],
            mounts=[*([(RESULTS_VOLUME, self.results, False)] if needs_results else []), *self._push_mounts()],
            resources=_small(),
        )

    def _downloader(self) -> Manifest:
        tokens = self.options.data_secret
        return _container(
            DATA_DOWNLOADER,
            self.options.images.of(DATA_DOWNLOADER),
            env=[
                (environment.DATA_URLS, "\n".join(self.workspace.tuning.input.urls)),
                (environment.DATA_VOLUME_PATH, str(self._data)),
                *([(environment.DATA_BAD_ROWS, self.bad_rows)] if self.bad_rows else []),
                *([(environment.DATA_TOKENS_PATH, str(DATA_TOKENS))] if tokens else []),
            ],
            mounts=[
                (DATA_VOLUME, self._data, False),
                *([(DATA_TOKENS_VOLUME, DATA_TOKENS, True)] if tokens else []),
            ],
            resources=_small(),
        )

    def _data_image(self) -> Manifest:
        """The user's own image copies its /data; the volume is mounted elsewhere, or it would hide that folder."""
        return _container(
            DATA_DOWNLOADER,
            self.workspace.tuning.input.image,
            command=["sh", "-c", f"cp -r /data/. {KAITO_DATA}/"],
            mounts=[(DATA_VOLUME, KAITO_DATA, False)],
            resources=_small(),
        )

    def _trainer(self) -> Manifest:
        workspace, options, preset = self.workspace, self.options, self.workspace.preset
        chosen = workspace.tuning.preset.preset_options
        mounted = bool(options.weights_claim or options.weights_image)
        baked = preset.in_image and not mounted
        in_folder = mounted or baked or bool(chosen.image)
        limits = {"nvidia.com/gpu": self.gpus, **({"memory": options.memory} if options.memory else {})}
        count, name = workspace.resource.count, workspace.metadata.name
        meeting: list[tuple[Variable[Any], str]] = [
            (environment.TUNING_NODES, str(count)),
            (environment.MASTER_ADDR, f"{name}-0.{name}"),
        ]
        container = _container(
            workspace.metadata.name,
            chosen.image or options.images.of(f"{TRAINER}-{preset.name}" if baked else TRAINER),
            command=["/bin/sh", "-c", _KAITO_COMMAND.format(processes=self.gpus)] if options.kaito else None,
            env=[
                (environment.YAML_FILE_PATH, str(volumes.TRAINING_CONFIG)),
                (environment.DATASET_FOLDER_PATH, str(self._data)),
                (environment.MODEL_WEIGHTS_PATH, str(volumes.WEIGHTS) if in_folder else preset.hub_id),
                (environment.BASE_MODEL_NAME, preset.hub_id),
                (environment.TUNING_METHOD, workspace.method),
                (environment.RESULTS_PATH, str(self.results)),
                # What lies in the pod's own volume dies with it.
                *(
                    [(environment.CHECKPOINT_SECONDS, CHECKPOINT_SECONDS)]
                    if workspace.tuning.output.volume_source
                    else []
                ),
                *(meeting if count > 1 else []),
            ],
            mounts=[
                (CONFIG_VOLUME, volumes.TRAINING_CONFIG.parent, True),
                (DATA_VOLUME, self._data, True),
                (RESULTS_VOLUME, self.results, False),
                *([(WEIGHTS_VOLUME, volumes.WEIGHTS, True)] if mounted else []),
                (SHARED_MEMORY_VOLUME, Path("/dev/shm"), False),  # noqa: S108 - the volume torch's workers share
            ],
            resources={"limits": limits, "requests": dict(limits)},
        )
        container["env"] += [_RUN_ID, {"name": "PYTORCH_CUDA_ALLOC_CONF", "value": "expandable_segments:True"}]
        if chosen.model_access_secret:
            key = {"name": chosen.model_access_secret, "key": HUB_TOKEN_KEY}
            container["env"].append({"name": HUB_TOKEN_KEY, "valueFrom": {"secretKeyRef": key}})
        port = environment.METRICS_PORT.default
        container["ports"] = [{"name": "metrics", "containerPort": port}]
        # Ready means: steps are being made. A hung run is ended by the trainer itself, with a sentence.
        container["readinessProbe"] = {"httpGet": {"path": "/healthz", "port": "metrics"}, "periodSeconds": 10}
        return container

    def _pusher(self) -> Manifest:
        container = _container(
            PUSHER,
            self.options.images.of(PUSHER),
            env=[
                (environment.OUTPUT_IMAGE, self.workspace.tuning.output.image),
                (environment.PRESET_NAME, self.workspace.tuning.preset.name),
                (environment.RESULTS_PATH, str(self.results)),
                *self._push_env(),
            ],
            mounts=[(RESULTS_VOLUME, self.results, False), *self._push_mounts()],
            resources=_small(),
        )
        container["env"].append(_RUN_ID)
        return container

    def _push_env(self) -> list[tuple[Variable[Any], str]]:
        secret = self.workspace.tuning.output.image_push_secret
        return [(environment.DOCKER_CONFIG, str(volumes.DOCKER_CONFIG))] if secret else []

    def _push_mounts(self) -> list[Mount]:
        secret = self.workspace.tuning.output.image_push_secret
        return [(DOCKER_CONFIG_VOLUME, volumes.DOCKER_CONFIG, True)] if secret else []

    def _volumes(self) -> Iterator[Manifest]:
        tuning, options = self.workspace.tuning, self.options
        yield {"name": CONFIG_VOLUME, "configMap": {"name": self.configmap}}
        yield {"name": DATA_VOLUME, **(tuning.input.volume_source or {"emptyDir": {}})}
        yield {"name": RESULTS_VOLUME, **(tuning.output.volume_source or {"emptyDir": {}})}
        yield {"name": SHARED_MEMORY_VOLUME, "emptyDir": {"medium": "Memory"}}
        if tuning.output.image_push_secret:
            items = [{"key": ".dockerconfigjson", "path": "config.json"}]
            secret = {"secretName": tuning.output.image_push_secret, "items": items}
            yield {"name": DOCKER_CONFIG_VOLUME, "secret": secret}
        if options.data_secret and tuning.input.urls:
            yield {"name": DATA_TOKENS_VOLUME, "secret": {"secretName": options.data_secret}}
        if options.weights_claim:
            claim = {"claimName": options.weights_claim, "readOnly": True}
            yield {"name": WEIGHTS_VOLUME, "persistentVolumeClaim": claim}
        elif options.weights_image:
            image = {"reference": options.weights_image, "pullPolicy": "IfNotPresent"}
            yield {"name": WEIGHTS_VOLUME, "image": image}


def _node_expressions(workspace: Workspace) -> list[Manifest]:
    selector = workspace.resource.label_selector
    labels = [{"key": key, "operator": "In", "values": [value]} for key, value in sorted(selector.match_labels.items())]
    return labels + selector.match_expressions


def _temporary(container: str) -> str:
    """The volume of a container's /tmp. The trainer's name may be as long as a volume's, so it adds nothing to it."""
    return f"{TEMPORARY_VOLUME}-{container}" if container in (PREFLIGHT, DATA_DOWNLOADER, PUSHER) else TEMPORARY_VOLUME


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
    container["volumeMounts"] = [
        *(
            {"name": volume, "mountPath": str(path), **({"readOnly": True} if read_only else {})}
            for volume, path, read_only in mounts
        ),
        {"name": _temporary(name), "mountPath": "/tmp"},  # noqa: S108 - a volume of its own
    ]
    return container
