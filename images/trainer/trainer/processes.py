"""One process for each GPU: torch's own launcher starts this module's app once more as each rank."""

import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.settings import Settings
from tuning.errors import CAUSES, ConfigurationError, ResourceExhausted, TransientError, TuningError
from tuning.files import write_json

logger = logging.getLogger(__name__)

_CAUSE = ".cause-of-rank-{}.json"
_REACHABLE = "127.0.0.1:0"
_SIGKILL_EXIT = -9


def processes_of_node(settings: Settings) -> int:
    """How many processes this node starts: as told, else one for each GPU that the container has, at least one."""
    if settings.processes:
        return settings.processes
    return max(len(list(Path("/dev").glob("nvidia[0-9]*"))), 1)


def is_rank(environ: Mapping[str, str]) -> bool:
    """Whether a launcher has started this process as one of several."""
    return "RANK" in environ and "WORLD_SIZE" in environ


def launch(settings: Settings, results: Path, count: int) -> Mapping[str, Any]:
    """Train in `count` processes on this node, together with the other nodes. Returns when all have ended well.

    Raises the cause that the first failing rank gave, or TransientError where it died without a word.
    """
    # Imported here: it brings torch, which a single process imports only after its checks.
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if settings.nodes > 1 and not settings.master_address:
        raise ConfigurationError(
            f"TUNING_NODES is {settings.nodes} and MASTER_ADDR is not set", hint="set it to the host name of node 0"
        )
    for path in results.glob(_CAUSE.format("*")):
        path.unlink()
    several = settings.nodes > 1
    config = LaunchConfig(
        min_nodes=settings.nodes,
        max_nodes=settings.nodes,
        nproc_per_node=count,
        run_id=settings.run_id or "tuning",
        rdzv_backend="static" if several else "c10d",
        rdzv_endpoint=f"{settings.master_address}:{settings.master_port}" if several else _REACHABLE,
        rdzv_configs={"rank": settings.node, "timeout": 900} if several else {"timeout": 900},
        max_restarts=0,
        monitor_interval=0.5,
    )
    logger.info("starting processes=%d node=%d nodes=%d", count, settings.node, settings.nodes)
    try:
        returned = elastic_launch(config, sys.executable)("-m", "trainer")
    except SignalException as stop:
        raise _cause_of_ranks(results) or TransientError(
            f"stopped by signal {stop.sigval} before a checkpoint could be saved", hint="the Job's next pod begins anew"
        ) from stop
    except ChildFailedError as error:
        raise _killed(error) or _cause_of_ranks(results) or _without_a_word(error) from error
    logger.info("all processes have ended processes=%d", len(returned))
    return {"message": f"tuned by {count * settings.nodes} processes"}


def _killed(error: Any) -> TuningError | None:
    """The cause where a rank was killed: what the others say of a lost connection only follows from it."""
    rank = next((rank for rank, failure in error.failures.items() if failure.exitcode == _SIGKILL_EXIT), None)
    if rank is None:
        return None
    return ResourceExhausted(
        f"rank {rank} was killed (SIGKILL), mostly for too little memory of the machine, not of the GPU",
        hint="raise the container's memory limit",
    )


def _without_a_word(error: Any) -> TuningError:
    rank, failure = error.get_first_failure()
    return TransientError(f"rank {rank} died without a word, exit code {failure.exitcode}", hint="see its log above")


def use_gpu(local_rank: int) -> None:
    """Make this process work on its own GPU, if the node has any."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)


def announce_cause(results: Path, rank: int, error: TuningError) -> None:
    """Leave the cause of a rank's end where its launcher looks for it."""
    content = {"exit_code": error.exit_code, "message": error.message, "hint": error.hint}
    write_json(results / _CAUSE.format(rank), content)


def _cause_of_ranks(results: Path) -> TuningError | None:
    """What the first rank that failed said."""
    said = sorted(results.glob(_CAUSE.format("*")), key=lambda path: path.stat().st_mtime)
    if not said:
        return None
    content = json.loads(said[0].read_bytes())
    cause = next((cause for cause in CAUSES if cause.exit_code == content["exit_code"]), TuningError)
    rank = said[0].name.split("-")[-1].removesuffix(".json")
    for path in said:
        path.unlink()
    return cause(f"rank {rank}: {content['message']}", hint=content["hint"])
