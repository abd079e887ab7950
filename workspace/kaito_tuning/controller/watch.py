"""The running controller: kopf watches Workspaces, their Jobs and ConfigMaps; on a change the Workspace is looked at.

Of several replicas one leads, by kopf's peering: the others hear of no change while it lives. Nothing depends on it:
two that act at once come to the same end.
"""

import asyncio
import logging
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import kopf
import yaml

from kaito_tuning.controller.attention import Attention
from kaito_tuning.controller.cluster import ApiError, Cluster, Unreachable
from kaito_tuning.controller.decision import config_name
from kaito_tuning.controller.reconciliation import Key, reconcile
from kaito_tuning.job import WORKSPACE_LABEL
from kaito_tuning.options import Options
from kaito_tuning.schema import GROUP, PLURAL, STORED
from tuning.errors import ConfigurationError

_PEERINGS = "/apis/kopf.dev/v1/clusterkopfpeerings"
# A leader that died is known to be dead after so long.
_PEER_LIFETIME_SECONDS = 20

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Watch:
    """What a controller is told: where it looks, and how replicas find each other.

    Without `namespaces` it looks everywhere. `peering` names a ClusterKopfPeering; without one there are no replicas.
    `liveness` is the URL at which it answers the kubelet, as http://0.0.0.0:8080/healthz.
    """

    options: Options
    namespaces: Sequence[str] = ()
    peering: str = ""
    liveness: str = ""
    # The highest leads. Drawn by lot, since replicas of a Deployment have nothing that ranks them.
    priority: int = field(default_factory=lambda: random.randint(1, 1 << 31))  # noqa: S311 - no secret

    def run(self) -> None:
        """Watch until SIGTERM or SIGINT. Raises ConfigurationError without credentials for a cluster."""
        log_in()
        for talkative in ("kopf.objects", "kopf.activities"):
            logging.getLogger(talkative).setLevel(logging.WARNING)
        asyncio.run(self._run())

    async def _run(self) -> None:
        identity = f"{os.uname().nodename}-{os.getpid()}"
        async with Cluster(log_in) as cluster:

            async def look(key: Key) -> float | None:
                if self.peering and not await leads(cluster, self.peering, identity, self.priority):
                    # Whoever leads looks; once this one does, kopf tells it of every Workspace anew.
                    return None
                return await reconcile(cluster, key, self.options)

            attention = Attention(look, (ApiError, Unreachable))
            try:
                await kopf.operator(
                    registry=_registry(Noticed(attention)),
                    settings=self._settings(),
                    identity=cast(Any, identity),  # a type that kopf does not export
                    standalone=not self.peering,
                    peering_name=self.peering or None,
                    priority=self.priority,
                    liveness_endpoint=self.liveness or None,
                    clusterwide=not self.namespaces,
                    namespaces=self.namespaces,
                )
            finally:
                await attention.close()

    def _settings(self) -> kopf.OperatorSettings:
        settings = kopf.OperatorSettings()
        settings.posting.enabled = False  # our Events are told by the reconciliation
        settings.peering.lifetime = _PEER_LIFETIME_SECONDS
        settings.peering.clusterwide = True
        settings.watching.label_selectors["batch", "v1", "jobs"] = WORKSPACE_LABEL
        return settings


class Noticed:
    """Which Workspaces a change concerns."""

    def __init__(self, attention: Attention[Key]) -> None:
        self._attention = attention
        # The name of the ConfigMap that each Workspace reads, and what of it was seen last.
        self._configs: dict[Key, str] = {}
        self._seen: dict[Key, tuple[Any, ...]] = {}

    def workspace(self, kind: str | None, body: Mapping[str, Any]) -> None:
        """A Workspace is there, was changed, or is gone; a change of its status alone, as ours is, concerns nobody."""
        metadata = body["metadata"]
        key = metadata["namespace"], metadata["name"]
        state = metadata.get("uid"), metadata.get("generation"), metadata.get("deletionTimestamp")
        known, self._seen[key] = self._seen.get(key), state
        self._configs[key] = config_name(dict(body))
        if kind == "DELETED":
            del self._seen[key], self._configs[key]
        # Without a kind it is told because a watch began: what was missed is not known.
        if kind in (None, "DELETED") or known != state:
            self._attention.wake(key)

    def job(self, metadata: Mapping[str, Any]) -> None:
        """A Job of a Workspace was changed."""
        key = metadata["namespace"], metadata.get("labels", {}).get(WORKSPACE_LABEL, "")
        if key in self._configs:
            self._attention.wake(key)

    def configmap(self, metadata: Mapping[str, Any]) -> None:
        """A ConfigMap was changed; most have nothing to do with a Workspace."""
        for key, name in self._configs.items():
            if (key[0], name) == (metadata["namespace"], metadata["name"]):
                self._attention.wake(key)


def _registry(noticed: Noticed) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    def login(**_: Any) -> kopf.ConnectionInfo:
        return log_in()

    @kopf.on.event(GROUP, STORED, PLURAL, registry=registry)
    async def workspace(event: Mapping[str, Any], **_: Any) -> None:
        noticed.workspace(event["type"], event["object"])

    @kopf.on.event("batch", "v1", "jobs", registry=registry)
    async def job(event: Mapping[str, Any], **_: Any) -> None:
        noticed.job(event["object"]["metadata"])

    @kopf.on.event("", "v1", "configmaps", registry=registry)
    async def configmap(event: Mapping[str, Any], **_: Any) -> None:
        noticed.configmap(event["object"]["metadata"])

    return registry


def log_in() -> kopf.ConnectionInfo:
    """The credentials of the pod's service account, or of KUBECONFIG. Raises ConfigurationError without any."""
    settings = kopf.OperatorSettings()
    try:
        found = kopf.login_with_service_account(settings=settings) or kopf.login_with_kubeconfig(settings=settings)
    except (OSError, kopf.LoginError, yaml.YAMLError, KeyError, AttributeError) as error:
        raise ConfigurationError(f"the kubeconfig cannot be used: {error}", hint="try it with kubectl") from error
    if found is None:
        raise ConfigurationError(
            "no cluster: there is no service account and no kubeconfig", hint="set KUBECONFIG, or run in a cluster"
        )
    return found


async def leads(cluster: Cluster, peering: str, identity: str, priority: int) -> bool:
    """Whether no living replica goes before this one."""
    try:
        found = await cluster.get_path(f"{_PEERINGS}/{peering}")
    except ApiError as error:
        if error.code == 404:
            return False  # as kopf takes it: without the object nobody acts
        raise
    now = datetime.now(UTC)
    return not any(
        int(peer.get("priority", 0)) >= priority
        and datetime.fromisoformat(peer["lastseen"]) + timedelta(seconds=int(peer.get("lifetime", 60))) > now
        for name, peer in (found.get("status") or {}).items()
        if name != identity
    )
