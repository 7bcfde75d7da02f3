"""What a benchmark asks and what it expects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omni_diffusion.errors import OmniError
from omni_diffusion.generation.ask import Ask


class BenchmarkError(OmniError):
    """A benchmark's files are not there, or not in the layout that it is published in."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Item:
    """One question of a benchmark.

    Attributes:
        ask: what the model is asked; its key is the item's.
        expected: the text, letter or word that is right; a picture's description.
        group: what scores are also given by, such as the subtask.
        reference: a picture to compare with, or None.
        facts: what the published answer file holds besides.
    """

    ask: Ask
    expected: str
    group: str = ""
    reference: Path | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
