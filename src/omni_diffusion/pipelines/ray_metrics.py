"""The state of a run as Ray metrics, which a cluster's Prometheus collects."""

from __future__ import annotations

from ray.util.metrics import Gauge

from omni_diffusion.pipelines.run_file import Run


class RunMetrics:
    """Gauges named `omni_diffusion_*`, tagged with job and run.

    Args:
        run: the run that is shown.
    """

    def __init__(self, run: Run) -> None:
        self._tags = {"job": run.job, "run": run.run}
        self._partitions = _gauge("partitions", "Partitions by state.", "state")
        self._records = _gauge("records", "Records of this run by result.", "result")
        self._workers = _gauge("workers", "Workers by state.", "state")
        self._busy = _gauge("busy_share", "Share of the ready workers' time in partitions.")
        self._rate = _gauge("records_per_second", "Records a second since the first was ready.")

    def show(self, run: Run) -> None:
        """Set all gauges."""
        for state, count in run.partitions.items():
            self._partitions.set(count, {**self._tags, "state": state})
        for result, count in (("sample", run.rows), ("reject", run.rejects)):
            self._records.set(count, {**self._tags, "result": result})
        for state, count in run.workers.items():
            self._workers.set(count, {**self._tags, "state": state})
        self._busy.set(run.busy_share, self._tags)
        self._rate.set(run.records_per_s, self._tags)


def _gauge(name: str, description: str, *tags: str) -> Gauge:
    return Gauge(f"omni_diffusion_{name}", description=description, tag_keys=("job", "run", *tags))
