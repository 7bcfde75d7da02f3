"""Two small corpora with every task and both speech inputs,."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from training_corpora import training_corpus
from training_runs import short_corpus


@pytest.fixture(scope="session")
def corpora(tmp_path_factory) -> Path:
    """`heard` has continuous user speech, `coded` discrete; they share tokenizers."""
    folder = tmp_path_factory.mktemp("corpora")
    training_corpus(folder / "heard", [40, 30, 50, 20], ["asr", "tts", "svqa"])
    tasks = ["t2i", "text", "s2i", "caption"]
    training_corpus(folder / "coded", [30, 45, 25], tasks, seed=1, features=False)
    return folder


@pytest.fixture(scope="session")
def short(tmp_path_factory) -> Path:
    """The corpus of the small runs; not to be damaged."""
    return short_corpus(tmp_path_factory.mktemp("short"))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """PyTorch on one thread: small models are quicker, and sums have one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
