"""Ray: a search on a cluster, as a Ray Tune `Searcher` over the same driver.

Only the driver opens the study. An actor holds one `Slot`, so a trial's limits and a worker's death
mean the same as on one machine. Ray's schedulers and checkpoints are not used: rungs are the
driver's, and training state lies in the stage store.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Final, cast

from ...errors import BadRequest, RunError
from ..driver import Done, Source
from ..events import Listener, ignore
from ..stages import cache_root
from .attempt import Work
from .interrupts import interrupts
from .local import INTERRUPTED
from .slot import Limits

MISSING: Final = "Ray is not installed: `pip install paretune[ray]`"

ENVIRONMENT: Final = {
    "RAY_worker_niceness": "0",  # at Ray's nice 15 workers starve beside anything else
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # as Ray will do; its warning is for nobody
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
}


@dataclass(frozen=True)
class Cluster:
    """Where and how wide.

    Args:
        workers: asks under way at once.
        address: of a cluster, `auto` for the one this machine belongs to; None: a Ray of our own.
        per_trial: resources of one worker, as Ray counts them (`cpu`, `gpu`, may be fractions).
        shared_store: the stage store and the run folder are seen by every node.
    """

    workers: int = 1
    address: str | None = None
    per_trial: Mapping[str, float] = field(default_factory=lambda: {"cpu": 1.0})
    shared_store: bool = False


def run_cluster(
    source: Source,
    work: Work,
    cluster: Cluster,
    limits: Limits | None = None,
    listen: Listener = ignore,
) -> Done:
    """Works until nothing is left to ask.

    Args:
        source: hands out asks and takes records; it stays in this process.
        work: sent to every worker once.
        cluster: where.
        limits: of every trial.
        listen: told what is asked and answered.

    Returns:
        Why it ended.

    Raises:
        BadRequest: Ray is not installed.
        RunError: several nodes that do not share a store.
    """
    ray = _ray()
    started = not ray.is_initialized()
    if started:
        _connect(ray, cluster)
    try:
        nodes = sum(1 for node in ray.nodes() if node["Alive"])
        if nodes > 1 and not cluster.shared_store:
            raise RunError(
                f"the cluster has {nodes} nodes, and they do not share a stage store: set "
                "PARETUNE_CACHE to a folder that every node sees"
            )
        return _tune(source, ray.cloudpickle.dumps(work), cluster, limits or Limits(), listen)
    finally:
        if started:
            ray.shutdown()


def require_ray() -> None:
    """Passes where Ray is installed, without the seconds that it takes to import it.

    Raises:
        BadRequest: it is not.
    """
    if find_spec("ray") is None:
        raise BadRequest(MISSING)


def _ray() -> Any:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if find_spec("amdsmi") is not None:
        # zeus brings it; where there is no AMD library, Ray dies importing it
        cast(dict[str, Any], sys.modules).setdefault("amdsmi", None)
    try:
        import ray
    except ImportError as error:
        raise BadRequest(MISSING) from error
    return ray


def _connect(ray: Any, cluster: Cluster) -> None:
    if cluster.address is not None:
        ray.init(address=cluster.address, log_to_driver=False)
        return
    cpus = max(1, round(cluster.workers * cluster.per_trial.get("cpu", 1.0)))
    ray.init(address="local", num_cpus=cpus, include_dashboard=False, log_to_driver=False)


def _tune(source: Source, work: bytes, cluster: Cluster, limits: Limits, listen: Listener) -> Done:
    from ray import tune

    from .tune import DriverSearcher, LostActors, SlotActor

    with (
        tempfile.TemporaryDirectory(prefix="paretune-ray-") as scratch,
        interrupts(listen) as interrupted,
    ):
        searcher = DriverSearcher(source, cluster.workers, listen, interrupted)
        actor = tune.with_parameters(SlotActor, work=work, limits=limits, variables=_variables())
        tuner = tune.Tuner(
            tune.with_resources(actor, dict(cluster.per_trial)),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                num_samples=-1,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                storage_path=scratch,
                callbacks=[LostActors(searcher)],
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        try:
            tuner.fit()
        except KeyboardInterrupt:
            return INTERRUPTED
        if searcher.error is not None:
            raise searcher.error
        return searcher.done or INTERRUPTED


def _variables() -> dict[str, str]:
    """Ours of the environment, for actors: they inherit from their node, which has another."""
    ours = {name: value for name, value in os.environ.items() if name.startswith("PARETUNE_")}
    return {**ours, "PARETUNE_CACHE": str(cache_root().absolute())}
