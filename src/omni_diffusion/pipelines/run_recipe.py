"""How a job is run: where, by how many, and when it gives up. None of it changes the output."""

from __future__ import annotations

from pydantic import Field

from omni_diffusion.recipe import Recipe


class RayRecipe(Recipe):
    """The cluster."""

    address: str | None = None
    #: None starts a Ray of its own on this machine; `auto` joins the running one; or `ray://...`.
    workers: int | None = Field(default=None, ge=1)
    #: Worker processes; None takes as many as the cluster's present resources hold.
    cpus_per_worker: float = Field(default=1, gt=0)
    gpus_per_worker: float = Field(default=0, ge=0)
    #: A share of a GPU is allowed: two workers with 0.5 share one.


class RunRecipe(Recipe):
    """Limits of a run."""

    ray: RayRecipe = RayRecipe()
    deadline_s: float | None = Field(default=None, gt=0)
    #: Longest time for one partition; None: twenty times the median so far, at least ten minutes.
    tries: int = Field(default=4, ge=1)
    #: How often a partition is begun before the job gives it up.
    failed_partitions: int = Field(default=3, ge=1)
    #: The job stops when so many partitions have been given up.
    reject_share: float = Field(default=0.2, ge=0, le=1)
    #: The job stops when a larger share of the records read in this run was rejected ...
    reject_minimum: int = Field(default=100, ge=0)
    #: ... and at least so many.
    drain_s: float = Field(default=120, ge=0)
    #: After a first SIGINT or SIGTERM, partitions at work have so long to finish.
