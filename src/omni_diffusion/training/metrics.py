"""What a training step did, in figures: sums over micro-batches and ranks, then one record.

Losses are summed on the device by task, modality and mask ratio (`loss.LossTable`); the rest are
counts that the batch knows. Nothing waits for the device before `Meter.record`, which adds up all
ranks' sums, so every rank gets the same record:

    kind                  "train" or "eval"
    step                  optimizer steps done
    loss                  what was minimised: weighted losses over the step's denominator
    cross_entropy         mean over all targets, unweighted, in nats
    loss_by               the same by task, modality of the hidden token, and mask ratio t
                          ("0.0-0.1" ...); what had no target is left out
    tokens                useful (in samples, tail pads not), tail_pads, targets, positions
    fill                  part of the positions that samples and their tail pads take
    samples, left_out     samples that were read, and those that could not be (`data.damaged: skip`)
    data_wait_s           the longest that any rank waited for batches
    seconds               wall time since the last record, of the slowest rank
    useful_tokens_per_s   all ranks together
    memory_mb             peak of the fullest rank: of its GPU, or of the process without one
    mfu                   operations that the model needs (`flops`) by what the devices could do;
                          null where their peak is not known
    grad_norm, lr         as given, and whatever else the caller adds
"""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import Tensor
from torch import distributed as dist

from omni_diffusion.tokenize.vocabulary import TokenKind
from omni_diffusion.training.batch import Batch
from omni_diffusion.training.flops import ModelFlops
from omni_diffusion.training.loss import LossTable

BUCKETS: Final = 10
"""Of the mask ratio, from 0 to 1."""

_COUNTS: Final = ("useful", "tail_pads", "positions", "pairs", "samples", "left_out")
_MEGABYTE: Final = 1e6

Record = dict[str, Any]


class Meter:
    """Collects what happens between two records. `record` begins anew.

    Args:
        tasks: names of all tasks (`TrainingData.tasks`).
        device: where losses are.
        flops: of the model, for `mfu`.
        peak_flops: operations a second of one device, for `mfu`.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        device: torch.device | str = "cpu",
        *,
        flops: ModelFlops | None = None,
        peak_flops: float | None = None,
    ) -> None:
        self._tasks = {task: number for number, task in enumerate(tasks)}
        self._device = torch.device(device)
        self._flops, self._peak = flops, peak_flops
        self.restart()

    def restart(self) -> None:
        """Forget everything, and start the clock."""
        self._table = LossTable(len(self._tasks), len(TokenKind), BUCKETS, self._device)
        self._objective = torch.zeros((), dtype=torch.float64, device=self._device)
        self._counts = dict.fromkeys(_COUNTS, 0)
        self._waited = 0.0
        self._began = time.perf_counter()

    def timed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches; the time that each was waited for counts as `data_wait_s`."""
        source = iter(batches)
        while True:
            began = time.perf_counter()
            batch = next(source, None)
            self._waited += time.perf_counter() - began
            if batch is None:
                return
            yield batch

    def add(self, batch: Batch, positions: Tensor, losses: Tensor, objective: Tensor) -> None:
        """Count a batch, or a part of a step, in.

        Args:
            batch: what was computed.
            positions: of its targets in the flattened rows, int64 [N] (`Targets.positions`).
            losses: of each target, float [N] (`HeadLoss.per_target`).
            objective: this part's share of the step's loss, a scalar (`HeadLoss.loss`): over the
                denominator of the whole step, so that all parts of all ranks add up to it.
        """
        task, ratio = self._owners(batch)
        where = positions.to("cpu")
        self._table.add(
            losses.detach(),
            task[where].to(self._device),
            torch.from_numpy(batch.modality.reshape(-1))[where].long().to(self._device),
            ratio[where].to(self._device),
        )
        self._objective += objective.detach().double()
        samples, tail = batch.samples, int(np.count_nonzero(batch.tail))
        self._counts["useful"] += int(samples.length.sum()) - tail
        self._counts["tail_pads"] += tail
        self._counts["positions"] += batch.ids.size
        self._counts["pairs"] += int((samples.length.astype(np.int64) ** 2).sum())
        self._counts["samples"] += len(samples)
        self._counts["left_out"] += len(batch.faults)

    def record(
        self, kind: Literal["train", "eval"], step: int, values: Mapping[str, Any] | None = None
    ) -> Record:
        """Figures of everything since the last record, over all ranks. Begins anew.

        Every rank must call it (it is a collective where `torch.distributed` is initialised).

        Args:
            kind: of the steps that were counted.
            step: optimizer steps done.
            values: further entries, such as `grad_norm` and `lr`; equal on all ranks.
        """
        seconds = time.perf_counter() - self._began
        sums, counts, objective = self._summed()
        most = torch.tensor([seconds, self._waited, _memory_mb(self._device)], dtype=torch.float64)
        seconds, waited, memory = _reduced(most.to(self._device), dist.ReduceOp.MAX).tolist()
        targets = sums[..., 1].sum()
        tokens = {
            "useful": counts["useful"],
            "tail_pads": counts["tail_pads"],
            "targets": int(targets),
            "positions": counts["positions"],
        }
        taken = counts["useful"] + counts["tail_pads"]
        found: Record = {
            "kind": kind,
            "step": step,
            "loss": objective,
            "cross_entropy": float(sums[..., 0].sum() / targets) if targets else None,
            "loss_by": self._loss_by(sums),
            "tokens": tokens,
            "fill": taken / max(counts["positions"], 1),
            "samples": counts["samples"],
            "left_out": counts["left_out"],
            "data_wait_s": waited,
            "seconds": seconds,
            "useful_tokens_per_s": counts["useful"] / seconds,
            "memory_mb": memory,
            "mfu": self._mfu(kind, taken, counts["pairs"], int(targets), seconds),
        }
        found |= values or {}
        self.restart()
        return found

    def _owners(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Task and mask ratio of the sample at each position: int64 and float64 [R L]."""
        samples = batch.samples
        task = np.zeros(batch.ids.size, np.int64)
        ratio = np.zeros(batch.ids.size, np.float64)
        starts = samples.row * batch.ids.shape[1] + samples.start
        for i, (start, length) in enumerate(
            zip(starts.tolist(), samples.length.tolist(), strict=True)
        ):
            task[start : start + length] = self._tasks[samples.tasks[i]]
            ratio[start : start + length] = samples.ratio[i]
        return torch.from_numpy(task), torch.from_numpy(ratio)

    def _summed(self) -> tuple[np.ndarray[Any, Any], dict[str, int], float]:
        """Table, counts and loss of all ranks together, by one collective."""
        counts = torch.tensor(list(self._counts.values()), dtype=torch.float64)
        parts = (self._table.sums.reshape(-1), counts.to(self._device), self._objective[None])
        whole = _reduced(torch.cat(parts), dist.ReduceOp.SUM).cpu().numpy()
        size = self._table.sums.numel()
        table = whole[:size].reshape(self._table.sums.shape)
        return table, dict(zip(_COUNTS, map(int, whole[size:-1]), strict=True)), float(whole[-1])

    def _loss_by(self, sums: np.ndarray[Any, Any]) -> dict[str, dict[str, float]]:
        """Mean cross-entropy by each of the three, where there were targets."""
        edges = [f"{i / BUCKETS:.1f}-{(i + 1) / BUCKETS:.1f}" for i in range(BUCKETS)]
        names = {
            "task": (list(self._tasks), (1, 2)),
            "modality": ([kind.name.lower() for kind in TokenKind], (0, 2)),
            "t": (edges, (0, 1)),
        }
        return {
            by: {
                name: float(loss / count)
                for name, (loss, count) in zip(labels, sums.sum(axis=axes), strict=True)
                if count
            }
            for by, (labels, axes) in names.items()
        }

    def _mfu(
        self, kind: str, tokens: int, pairs: int, targets: int, seconds: float
    ) -> float | None:
        if kind != "train" or self._flops is None or self._peak is None:
            return None
        ranks = dist.get_world_size() if dist.is_initialized() else 1
        return self._flops.needed(tokens, pairs, targets) / (seconds * self._peak * ranks)


def _reduced(values: Tensor, how: Any) -> Tensor:
    if dist.is_initialized():
        dist.all_reduce(values, how)
    return values


def _memory_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / _MEGABYTE
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / _MEGABYTE


def finite(value: Any) -> Any:
    """The same figures without infinities and NaNs, which JSON cannot say: null stands for them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: finite(entry) for name, entry in value.items()}
    return value
