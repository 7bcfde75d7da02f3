"""One Ray cluster of three nodes for the whole test run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ray_nodes import patiently, start_cluster

SUPPORT = str(Path(__file__).parents[1] / "support")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Any]:
    """A head and two more nodes, two CPUs each; this process is connected to it."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    # Workers must find the jobs of the tests.
    os.environ["PYTHONPATH"] = SUPPORT
    import ray

    cluster = start_cluster(more_nodes=2)
    quiet = {"log_to_driver": False, "logging_level": "error"}
    patiently(lambda: ray.init(address=cluster.address, **quiet))
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def ray_address(ray_cluster: Any) -> str:
    """Where the cluster is."""
    return str(ray_cluster.address)
