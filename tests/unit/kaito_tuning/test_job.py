from typing import Any

import pytest
import yaml

from kaito_tuning.job import HASH, Rendered, default_configmap, pod_failure_policy, render, revision_hash
from kaito_tuning.options import Images, Options
from kaito_tuning.reading import parse_workspace
from tests.unit.kaito_tuning.test_workspace import document
from tuning.errors import ConfigurationError
from tuning.training_config import CONFIG_KEY


def rendered(configmap: dict[str, Any] | None = None, options: Options | None = None, **changes: Any) -> Rendered:
    workspace = parse_workspace(document(**changes), source="w.yaml")
    return render(workspace, configmap, options or Options(Images("r.example.com/kt", "v1")))


def pod(**changes: Any) -> dict[str, Any]:
    spec: dict[str, Any] = rendered(**changes).job["spec"]["template"]["spec"]
    return spec


def configmap(text: str, name: str = "mine") -> dict[str, Any]:
    return {"kind": "ConfigMap", "metadata": {"name": name}, "data": {CONFIG_KEY: text}}


def container(spec: dict[str, Any], name: str) -> dict[str, Any]:
    [found] = [c for c in spec.get("initContainers", []) + spec["containers"] if c["name"] == name]
    return dict(found)


def env(container: dict[str, Any]) -> dict[str, str]:
    return {variable["name"]: variable.get("value", "") for variable in container["env"]}


def test_the_containers_stand_in_the_agreed_order() -> None:
    spec = pod()
    assert [c["name"] for c in spec["initContainers"]] == ["push-preflight", "data-downloader"]
    assert [c["name"] for c in spec["containers"]] == ["w", "pusher"]
    assert [c["image"] for c in spec["containers"]] == [
        "r.example.com/kt/trainer-phi-3-mini-128k-instruct:v1",
        "r.example.com/kt/pusher:v1",
    ]


def test_every_container_is_confined() -> None:
    spec = pod(tuning__input={"image": "r.example.com/d:1"})
    assert spec["securityContext"]["runAsUser"] == 65532
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["automountServiceAccountToken"] is False
    for c in spec["initContainers"] + spec["containers"]:
        assert c["securityContext"]["readOnlyRootFilesystem"] is True
        assert c["securityContext"]["allowPrivilegeEscalation"] is False
        assert c["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert "/tmp" in [mount["mountPath"] for mount in c["volumeMounts"]]


def test_only_the_pusher_sees_the_push_secret() -> None:
    spec = pod()
    seeing = [
        c["name"]
        for c in spec["initContainers"] + spec["containers"]
        if "docker-config" in [mount["name"] for mount in c["volumeMounts"]]
    ]
    assert seeing == ["push-preflight", "pusher"]
    [volume] = [v for v in spec["volumes"] if v["name"] == "docker-config"]
    assert volume["secret"]["secretName"] == "push"


def test_an_image_input_is_the_users_own_image_copying_its_data() -> None:
    spec = pod(tuning__input={"image": "r.example.com/d:1", "imagePullSecrets": ["pull"]})
    copier = container(spec, "data-downloader")
    assert copier["image"] == "r.example.com/d:1"
    assert copier["command"] == ["sh", "-c", "cp -r /data/. /mnt/data/"]
    assert spec["imagePullSecrets"] == [{"name": "pull"}]


def test_a_volume_on_both_sides_needs_neither_downloader_nor_pusher() -> None:
    claim = {"persistentVolumeClaim": {"claimName": "c"}}
    spec = pod(tuning__input={"volumeSource": claim}, tuning__output={"volumeSource": claim})
    assert "initContainers" not in spec
    assert [c["name"] for c in spec["containers"]] == ["w"]
    assert {"name": "data-volume", **claim} in spec["volumes"]
    assert {"name": "results-volume", **claim} in spec["volumes"]


def test_trainer_and_pusher_meet_in_the_configured_output_dir() -> None:
    text = "training_config: {TrainingArguments: {output_dir: out/x}}"
    spec = pod(tuning__config="mine", configmap=configmap(text))
    for name in ("w", "pusher"):
        c = container(spec, name)
        assert env(c)["RESULTS_PATH"] == "/mnt/out/x"
        assert {"name": "results-volume", "mountPath": "/mnt/out/x"} in c["volumeMounts"]


def test_trainer_and_pusher_know_the_attempt_by_the_pods_uid() -> None:
    for name in ("w", "pusher"):
        [variable] = [v for v in container(pod(), name)["env"] if v["name"] == "TUNING_RUN_ID"]
        assert variable["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.uid"}}


def test_a_layout_destination_is_checked_where_it_will_be_written() -> None:
    spec = pod(tuning__output={"image": "oci:/mnt/results/image:v1"})
    assert "results-volume" in [mount["name"] for mount in container(spec, "push-preflight")["volumeMounts"]]
    with pytest.raises(ConfigurationError, match="lies in no volume"):
        pod(tuning__output={"image": "oci:/elsewhere/image:v1"})


def test_the_node_must_carry_the_labels() -> None:
    selector = {"matchLabels": {"app": "x"}, "matchExpressions": [{"key": "gpu", "operator": "Exists"}]}
    [term] = pod(resource={"labelSelector": selector})["affinity"]["nodeAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]["nodeSelectorTerms"]
    assert term["matchExpressions"] == [
        {"key": "app", "operator": "In", "values": ["x"]},
        {"key": "gpu", "operator": "Exists"},
    ]
    assert "affinity" not in pod()


@pytest.mark.parametrize(("method", "four_bit"), [("lora", "false"), ("qlora", "true")])
def test_the_default_configmap_of_the_method_is_rendered_too(method: str, four_bit: str) -> None:
    result = rendered(tuning__method=method)
    assert result.configmap is not None
    assert result.configmap["metadata"] == {"name": f"{method}-params-template", "namespace": "default"}
    assert f"load_in_4bit: {four_bit}" in default_configmap(method)["data"][CONFIG_KEY]
    documents = list(yaml.safe_load_all(result.to_yaml()))
    assert [document["kind"] for document in documents] == ["ConfigMap", "Job"]
    assert documents[1] == result.job


def test_a_named_configmap_that_is_not_at_hand_is_left_to_the_cluster() -> None:
    result = rendered(tuning__config="mine")
    assert result.configmap is None
    assert result.job["spec"]["template"]["spec"]["volumes"][0]["configMap"] == {"name": "mine"}


@pytest.mark.parametrize(
    ("changes", "given", "said"),
    [
        ({"tuning__config": "mine"}, configmap("training_config: {LoraConfig: {lora_alfa: 1}}"), "lora_alfa"),
        (
            {"tuning__config": "mine"},
            configmap("training_config: {QuantizationConfig: {load_in_4bit: true}}"),
            "load_in_4bit must not be true with method lora",
        ),
        ({"tuning__config": "other"}, configmap("training_config: {}"), "names the ConfigMap other"),
        ({}, configmap("training_config: {}"), "is not used"),
        ({"tuning__config": "mine"}, {"metadata": {"name": "mine"}, "data": {}}, "has no key training_config.yaml"),
    ],
)
def test_a_wrong_configmap_is_refused(changes: dict[str, Any], given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        rendered(given, **changes)


def test_the_failure_policy_is_sorted_and_ignores_disruptions() -> None:
    ignore, fail = pod_failure_policy()["rules"]
    assert ignore["action"] == "Ignore"
    assert ignore["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert (fail["action"], fail["onExitCodes"]) == ("FailJob", {"operator": "In", "values": [65, 66, 71, 77, 78]})


def test_several_nodes_are_an_indexed_job_that_meets_at_node_0() -> None:
    several = rendered(resource__count=2)
    spec = several.job["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 2, 2)
    assert spec["template"]["spec"]["subdomain"] == "w"
    trainer = env(container(spec["template"]["spec"], "w"))
    assert (trainer["TUNING_NODES"], trainer["MASTER_ADDR"]) == ("2", "w-0.w")
    assert several.service is not None
    assert several.service["spec"]["clusterIP"] == "None"
    assert several.service["spec"]["publishNotReadyAddresses"] is True
    assert [document["kind"] for document in several.documents] == ["ConfigMap", "Service", "Job"]
    assert rendered().service is None


def test_the_gpus_are_those_of_the_instance_type_unless_told() -> None:
    def gpus(options: Options | None = None, **changes: Any) -> int:
        spec = rendered(options=options, **changes).job["spec"]["template"]["spec"]
        return int(container(spec, "w")["resources"]["limits"]["nvidia.com/gpu"])

    assert gpus(resource__instanceType="Standard_NC96ads_A100_v4") == 4
    assert gpus(resource__instanceType="STANDARD_NC48ADS_A100_V4") == 2
    assert gpus(resource__instanceType="unheard-of", tuning__preset={"name": "falcon-40b"}) == 2
    assert gpus(Options(gpus=3), resource__instanceType="Standard_NC96ads_A100_v4") == 3


def test_options_of_the_site_reach_the_job() -> None:
    options = Options(deadline_seconds=7200, ttl_seconds=60, queue="gpus", data_secret="tokens")
    job = rendered(options=options).job
    assert (job["spec"]["activeDeadlineSeconds"], job["spec"]["ttlSecondsAfterFinished"]) == (7200, 60)
    assert (job["spec"]["suspend"], job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]) == (True, "gpus")
    downloader = container(job["spec"]["template"]["spec"], "data-downloader")
    assert env(downloader)["DATA_TOKENS_PATH"] == "/etc/data-tokens"
    assert {"name": "data-tokens", "mountPath": "/etc/data-tokens", "readOnly": True} in downloader["volumeMounts"]
    assert {"name": "data-tokens", "secret": {"secretName": "tokens"}} in job["spec"]["template"]["spec"]["volumes"]


@pytest.mark.parametrize(
    ("options", "volume"),
    [
        (Options(weights_claim="phi"), {"persistentVolumeClaim": {"claimName": "phi", "readOnly": True}}),
        (Options(weights_image="r/w:1"), {"image": {"reference": "r/w:1", "pullPolicy": "IfNotPresent"}}),
    ],
)
def test_the_base_model_may_lie_on_a_volume(options: Options, volume: dict[str, Any]) -> None:
    spec = rendered(options=options).job["spec"]["template"]["spec"]
    assert {"name": "model-weights-volume", **volume} in spec["volumes"]
    trainer = container(spec, "w")
    assert env(trainer)["MODEL_WEIGHTS_PATH"] == "/workspace/tfs/weights"
    assert trainer["image"].endswith("/trainer:0.1.0"), "the image without weights"


def test_a_model_of_the_hub_has_its_token_from_a_secret() -> None:
    preset = {"name": "org/gated", "presetOptions": {"modelAccessSecret": "hub"}}
    trainer = container(pod(tuning__preset=preset), "w")
    assert env(trainer)["MODEL_WEIGHTS_PATH"] == "org/gated"
    [token] = [variable for variable in trainer["env"] if variable["name"] == "HF_TOKEN"]
    assert token["valueFrom"] == {"secretKeyRef": {"name": "hub", "key": "HF_TOKEN"}}


def test_the_revision_is_that_of_the_workspace_and_of_the_configuration() -> None:
    def digest(text: str = "training_config: {}", **changes: Any) -> str:
        found = rendered(configmap(text), tuning__config="mine", **changes)
        return str(found.job["metadata"]["annotations"][HASH])

    assert digest() == digest()
    assert digest() != digest("training_config: {LoraConfig: {r: 4}}")
    assert digest() != digest(tuning__method="LoRA", tuning__input={"urls": ["https://h/y.jsonl"]})
    workspace = parse_workspace(document(), source="w.yaml")
    assert revision_hash(workspace, default_configmap("lora")) == rendered().job["metadata"]["annotations"][HASH]


def test_what_is_rendered_may_be_owned_by_the_workspace() -> None:
    metadata = {"name": "w", "uid": "1-2-3"}
    found = rendered(options=Options(owned=True), metadata=metadata, resource__count=2)
    for rendered_document in (found.job, found.service):
        assert rendered_document is not None
        [owner] = rendered_document["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"], owner["controller"]) == ("Workspace", "1-2-3", True)
    with pytest.raises(ConfigurationError, match=r"metadata\.uid is missing"):
        rendered(options=Options(owned=True))


def test_the_originals_paths_and_command_line_can_be_rendered() -> None:
    spec = rendered(options=Options(kaito=True, gpus=2)).job["spec"]["template"]["spec"]
    trainer, downloader = container(spec, "w"), container(spec, "data-downloader")
    assert env(downloader)["DATA_VOLUME_PATH"] == "/mnt/data"
    assert {"name": "data-volume", "mountPath": "/mnt/data", "readOnly": True} in trainer["volumeMounts"]
    assert trainer["command"][:2] == ["/bin/sh", "-c"]
    assert "accelerate launch --num_processes=2 /workspace/tfs/fine_tuning.py" in trainer["command"][2]


def test_a_configmap_that_no_cluster_takes_is_refused() -> None:
    with pytest.raises(ConfigurationError) as caught:
        rendered(
            {**configmap("training_config: {}"), "data": {CONFIG_KEY: "#" * (1 << 20) + "\n{}"}}, tuning__config="mine"
        )
    assert "a cluster takes 1048576" in str(caught.value)


def test_the_trainer_is_ready_once_it_serves_its_figures() -> None:
    trainer = container(pod(), "w")
    [port] = trainer["ports"]
    assert trainer["readinessProbe"]["httpGet"] == {"path": "/healthz", "port": port["name"]}
