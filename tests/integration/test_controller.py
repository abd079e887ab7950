"""The controller as a process, before an API server that keeps to its role's rules: whole lives, and faults."""

import itertools
import json
import random
import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.controllers import NAME, Controller, rules, workspace
from tests.support.kubelet import NAMESPACE, Kubelet
from tests.support.kubernetes_api import KubernetesApi
from tests.support.kubernetes_store import Manifest, Refusal
from tests.support.web import Web, content

from kaito_tuning.job import HASH, REVISION

PEERING = "kaito-tuning"
FIGURES = b"""# HELP kaito_tuning_step Optimizer steps done
# TYPE kaito_tuning_step gauge
kaito_tuning_step 30.0
# TYPE kaito_tuning_steps_total gauge
kaito_tuning_steps_total 120.0
# TYPE kaito_tuning_loss gauge
kaito_tuning_loss 1.23456
# TYPE kaito_tuning_remaining_seconds gauge
kaito_tuning_remaining_seconds 91.7
"""
DELIVERED = {"message": "delivered", "image": "registry.example.com/adapters/chats@sha256:ab", "sizeBytes": 42}


@pytest.fixture
def api(root: Path) -> Iterator[KubernetesApi]:
    with KubernetesApi(rules(root)) as server:
        server.store.create("clusterkopfpeerings", {"metadata": {"name": PEERING}})
        yield server
        assert [line for line in server.refused if line.startswith("403")] == [], "its role allows what it does"


@pytest.fixture
def kubelet(api: KubernetesApi) -> Iterator[Kubelet]:
    with Kubelet(api.store) as node:
        yield node


@pytest.fixture
def controller(api: KubernetesApi, kubelet: Kubelet, tmp_path: Path) -> Iterator[Controller]:
    with Controller(api, tmp_path, f"--peering={PEERING}") as process:
        yield process
        assert "Traceback" not in process.log


def apply(api: KubernetesApi, **tuning: object) -> Manifest:
    """Apply the Workspace: create it, or change its tuning section."""
    document = workspace(**tuning)
    try:
        return api.store.create("workspaces", document)
    except Refusal:
        return api.store.patch("workspaces", NAMESPACE, NAME, {"tuning": document["tuning"]})


def jobs_made(api: KubernetesApi) -> int:
    return len([value for _, change, plural, value in api.store.history if (change, plural) == ("ADDED", "jobs")])


def is_revision(controller: Controller, number: int) -> bool:
    return bool(controller.job()["metadata"]["annotations"][REVISION] == str(number))


def test_an_applied_workspace_is_told_from_its_job_to_its_digest(
    api: KubernetesApi, kubelet: Kubelet, controller: Controller, web: Web
) -> None:
    web.serve("/metrics", content(FIGURES))
    apply(api)
    controller.wait_for(controller.job, "its Job is created")
    host, port = web.host.split(":")
    pod = kubelet.start_pod(NAME, address=host, metrics_port=int(port))["metadata"]["name"]
    for name in ("push-preflight", "data-downloader"):
        kubelet.end_container(pod, name, 0)
    kubelet.run_containers(pod, NAME, "pusher")
    kubelet.set_job(NAME, active=1, ready=1)
    controller.wait_for(lambda: "progress" in controller.status(), "progress is told")
    status = controller.status()
    assert status["progress"] == {"step": 30, "totalSteps": 120, "loss": 1.2346, "remainingSeconds": 92}
    assert status["state"] == "Running"
    assert controller.condition("JobStarted")["reason"] == "WorkspaceTuningJobStatusStarted"
    kubelet.end_container(pod, NAME, 0)
    kubelet.end_container(pod, "pusher", 0, "Succeeded", **DELIVERED)
    kubelet.end_job(NAME, "Complete")
    controller.wait_for(lambda: controller.status()["state"] == "Succeeded", "success is told")
    assert controller.status()["output"] == {"image": DELIVERED["image"], "sizeBytes": 42}
    assert controller.condition("WorkspaceSucceeded")["status"] == "True"
    assert [event["reason"] for event in controller.events()] == ["JobCreated", "TuningSucceeded"]
    assert all(event["involvedObject"]["name"] == NAME for event in controller.events())
    assert controller.stop() == 0


def test_the_cause_of_a_failure_reaches_the_user(api: KubernetesApi, kubelet: Kubelet, controller: Controller) -> None:
    apply(api)
    controller.wait_for(controller.job, "its Job is created")
    pod = kubelet.start_pod(NAME)["metadata"]["name"]
    said = {"cause": "AccessDenied", "message": "registry.example.com answered 401", "hint": "check the push secret"}
    kubelet.end_container(pod, "push-preflight", 77, "Failed", **said)
    kubelet.end_job(NAME, "Failed", "PodFailurePolicy", "exit code 77")
    controller.wait_for(lambda: controller.status().get("state") == "Failed", "the failure is told")
    sentence = (
        "container push-preflight ended with 77 (AccessDenied): registry.example.com answered 401. "
        "Hint: check the push secret."
    )
    assert controller.condition("WorkspaceSucceeded")["message"] == sentence
    [event] = controller.events("TuningFailed")
    assert (event["type"], event["message"]) == ("Warning", sentence)


def test_a_corrected_workspace_gets_a_new_job_once_the_old_one_is_gone(
    api: KubernetesApi, kubelet: Kubelet, controller: Controller
) -> None:
    apply(api)
    old = controller.wait_for(controller.job, "its Job is created")
    kubelet.start_pod(NAME)
    apply(api, output={"image": "registry.example.com/adapters/chats:2", "imagePushSecret": "push"})
    controller.wait_for(lambda: is_revision(controller, 2), "a new Job is created")
    assert controller.job()["metadata"]["uid"] != old["metadata"]["uid"]
    order = [(change, plural) for _, change, plural, _ in api.store.history if plural in ("jobs", "pods")]
    assert order.index(("DELETED", "pods")) < order.index(("DELETED", "jobs")), "in the foreground"
    assert order.index(("DELETED", "jobs")) < len(order) - 1 - order[::-1].index(("ADDED", "jobs"))
    assert jobs_made(api) == 2


def test_a_changed_training_configuration_is_tuned_anew_and_a_foreign_one_is_not(
    api: KubernetesApi, kubelet: Kubelet, controller: Controller
) -> None:
    text = "training_config:\n  LoraConfig:\n    r: {}\n"
    for name in ("mine", "other"):
        data = {"training_config.yaml": text.format(4)}
        api.store.create("configmaps", {"metadata": {"name": name, "namespace": NAMESPACE}, "data": data})
    apply(api, config="mine")
    controller.wait_for(controller.job, "its Job is created")
    api.store.patch("configmaps", NAMESPACE, "other", {"data": {"training_config.yaml": text.format(8)}})
    api.store.patch("configmaps", NAMESPACE, "mine", {"data": {"training_config.yaml": text.format(16)}})
    controller.wait_for(lambda: is_revision(controller, 2), "the new configuration is tuned with")
    assert jobs_made(api) == 2


def test_an_invalid_workspace_has_no_job_until_it_is_corrected(
    api: KubernetesApi, kubelet: Kubelet, controller: Controller
) -> None:
    apply(api, method="dora", preset={"name": "phi-5"})
    controller.wait_for(lambda: controller.condition("WorkspaceSucceeded"), "it is told")
    message = controller.condition("WorkspaceSucceeded")["message"]
    assert "tuning.method" in message
    assert "tuning.preset.name" in message
    assert controller.events("WorkspaceInvalid")
    apply(api)
    controller.wait_for(controller.job, "the corrected one has a Job")
    controller.wait_for(lambda: controller.status()["state"] == "Pending", "and its state says so")


def test_a_deleted_workspace_takes_its_job_with_it(
    api: KubernetesApi, kubelet: Kubelet, controller: Controller
) -> None:
    apply(api)
    controller.wait_for(controller.job, "its Job is created")
    kubelet.start_pod(NAME)
    assert not api.store.get("workspaces", NAMESPACE, NAME)["metadata"].get("finalizers")
    api.store.delete("workspaces", NAMESPACE, NAME)
    controller.wait_for(lambda: not api.store.list("jobs") and not api.store.list("pods"), "all is gone")
    time.sleep(1)
    assert jobs_made(api) == 1


def test_a_job_that_was_deleted_by_hand_comes_back_unless_it_was_finished(
    api: KubernetesApi, kubelet: Kubelet, controller: Controller
) -> None:
    apply(api)
    first = controller.wait_for(controller.job, "its Job is created")["metadata"]
    api.store.delete("jobs", NAMESPACE, NAME, {"propagationPolicy": "Foreground"})
    controller.wait_for(lambda: controller.job()["metadata"]["uid"] != first["uid"], "it comes back")
    assert is_revision(controller, 1)
    kubelet.end_job(NAME, "Complete")
    controller.wait_for(lambda: controller.status().get("completionTime"), "it is finished")
    api.store.delete("jobs", NAMESPACE, NAME, {"propagationPolicy": "Foreground"})
    controller.wait_for(lambda: not api.store.list("jobs"), "it is removed")
    time.sleep(1)
    assert not api.store.list("jobs")
    assert controller.status()["state"] == "Succeeded"


def test_a_job_that_the_cluster_refuses_is_told_and_tried_again(
    api: KubernetesApi, kubelet: Kubelet, controller: Controller
) -> None:
    def no_jobs(manifest: Manifest) -> None:
        if "podFailurePolicy" in manifest.get("spec", {}):
            raise Refusal(422, "Invalid", "exceeded quota: gpus")

    api.store.admit = no_jobs
    apply(api)
    controller.wait_for(lambda: controller.condition("JobStarted").get("reason") == "JobRefused", "it is told")
    assert "Job chats: exceeded quota: gpus" in controller.condition("JobStarted")["message"]
    api.store.admit = lambda _: None
    controller.wait_for(controller.job, "it is created once it may be", seconds=40)
    controller.wait_for(lambda: controller.status()["state"] == "Pending", "and the refusal is forgotten")


def test_a_controller_that_is_killed_at_any_moment_comes_to_the_same_end(
    api: KubernetesApi, kubelet: Kubelet, tmp_path: Path
) -> None:
    lot = random.Random(7)
    moments = itertools.count()
    cut: set[int] = set()

    with Controller(api, tmp_path) as controller:

        def kill_before(verb: str, path: str) -> int:
            if verb != "GET" and "peering" not in path and next(moments) in cut:
                # Half of the time the request has come through before the process is gone.
                controller.process.kill()
                return -1 if lot.random() < 0.5 else 0
            return 0

        api.fault = kill_before
        for revision in range(1, 6):
            cut = {next(moments) + after for after in lot.sample(range(1, 6), 2)}
            image = f"registry.example.com/adapters/chats:{revision}"
            apply(api, output={"image": image, "imagePushSecret": "push"})
            deadline = time.monotonic() + 40
            while not _has(controller, revision):
                assert time.monotonic() < deadline, controller.log[-3000:]
                if controller.process.poll() is not None:
                    controller.start()
                time.sleep(0.05)
        api.fault = lambda verb, path: 0
        if controller.process.poll() is not None:
            controller.start()
        digest = controller.job()["metadata"]["annotations"][HASH]
        controller.wait_for(lambda: controller.status().get("hash") == digest, "the status agrees")
        assert len(api.store.list("jobs")) == 1
        assert jobs_made(api) == 5
        names = [event["message"] for event in controller.events("JobCreated")]
        assert len(names) == len(set(names)), "each is told once"


def _has(controller: Controller, revision: int) -> bool:
    try:
        return is_revision(controller, revision)
    except Refusal:
        return False


def test_two_controllers_that_both_act_do_not_fight(api: KubernetesApi, kubelet: Kubelet, tmp_path: Path) -> None:
    with Controller(api, tmp_path) as one, Controller(api, tmp_path) as two:
        for each in (one, two):
            each.wait_for(lambda each=each: each.log, "it runs")
        time.sleep(2)
        for revision in (1, 2, 3):
            image = f"registry.example.com/adapters/chats:{revision}"
            apply(api, output={"image": image, "imagePushSecret": "push"})
            one.wait_for(lambda revision=revision: is_revision(one, revision), "a Job of each revision")
        time.sleep(3)
        assert jobs_made(api) == 3
        written = len(api.written)
        time.sleep(2)
        assert len(api.written) == written, "they have come to rest"
        assert len(one.events("JobCreated")) == 3
        assert "Traceback" not in one.log + two.log


def test_of_two_replicas_one_leads_and_the_other_takes_over_after_its_death(
    api: KubernetesApi, kubelet: Kubelet, tmp_path: Path
) -> None:
    options = (api, tmp_path, f"--peering={PEERING}")
    with Controller(*options) as one, Controller(*options) as two:
        both = (one, two)
        peering = "clusterkopfpeerings", "", PEERING
        one.wait_for(lambda: len(api.store.get(*peering).get("status", {})) == 2, "each knows of the other")
        time.sleep(1)
        apply(api)
        one.wait_for(one.job, "one of them acts")
        time.sleep(1)
        [leader] = [each for each in both if "created kind=Job" in each.log]
        [follower] = [each for each in both if each is not leader]
        leader.kill()
        apply(api, output={"image": "registry.example.com/adapters/chats:2", "imagePushSecret": "push"})
        follower.wait_for(lambda: is_revision(follower, 2), "the other takes over", seconds=60)
        assert jobs_made(api) == 2


def test_an_api_server_that_fails_now_and_then_is_borne(
    api: KubernetesApi, kubelet: Kubelet, controller: Controller
) -> None:
    lot = random.Random(3)
    api.fault = lambda verb, path: lot.choice([500, 503, 409, -1, *[0] * 16]) if "/namespaces/" in path else 0
    apply(api)
    controller.wait_for(controller.job, "its Job is created", seconds=60)
    apply(api, output={"image": "registry.example.com/adapters/chats:2", "imagePushSecret": "push"})
    controller.wait_for(lambda: is_revision(controller, 2), "the next one too", seconds=60)
    api.fault = lambda verb, path: 0
    assert jobs_made(api) == 2


def test_a_watch_that_ends_or_is_too_old_loses_nothing(
    api: KubernetesApi, kubelet: Kubelet, controller: Controller
) -> None:
    apply(api)
    controller.wait_for(controller.job, "its Job is created")
    for revision, interruption in enumerate((api.end_watches, api.store.forget), start=2):
        interruption()
        image = f"registry.example.com/adapters/chats:{revision}"
        apply(api, output={"image": image, "imagePushSecret": "push"})
        controller.wait_for(lambda revision=revision: is_revision(controller, revision), "a change is still seen")


def test_credentials_that_are_refused_once_are_asked_for_again(
    api: KubernetesApi, kubelet: Kubelet, controller: Controller
) -> None:
    refusals = iter([401])
    api.fault = lambda verb, path: next(refusals, 0) if path.endswith(f"/workspaces/{NAME}") else 0
    apply(api)
    controller.wait_for(controller.job, "its Job is created")
    assert [line for line in api.refused if line.startswith("401")]


def test_it_answers_the_kubelet(api: KubernetesApi, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/healthz"
    with Controller(api, tmp_path, f"--liveness={url}", "--log-format=json", f"--namespace={NAMESPACE}") as controller:

        def healthy() -> bool:
            try:
                with urllib.request.urlopen(url, timeout=2) as answer:
                    return bool(answer.status == 200)
            except OSError:
                return False

        controller.wait_for(healthy, "it is healthy")
        assert controller.stop() == 0
        assert all(json.loads(line)["level"] for line in controller.log.splitlines())
