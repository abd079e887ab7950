"""One look at one Workspace: read what the cluster has, decide, and do it."""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from kaito_tuning.controller.cluster import ApiError, Cluster
from kaito_tuning.controller.decision import Decision, News, Observed, config_name, decide
from kaito_tuning.controller.pods import metrics_url
from kaito_tuning.job import WORKSPACE_LABEL
from kaito_tuning.options import Options
from kaito_tuning.pod import Manifest

COMPONENT = "kaito-tuning"
_LONGEST_NOTE = 1024
_METRICS_TIMEOUT = aiohttp.ClientTimeout(total=3)
# What the trainer serves, and what the status calls it.
_PROGRESS = {
    "kaito_tuning_step": "step",
    "kaito_tuning_steps_total": "totalSteps",
    "kaito_tuning_loss": "loss",
    "kaito_tuning_remaining_seconds": "remainingSeconds",
}
# An object that the API server understood and would not have: trying again at once is of no use.
_REFUSALS = (400, 403, 422)

logger = logging.getLogger(__name__)

# A Workspace: its namespace and name.
Key = tuple[str, str]


async def reconcile(cluster: Cluster, key: Key, options: Options) -> float | None:
    """Bring the cluster nearer to what the Workspace says; in how many seconds to look again, None if it is gone.

    Raises ApiError and Unreachable.
    """
    observed = await observe(cluster, *key)
    if observed is None:
        return None
    decision = decide(observed, options, _now())
    try:
        await _carry_out(cluster, observed.workspace, decision)
    except _Refused as refused:
        logger.warning("refused workspace=%s/%s reason=%s", *key, refused)
        again = await observe(cluster, *key)
        if again is None:
            return None
        refusal = replace(decide(replace(again, refusal=str(refused)), options, _now()), create=(), delete=None)
        await _carry_out(cluster, again.workspace, refusal)
        return refusal.again_seconds
    return decision.again_seconds


async def observe(cluster: Cluster, namespace: str, name: str) -> Observed | None:
    """What the cluster has of the Workspace now; None where it is gone."""
    workspace = await cluster.get("Workspace", namespace, name)
    if workspace is None:
        return None
    wanted = config_name(workspace)
    configmap = await cluster.get("ConfigMap", namespace, wanted) if wanted else None
    job = await cluster.get("Job", namespace, name)
    pods = await _pods_of(cluster, job) if job else []
    url = metrics_url(pods)
    return Observed(workspace, configmap, job, pods, await _progress(url) if url else {})


async def _pods_of(cluster: Cluster, job: Manifest) -> list[Manifest]:
    metadata = job["metadata"]
    found = await cluster.list_by_label("Pod", metadata["namespace"], WORKSPACE_LABEL, metadata["name"])
    return [
        pod
        for pod in found
        if any(owner.get("uid") == metadata["uid"] for owner in pod["metadata"].get("ownerReferences") or [])
    ]


async def _progress(url: str) -> Mapping[str, Any]:
    """The trainer's figures; nothing before it has any, or where it does not answer, which is no news."""
    try:
        async with aiohttp.ClientSession(timeout=_METRICS_TIMEOUT) as session, session.get(url) as response:
            text = await response.text()
        found = {
            _PROGRESS[sample.name]: sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name in _PROGRESS
        }
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        logger.debug("no figures url=%s reason=%s", url, error)
        return {}
    if not found.get("totalSteps"):
        return {}
    if not found.get("loss"):
        found.pop("loss", None)  # nothing was logged yet
    whole = ("step", "totalSteps", "remainingSeconds")
    return {name: round(value) if name in whole else round(value, 4) for name, value in found.items()}


class _Refused(Exception):
    """The API server will not have what was wanted."""


async def _carry_out(cluster: Cluster, workspace: Manifest, decision: Decision) -> None:
    """Tell, then write, then act: whoever is cut off in between finds in the status what was about to be done."""
    revision = decision.status.get("revision") or (workspace.get("status") or {}).get("revision", 0)
    for news in decision.news:
        await _tell(cluster, workspace, news, revision)
    if decision.status:
        await cluster.patch_status(workspace, decision.status)
    if decision.delete:
        await cluster.delete(decision.delete)
    for manifest in decision.create:
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        try:
            created = await cluster.create(manifest)
        except ApiError as error:
            if error.code in _REFUSALS:
                raise _Refused(f"{kind} {name}: {error.message}") from error
            raise
        if created:
            logger.info("created kind=%s namespace=%s name=%s", kind, manifest["metadata"]["namespace"], name)


async def _tell(cluster: Cluster, workspace: Manifest, news: News, revision: int) -> None:
    """An Event whose name follows from what it says of which revision, so that it is told once, whoever tells it."""
    metadata, now = workspace["metadata"], _now()
    text = "\0".join((metadata["uid"], str(revision), news.reason, news.message))
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{metadata['name']}.{hashlib.sha256(text.encode()).hexdigest()[:16]}",
            "namespace": metadata["namespace"],
        },
        "involvedObject": {
            "apiVersion": workspace["apiVersion"],
            "kind": workspace["kind"],
            **{field: metadata[field] for field in ("name", "namespace", "uid", "resourceVersion")},
        },
        "type": "Warning" if news.warning else "Normal",
        "reason": news.reason,
        "message": news.message if len(news.message) <= _LONGEST_NOTE else news.message[: _LONGEST_NOTE - 1] + "…",
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
        "reportingInstance": COMPONENT,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
    try:
        told = await cluster.create(event)
    except ApiError as error:
        # The status says it as well.
        logger.warning("an Event was not written reason=%s", error)
        return
    if told:
        write = logger.warning if news.warning else logger.info
        write("%s workspace=%s/%s: %s", news.reason, metadata["namespace"], metadata["name"], news.message)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
