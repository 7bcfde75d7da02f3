"""From a batch of rows to its loss: one pass through the model.

On the CPU padding is cut out, since no sample sees it. On a GPU it stays, a segment of its own in
each row, so that every pass has the same shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from omni_diffusion.backbone.attention import Segments
from omni_diffusion.backbone.dream import Dream, Inserts
from omni_diffusion.tokenize.speech.fbank import FEATURE_SIZE
from omni_diffusion.tokenize.speech.sanm import QUERIES
from omni_diffusion.training.batch import Batch
from omni_diffusion.training.loss import IGNORED, HeadLoss, Targets, find_targets, head_loss
from omni_diffusion.training.recipe import MaskingRecipe


@dataclass(frozen=True, kw_only=True, eq=False)
class Inputs:
    """A batch as the model takes it, T tokens with N targets.

    Attributes:
        ids: int64 [T], what the model reads.
        segments: where the samples lie.
        targets: what it is to predict.
        weights: float32 [N], of the targets.
        places: int64 [N], on the CPU: of the targets in the flattened rows of the batch.
        features: float [frames, columns], of each recording.
        inserted: int64 [n], tokens of which the recordings' vectors take the place.
    """

    ids: Tensor
    segments: Segments
    targets: Targets
    weights: Tensor
    places: Tensor
    features: Sequence[Tensor]
    inserted: Tensor


def prepare(batch: Batch, device: torch.device) -> Inputs:
    """Flatten the rows of a batch and send them to a device."""
    kept = np.arange(batch.ids.size)
    if device.type == "cpu":
        kept = np.flatnonzero(batch.segments.reshape(-1))
        kept = kept if len(kept) else np.zeros(1, np.int64)  # every rank computes something
    positions = batch.positions.reshape(-1)[kept]
    bounds = np.append(np.flatnonzero(positions == 0), len(kept)).tolist()
    on_cpu = Segments.from_bounds(bounds)
    true = torch.from_numpy(batch.ids.reshape(-1)[kept].astype(np.int64))
    hidden = torch.from_numpy(batch.masked.reshape(-1)[kept])
    targets = find_targets(torch.where(hidden, true, IGNORED), on_cpu)
    places = torch.from_numpy(kept)[targets.positions]
    weights = torch.from_numpy(batch.loss_weight.reshape(-1))[places]
    starts = np.searchsorted(kept, batch.feature_starts)
    lengths = [len(one) + len(QUERIES) for one in batch.features]
    runs = [np.arange(s, s + n) for s, n in zip(starts.tolist(), lengths, strict=True)]
    inserted = np.concatenate([np.empty(0, np.int64), *runs])
    inputs = torch.from_numpy(batch.inputs.reshape(-1)[kept].astype(np.int64))
    return Inputs(
        ids=inputs.to(device),
        segments=Segments.from_bounds(bounds, device),
        targets=Targets(*(part.to(device) for part in targets)),
        weights=weights.to(device),
        places=places,
        features=[torch.from_numpy(one).to(device) for one in batch.features],
        inserted=torch.from_numpy(inserted).to(device),
    )


def batch_loss(model: Dream, inputs: Inputs, denominator: float) -> HeadLoss:
    """The loss of a batch over a denominator that more batches may share.

    Every parameter that learns takes part, whatever the batch holds: sharded models wait for the
    gradients of all of them on all ranks.

    Raises:
        OmniError: the batch holds features and the model has no speech encoder.
    """
    inserts, unused = None, None
    if len(inputs.features) or model.speech_config is not None:
        if isinstance(model, FSDPModule):
            model.unshard()  # the projector is used outside of the model's own forward
        dtype = model.lm_head.weight.dtype
        features = [one.to(dtype) for one in inputs.features]
        silence = torch.zeros(1, FEATURE_SIZE, dtype=dtype, device=inputs.ids.device)
        vectors = torch.cat(model.embed_speech(features or [silence]))
        if features:
            inserts = Inserts(inputs.inserted, vectors)
        else:
            unused = 0 * vectors.sum()
    hidden = model(inputs.ids, inputs.segments, inserts)
    rows = hidden[inputs.targets.rows]
    found = head_loss(rows, model.lm_head.weight, inputs.targets.ids, denominator, inputs.weights)
    return found if unused is None else found._replace(loss=found.loss + unused)


def weight_of(batch: Batch, masking: MaskingRecipe) -> float:
    """What a batch adds to the denominator of its step.

    Divided by its mask ratio, a sample counts as all of its supervised positions, however few are
    hidden. Without that it counts as the hidden ones (the published loss: their mean).
    """
    counted = batch.supervised if masking.inverse else batch.masked
    return float(np.count_nonzero(counted))
