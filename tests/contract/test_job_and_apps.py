"""What the rendered Job tells a container is what the container's app reads."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from data_downloader.settings import Settings as DownloaderSettings
from kaito_tuning.job import Rendered, pod_failure_policy, render
from kaito_tuning.reading import parse_workspace
from pusher.settings import Settings as PusherSettings
from trainer.settings import Settings as TrainerSettings
from tuning import volumes
from tuning.environment import read_settings, variables_of
from tuning.errors import CAUSES, JobReaction

# What the libraries read, and no app of ours.
FOREIGN = {"PYTORCH_CUDA_ALLOC_CONF"}


@pytest.fixture
def rendered(root: Path) -> Rendered:
    text = (root / "deploy" / "examples" / "phi-3-mini-lora.yaml").read_text()
    return render(parse_workspace(yaml.safe_load(text), source="example"), None)


def containers(rendered: Rendered) -> dict[str, dict[str, Any]]:
    spec = rendered.job["spec"]["template"]["spec"]
    return {container["name"]: container for container in spec["initContainers"] + spec["containers"]}


def read(container: dict[str, Any], settings: type[Any]) -> Any:
    environ = {variable["name"]: variable.get("value", "pod-uid") for variable in container["env"]}
    known = {field.metadata["variable"].name for field in variables_of(settings)}
    assert set(environ) - FOREIGN <= known, "the Job sets a variable that the app does not read"
    return read_settings(settings, environ)


def mounted(container: dict[str, Any], path: Path) -> str:
    [volume] = [m["name"] for m in container["volumeMounts"] if path == Path(m["mountPath"])]
    return str(volume)


def test_every_app_reads_what_the_job_tells_it(rendered: Rendered) -> None:
    found = containers(rendered)
    downloader = read(found["data-downloader"], DownloaderSettings)
    trainer = read(found["workspace-tuning-phi-3-mini"], TrainerSettings)
    pusher = read(found["pusher"], PusherSettings)
    preflight = read(found["push-preflight"], PusherSettings)
    assert len(downloader.urls) == 1
    assert trainer.method == "lora"
    assert trainer.base_model_name == "microsoft/Phi-3-mini-128k-instruct"
    assert pusher.output_image == preflight.output_image == "registry.example.com/adapters/phi-3-mini-dolly:0.0.1"
    assert pusher.run_id == trainer.run_id == "pod-uid"


def test_the_containers_meet_in_the_same_volumes(rendered: Rendered) -> None:
    found = containers(rendered)
    downloader, trainer = found["data-downloader"], found["workspace-tuning-phi-3-mini"]
    pusher = found["pusher"]
    told = {
        name: read(found[name], kind)
        for name, kind in (("data-downloader", DownloaderSettings), ("pusher", PusherSettings))
    }
    trained = read(trainer, TrainerSettings)
    assert mounted(downloader, told["data-downloader"].folder) == mounted(trainer, trained.dataset_folder)
    assert mounted(pusher, told["pusher"].results) == mounted(trainer, trained.results_path)
    assert mounted(trainer, trained.config_path.parent) == "config-volume"
    assert mounted(pusher, told["pusher"].docker_config) == "docker-config"


def test_every_exit_code_has_its_line_in_the_failure_policy() -> None:
    listed = pod_failure_policy()["rules"][1]["onExitCodes"]["values"]
    assert listed == sorted(listed)
    for cause in CAUSES:
        assert (cause.exit_code in listed) == (cause.reaction is JobReaction.FAIL_JOB), cause


def test_the_defaults_of_the_apps_are_the_paths_of_the_pod() -> None:
    assert read_settings(DownloaderSettings, {"DATA_URLS": "http://h/x"}).folder == volumes.DATA
    trainer = read_settings(TrainerSettings, {})
    assert (trainer.dataset_folder, trainer.config_path) == (volumes.DATA, volumes.TRAINING_CONFIG)
    pusher = read_settings(PusherSettings, {"OUTPUT_IMAGE": "a/b:1"})
    assert (pusher.results, pusher.docker_config) == (volumes.RESULTS, volumes.DOCKER_CONFIG)
