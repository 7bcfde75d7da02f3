"""Ray nodes on this machine, for tests: begun again where a loaded machine is too late."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

_TRIES = 8
# Only workers that are asked for: every one costs seconds on a loaded machine.
_HEAD = {
    "num_cpus": 2,
    "include_dashboard": False,
    "_system_config": {"prestart_worker_first_driver": False},
}


def start_cluster(more_nodes: int) -> Any:
    """`ray.cluster_utils.Cluster` with a head and so many other nodes, of two CPUs each."""
    from ray.cluster_utils import Cluster

    cluster = patiently(lambda: Cluster(initialize_head=True, head_node_args=_HEAD))
    for _ in range(more_nodes):
        add_node(cluster)
    return cluster


def add_node(cluster: Any) -> None:
    """One more node. Nobody waits for it: work goes on with the others until it is there."""
    patiently(lambda: cluster.add_node(num_cpus=2, wait=False))


def patiently(start: Callable[[], T]) -> T:
    """Ray gives a node half a minute to start, whatever else the machine has to do."""
    for _ in range(_TRIES):
        try:
            return start()
        except Exception as error:  # noqa: BLE001 # Ray raises nothing narrower
            last = error
            time.sleep(1)
    raise last
