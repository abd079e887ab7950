"""The controller's decision: a table of what is seen and what follows, and that following it comes to an end."""

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaito_tuning.controller.decision import Decision, Observed, decide
from kaito_tuning.job import HASH, REVISION, default_configmap
from kaito_tuning.options import Options
from tests.support.controllers import NAME, workspace
from tests.support.kubelet import NAMESPACE
from tests.support.kubernetes_store import Manifest, merge

NOW = "2026-01-02T03:04:05Z"
UID = "uid-of-the-workspace"
TASK = {"type": "Complete", "status": "True"}


def applied(status: Manifest | None = None, generation: int = 1, **tuning: Any) -> Manifest:
    document = workspace(**tuning)
    document["metadata"] |= {"uid": UID, "generation": generation}
    return {**document, **({"status": status} if status else {})}


def next_step(document: Manifest, **seen: Any) -> Decision:
    return decide(Observed(document, **seen), Options(), NOW)


def created_job(decision: Decision) -> Manifest:
    [job] = [manifest for manifest in decision.create if manifest["kind"] == "Job"]
    return job


def begun(**tuning: Any) -> tuple[Manifest, Manifest]:
    """A Workspace whose Job was created, and that Job."""
    decision = next_step(applied(**tuning))
    job = copy.deepcopy(created_job(decision))
    job["metadata"]["uid"] = "uid-of-the-job"
    return applied(merge({}, decision.status), **tuning), job


def with_status(job: Manifest, **status: Any) -> Manifest:
    return {**job, "status": status}


def condition(status: Manifest, kind: str) -> Manifest:
    [found] = [entry for entry in status["conditions"] if entry["type"] == kind]
    return found


def verdict(decision: Decision) -> tuple[str, str]:
    found = condition(decision.status, "WorkspaceSucceeded")
    return found["reason"], found["message"]


def pod(name: str = "chats-1", phase: str = "Running", node: str = "node-1", **containers: Manifest) -> Manifest:
    names = ["push-preflight", "data-downloader", NAME, "pusher"]
    told = {key.replace("_", "-"): state for key, state in containers.items()}
    return {
        "metadata": {"name": name, "creationTimestamp": name},
        "spec": {
            "nodeName": node,
            "initContainers": [{"name": entry} for entry in names[:2]],
            "containers": [{"name": entry} for entry in names[2:]],
        },
        "status": {
            "phase": phase,
            "conditions": [{"type": "PodScheduled", "status": "True"}],
            "containerStatuses": [{"name": entry, "state": told[entry]} for entry in sorted(told)],
        },
    }


def ended(code: int, message: str = "", reason: str = "") -> Manifest:
    return {"terminated": {"exitCode": code, "message": message, "reason": reason}}


RUNNING: Manifest = {"running": {}}
CAUSE = '{"exitCode": 71, "cause": "ResourceExhausted", "message": "CUDA out of memory", "hint": "use qlora"}'
DELIVERED = '{"exitCode": 0, "message": "delivered", "image": "registry/a@sha256:1", "sizeBytes": 42, "seconds": 1}'


def test_a_new_workspace_gets_its_job_and_the_default_configuration() -> None:
    decision = next_step(applied())
    assert [manifest["kind"] for manifest in decision.create] == ["ConfigMap", "Job"]
    job = created_job(decision)
    assert (job["metadata"]["name"], job["metadata"]["namespace"]) == (NAME, NAMESPACE)
    assert job["metadata"]["annotations"][REVISION] == "1"
    [owner] = job["metadata"]["ownerReferences"]
    assert (owner["uid"], owner["controller"]) == (UID, True)
    assert decision.status["state"] == "Pending"
    assert decision.status["hash"] == job["metadata"]["annotations"][HASH]
    assert [news.reason for news in decision.news] == ["JobCreated"]


def test_a_default_configuration_that_is_there_is_used_as_it_is() -> None:
    there = default_configmap("lora")
    there["metadata"]["namespace"] = NAMESPACE
    same = next_step(applied(), configmap=there)
    assert [manifest["kind"] for manifest in same.create] == ["Job"]
    there["data"]["training_config.yaml"] += "\n# changed by the site\n"
    changed = next_step(applied(), configmap=there)
    assert created_job(changed)["metadata"]["annotations"][HASH] != created_job(same)["metadata"]["annotations"][HASH]


def test_what_is_as_it_should_be_is_left_alone() -> None:
    document, job = begun()
    decision = next_step(document, job=job)
    settled = applied(merge(document["status"], decision.status))
    again = next_step(settled, job=job)
    assert (again.news, again.status, again.delete, again.create) == ((), {}, None, ())


def test_a_workspace_that_is_being_deleted_is_left_to_the_garbage_collector() -> None:
    document, job = begun()
    document["metadata"]["deletionTimestamp"] = NOW
    assert next_step(document, job=job) == Decision()


def test_an_invalid_workspace_has_all_its_problems_told_and_no_job() -> None:
    decision = next_step(applied(method="dora", preset={"name": "phi-5"}))
    assert not decision.create
    assert decision.status["state"] == "Failed"
    reason, message = verdict(decision)
    assert reason == "WorkspaceInvalid"
    assert "tuning.method" in message
    assert "tuning.preset.name" in message
    assert [(news.reason, news.warning) for news in decision.news] == [("WorkspaceInvalid", True)]
    told = applied(merge({}, decision.status), method="dora", preset={"name": "phi-5"})
    assert (next_step(told).news, next_step(told).status) == ((), {})


def test_a_mistake_in_the_configuration_is_told_as_well() -> None:
    configmap = {"kind": "ConfigMap", "metadata": {"name": "mine"}, "data": {}}
    configmap["data"] = {"training_config.yaml": "training_config:\n  LoraConfig:\n    lora_alfa: 8\n"}
    decision = next_step(applied(config="mine"), configmap=configmap)
    assert "did you mean lora_alpha?" in verdict(decision)[1]
    assert not decision.create


def test_a_configuration_that_is_not_there_is_waited_for() -> None:
    decision = next_step(applied(config="mine"))
    reason, message = verdict(decision)
    assert (reason, decision.status["state"]) == ("ConfigMapNotFound", "Pending")
    assert f"the ConfigMap mine that tuning.config names is not in the namespace {NAMESPACE}" in message
    assert not decision.create
    assert decision.again_seconds


def test_a_mistake_made_while_a_job_runs_leaves_it_running() -> None:
    document, job = begun()
    broken = applied(document["status"], 2, method="dora")
    decision = next_step(broken, job=job)
    assert decision.delete is None
    assert "The Job of revision 1 is left as it is" in verdict(decision)[1]
    mended = applied(merge(document["status"], decision.status), 3)
    assert next_step(mended, job=job).delete is None
    assert next_step(mended, job=job).status["state"] == "Pending"


@pytest.mark.parametrize("ending", [{}, {"conditions": [{"type": "Failed", "status": "True"}]}, {"conditions": [TASK]}])
def test_a_changed_workspace_replaces_its_job_whatever_became_of_it(ending: Manifest) -> None:
    document, job = begun()
    job = with_status(job, **ending)
    followed = next_step(document, job=job)
    output = {"image": "registry.example.com/adapters/chats:2", "imagePushSecret": "push"}
    changed = applied(merge(document["status"], followed.status), 2, output=output)
    decision = next_step(changed, job=job)
    assert decision.delete == job
    assert not decision.create
    assert decision.status["revision"] == 2
    waiting = applied(merge(changed["status"], decision.status), 2, output=output)
    job["metadata"]["deletionTimestamp"] = NOW
    assert not next_step(waiting, job=job).create
    assert created_job(next_step(waiting))["metadata"]["annotations"][REVISION] == "2"


def test_a_changed_configuration_replaces_the_job_too() -> None:
    there = default_configmap("lora")
    document, job = begun()
    there["data"]["training_config.yaml"] += "\n# changed\n"
    assert next_step(document, configmap=there, job=job).delete == job


def test_a_foreign_job_of_the_same_name_is_named_and_left_alone() -> None:
    document, job = begun()
    del job["metadata"]["ownerReferences"]
    decision = next_step(document, job=job)
    assert verdict(decision)[0] == "NameTaken"
    assert (decision.delete, decision.create) == (None, ())


def test_a_running_job_tells_its_container_its_node_and_its_progress() -> None:
    document, job = begun()
    progress = {"step": 3, "totalSteps": 10, "loss": 1.5, "remainingSeconds": 70}
    seen = pod(chats=RUNNING, pusher=RUNNING)
    decision = next_step(document, job=with_status(job, active=1), pods=[seen], progress=progress)
    status = decision.status
    assert (status["state"], status["progress"], status["workerNodes"]) == ("Running", progress, ["node-1"])
    assert verdict(decision) == ("workspacePending", "running: chats, pusher")
    assert condition(status, "JobStarted")["status"] == "True"
    assert condition(status, "ResourceReady")["status"] == "True"


def test_a_pod_without_a_node_tells_why() -> None:
    document, job = begun()
    seen = pod(phase="Pending", node="")
    seen["status"]["conditions"] = [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes: Insufficient gpu"}
    ]
    decision = next_step(document, job=job, pods=[seen])
    assert merge(document["status"], decision.status)["state"] == "Pending"
    assert condition(decision.status, "ResourceReady")["message"] == "0/3 nodes: Insufficient gpu"
    assert "no node was found: 0/3 nodes: Insufficient gpu" in verdict(decision)[1]


def test_a_container_that_cannot_begin_tells_why() -> None:
    waiting = {"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "push" not found'}}
    document, job = begun()
    decision = next_step(document, job=job, pods=[pod(phase="Pending", push_preflight=waiting)])
    assert 'container push-preflight waits: CreateContainerConfigError: secret "push" not found' in verdict(decision)[1]


def test_a_failed_job_tells_the_container_that_failed_first() -> None:
    failure = {"type": "Failed", "status": "True", "reason": "PodFailurePolicy", "message": "exit code 71"}
    nothing = '{"exitCode": 69, "cause": "TrainingFailed", "message": "nothing to push"}'
    document, job = begun()
    seen = pod(phase="Failed", chats=ended(71, CAUSE), pusher=ended(69, nothing))
    decision = next_step(document, job=with_status(job, conditions=[failure]), pods=[seen])
    reason, message = verdict(decision)
    assert (reason, decision.status["state"]) == ("workspaceFailed", "Failed")
    assert message == "container chats ended with 71 (ResourceExhausted): CUDA out of memory. Hint: use qlora."
    assert decision.status["completionTime"] == NOW
    assert [(news.reason, news.message) for news in decision.news] == [("TuningFailed", message)]


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (ended(137, reason="OOMKilled"), "ended with 137 (OOMKilled): it took more memory than its limit"),
        (ended(137, reason="Error"), "ended with 137: it was killed (SIGKILL)"),
        (ended(1, "cp: No space left on device"), "ended with 1: cp: No space left on device"),
        (ended(1, "password=hunter2 refused"), "password=***"),
    ],
)
def test_a_container_without_a_sentence_of_ours_is_told_too(state: Manifest, words: str) -> None:
    failure = {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}
    document, job = begun()
    seen = pod(phase="Failed", data_downloader=state)
    assert words in verdict(next_step(document, job=with_status(job, conditions=[failure]), pods=[seen]))[1]


def test_a_deadline_is_told_in_the_job_controllers_words() -> None:
    failure = {"type": "Failed", "status": "True", "reason": "DeadlineExceeded", "message": "was active too long"}
    document, job = begun()
    decision = next_step(document, job=with_status(job, conditions=[failure]))
    assert verdict(decision)[1] == "the Job failed: DeadlineExceeded: was active too long"


def test_an_evicted_pod_is_told_in_the_kubelets_words() -> None:
    document, job = begun()
    seen = pod("chats-1", "Failed")
    seen["status"] |= {"reason": "Evicted", "message": "The node was low on resource: ephemeral-storage."}
    decision = next_step(document, job=with_status(job, failed=1), pods=[seen])
    assert "attempt 1 failed: pod chats-1 failed: The node was low on resource" in verdict(decision)[1]
    assert [news.reason for news in decision.news] == ["AttemptFailed"]


def test_a_job_that_succeeded_after_a_retry_is_succeeded() -> None:
    document, job = begun()
    pods = [
        pod("chats-1", "Failed", chats=ended(75, '{"message": "the hub is down", "cause": "TransientError"}')),
        pod("chats-2", "Succeeded", chats=ended(0), pusher=ended(0, DELIVERED)),
    ]
    decision = next_step(document, job=with_status(job, failed=1, succeeded=1, conditions=[TASK]), pods=pods)
    assert decision.status["state"] == "Succeeded"
    assert decision.status["output"] == {"image": "registry/a@sha256:1", "sizeBytes": 42}
    assert verdict(decision) == ("workspaceSucceeded", "delivered registry/a@sha256:1 (42 bytes)")
    assert [news.reason for news in decision.news] == ["TuningSucceeded"]


def test_what_was_told_of_an_end_outlives_the_pods_that_said_it() -> None:
    failure = {"type": "Failed", "status": "True", "reason": "PodFailurePolicy", "message": "exit code 71"}
    for ending, seen in (
        (failure, pod(phase="Failed", chats=ended(71, CAUSE))),
        (TASK, pod(pusher=ended(0, DELIVERED))),
    ):
        document, job = begun()
        job = with_status(job, conditions=[ending])
        told = applied(merge(document["status"], next_step(document, job=job, pods=[seen]).status))
        later = next_step(told, job=job)
        assert (later.status, later.news) == ({}, ())
        # A mistake in between is forgotten once it is mended.
        broken = applied(told["status"], 2, method="dora")
        mended = applied(merge(told["status"], next_step(broken, job=job).status), 3)
        assert verdict(next_step(mended, job=job, pods=[seen])) == (
            condition(told["status"], "WorkspaceSucceeded")["reason"],
            condition(told["status"], "WorkspaceSucceeded")["message"],
        )


def test_a_finished_workspace_whose_job_was_removed_stays_finished() -> None:
    document, job = begun()
    status = merge(document["status"], next_step(document, job=with_status(job, conditions=[TASK])).status)
    decision = next_step(applied(status))
    assert (decision.create, decision.status) == ((), {})
    # Also where a mistake was made, and mended, in between.
    broken = merge(status, next_step(applied(status, 2, method="dora")).status)
    mended = next_step(applied(broken, 3))
    assert mended.create == ()
    assert (mended.status["state"], verdict(mended)[0]) == ("Succeeded", "workspaceSucceeded")


def test_a_job_that_was_removed_before_its_end_comes_back_as_the_same_revision() -> None:
    document, job = begun()
    status = merge(document["status"], next_step(document, job=with_status(job, active=1), pods=[pod()]).status)
    assert created_job(next_step(applied(status)))["metadata"]["annotations"][REVISION] == "1"


def test_a_refusal_of_the_cluster_is_told_once() -> None:
    decision = next_step(applied(), refusal="Job chats: exceeded quota: gpus, used 8 of 8")
    assert verdict(decision) == (
        "JobRefused",
        "the cluster refused the Job: Job chats: exceeded quota: gpus, used 8 of 8",
    )
    tried = applied(merge({}, decision.status))
    again = next_step(tried)
    assert created_job(again)
    assert (again.status, again.news) == ({}, ())


def test_a_configuration_that_was_removed_later_ends_nothing() -> None:
    configmap = default_configmap("lora")
    configmap["metadata"] = {"name": "mine", "namespace": NAMESPACE}
    decision = next_step(applied(config="mine"), configmap=configmap)
    job = created_job(decision)
    document = applied(merge({}, decision.status), config="mine")
    seen = next_step(document, job=with_status(job, conditions=[TASK]))
    assert seen.status["state"] == "Succeeded"
    finished = applied(merge(document["status"], seen.status), config="mine")
    assert (next_step(finished).create, next_step(finished).status) == ((), {})
    other = applied(finished["status"], 2, config="other")
    assert verdict(next_step(other, job=job))[0] == "ConfigMapNotFound"


def test_a_transition_time_stays_while_the_status_stays() -> None:
    document, job = begun()
    decision = decide(Observed(document, job=job, pods=[pod(chats=RUNNING)]), Options(), "2027-01-01T00:00:00Z")
    assert condition(decision.status, "JobStarted")["lastTransitionTime"] == "2027-01-01T00:00:00Z"
    assert condition(decision.status, "WorkspaceSucceeded")["lastTransitionTime"] == NOW


class World:
    """A cluster of one Workspace that does what is decided, at once or in part."""

    def __init__(self) -> None:
        self.document = applied()
        self.objects: dict[str, Manifest] = {}
        self.made = 0

    def change(self, tag: int) -> None:
        tuning = {"output": {"image": f"registry.example.com/a/b:{tag}", "imagePushSecret": "push"}}
        generation = self.document["metadata"]["generation"] + 1
        self.document = {**applied(self.document.get("status"), generation, **tuning)}

    def breaks(self) -> None:
        generation = self.document["metadata"]["generation"] + 1
        self.document = applied(self.document.get("status"), generation, method="dora")

    def configure(self, note: int) -> None:
        if "ConfigMap" in self.objects:
            text = default_configmap("lora")["data"]["training_config.yaml"]
            self.objects["ConfigMap"]["data"]["training_config.yaml"] = f"{text}\n# {note}\n"

    def ends(self, kind: str) -> None:
        if "Job" in self.objects:
            self.objects["Job"]["status"] = {"conditions": [{"type": kind, "status": "True"}]}

    def removes(self) -> None:
        self.objects.pop("Job", None)

    def look(self, cut: int = 99) -> bool:
        """One look, cut off after `cut` of its acts; whether there was anything to do."""
        seen = Observed(self.document, self.objects.get("ConfigMap"), self.objects.get("Job"))
        decision = decide(seen, Options(), NOW)
        acts: list[Any] = []
        if decision.status:
            acts.append(lambda: self.write(decision.status))
        if decision.delete:
            acts.append(self.removes)
        acts += [lambda manifest=manifest: self.create(manifest) for manifest in decision.create]
        for act in acts[:cut]:
            act()
        return bool(acts)

    def write(self, status: Manifest) -> None:
        self.document = {**self.document, "status": merge(self.document.get("status"), status)}

    def create(self, manifest: Manifest) -> None:
        if manifest["kind"] not in self.objects:
            self.made += 1
            self.objects[manifest["kind"]] = copy.deepcopy(manifest)
            self.objects[manifest["kind"]]["metadata"]["uid"] = f"uid-{self.made}"


_ACTS = st.one_of(
    st.tuples(st.just("change"), st.integers(1, 3)),
    st.tuples(st.just("configure"), st.integers(1, 2)),
    st.tuples(st.just("breaks")),
    st.tuples(st.just("ends"), st.sampled_from(["Complete", "Failed"])),
    st.tuples(st.just("removes")),
    st.tuples(st.just("look"), st.integers(0, 3)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(_ACTS, max_size=12), st.integers(1, 3))
def test_whatever_happens_it_comes_to_rest_at_one_job_of_the_last_revision(acts: list[Any], last: int) -> None:
    world = World()
    for name, *arguments in acts:
        getattr(world, name)(*arguments)
    world.change(last)
    for _ in range(6):
        if not world.look():
            break
    else:
        raise AssertionError("it does not come to rest")
    status = world.document["status"]
    if "Job" in world.objects:
        assert world.objects["Job"]["metadata"]["annotations"][HASH] == status["hash"]
        assert world.objects["Job"]["metadata"]["annotations"][REVISION] == str(status["revision"])
    else:
        assert status["completionTime"], "a Job is missing only where its revision has come to its end"
    image = world.document["tuning"]["output"]["image"]
    fresh = decide(Observed({**world.document, "status": {}}, world.objects.get("ConfigMap")), Options(), NOW)
    assert created_job(fresh)["metadata"]["annotations"][HASH] == status["hash"], image
