"""Which samples a training recipe keeps from training, by corpus: what `evaluate` may ask."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omni_diffusion.training.opening import TrainingData


def held_out_keys(data: TrainingData) -> dict[str, list[str]]:
    """Keys of the evaluation stream, by the folder or URL of their corpus, in its order."""
    import numpy as np

    from omni_diffusion.corpus.index import Index

    found: dict[str, list[str]] = {}
    for number, source in enumerate(data.sources):
        rows = [plan.index[plan.source == number] for plan in data.evaluation]
        chosen = np.unique(np.concatenate([np.zeros(0, np.int64), *rows]))
        if len(chosen):
            found[str(source.storage.root)] = Index(source.storage).keys(chosen)
    return found


def keys_of(recipe: Path, corpus: Path) -> list[str]:
    """Keys that a training recipe keeps from training of one corpus.

    Raises:
        OmniError: the recipe does not read this corpus, or holds nothing out of it.
    """
    from omni_diffusion.corpus.storage import Storage
    from omni_diffusion.errors import OmniError
    from omni_diffusion.training.opening import load_data

    data, _ = load_data(recipe)
    keys = held_out_keys(data).get(str(Storage(str(corpus)).root))
    if keys is None:
        raise OmniError(
            f"{recipe}: holds nothing of {corpus} out (data.evaluation.held_out, or a corpus of "
            "data.evaluation.corpora)"
        )
    return keys
