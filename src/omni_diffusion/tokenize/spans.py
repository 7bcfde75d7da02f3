"""Span tables of the chat layout as a corpus stores them, and back.

Both tables say the same; a corpus adds the height of each picture's code grid, which the chat
layout does not need because its pictures are square. The codes of roles and streams are equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omni_diffusion.corpus.sample import SPAN
from omni_diffusion.errors import RecordError
from omni_diffusion.tokenize.chat import IMAGE_CODES, Integers, Modality, Piece

_COLUMNS = ("message", "role", "stream", "start", "length")
_SOUNDS = (Modality.SPEECH, Modality.FEATURES)


def to_corpus(table: Integers) -> NDArray[Any]:
    """A span table of `chat` (int [n, 5]) as `corpus.sample.SPAN[n]`, with heights of pictures."""
    spans = np.zeros(len(table), SPAN)
    for column, name in enumerate(_COLUMNS):
        spans[name] = table[:, column]
    for modality, codes in IMAGE_CODES.items():
        spans["height"][spans["stream"] == modality] = int(codes**0.5)
    return spans


def from_corpus(key: str, spans: NDArray[Any]) -> NDArray[np.int32]:
    """A stored span table (`SPAN[n]`) as `chat` reads it, int32 [n, 5].

    Args:
        key: of the sample, for errors.
        spans: as it was stored.

    Raises:
        RecordError: a picture that is not square, or a sound of no rows: the plan, which knows
            only what the index says, could not tell how long such a sample becomes.
    """
    rows = spans.tolist()
    for at, (_, _, stream, _, length, height) in enumerate(rows):
        if height and height * height != length:
            reason = f"{height} rows of {length} codes: pictures must be square"
            raise RecordError(key, f"spans.{at}", reason)
        if not length and stream in _SOUNDS:
            raise RecordError(key, f"spans.{at}", "is a sound of no rows")
    return np.array(rows, np.int32).reshape(-1, 6)[:, : len(_COLUMNS)]


def discrete_speech(pieces: Sequence[Piece]) -> list[Piece]:
    """The pieces with every sound as speech codes, also what the user says.

    The published model hears continuous features; a corpus made of these pieces trains one that
    hears the same codes that it speaks.
    """
    return [
        replace(piece, modality=Modality.SPEECH) if piece.modality == Modality.FEATURES else piece
        for piece in pieces
    ]
