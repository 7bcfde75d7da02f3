"""One Ray cluster of three nodes for the whole test run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SUPPORT = str(Path(__file__).parents[1] / "support")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Any]:
    """A head and two more nodes, two CPUs each; this process is connected to it."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    # Workers must find the jobs of the tests.
    os.environ["PYTHONPATH"] = SUPPORT
    import ray
    from ray.cluster_utils import Cluster

    # Only workers that are asked for: every one costs seconds on a loaded machine.
    lean = {"prestart_worker_first_driver": False}
    head = {"num_cpus": 2, "include_dashboard": False, "_system_config": lean}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        cluster.add_node(num_cpus=2, wait=False)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def ray_address(ray_cluster: Any) -> str:
    """Where the cluster is."""
    return str(ray_cluster.address)
