"""Two small corpora with every task and both speech inputs,."""

from __future__ import annotations

from pathlib import Path

import pytest

from training_corpora import training_corpus


@pytest.fixture(scope="session")
def corpora(tmp_path_factory) -> Path:
    """`heard` has continuous user speech, `coded` discrete; they share tokenizers."""
    folder = tmp_path_factory.mktemp("corpora")
    training_corpus(folder / "heard", [40, 30, 50, 20], ["asr", "tts", "svqa"])
    tasks = ["t2i", "text", "s2i", "caption"]
    training_corpus(folder / "coded", [30, 45, 25], tasks, seed=1, features=False)
    return folder
