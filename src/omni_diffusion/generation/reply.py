"""From the ids of an answer back to text, codes of a picture and codes of speech."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from omni_diffusion.generation.kit import Codes
from omni_diffusion.tokenize.text import TextTokenizer
from omni_diffusion.tokenize.vocabulary import IM_END, TokenKind

PICTURE_CODES = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
    """What an answer holds.

    Attributes:
        text: up to its end, without control tokens.
        picture: 256 native codes in rows, or None.
        filled: how many of them were missing and are copies of the last one.
        speech: native codes, or None.
        ended: whether the model ended its turn within the answer.
    """

    text: str
    picture: Codes | None
    filled: int
    speech: Codes | None
    ended: bool


def read_answer(ids: Codes, tokenizer: TextTokenizer) -> Parts:
    """Take an answer apart.

    Text ends with the first end of turn or end of text, speech with end of audio, end of turn or
    end of text behind it. As in the published code, codes of a picture count wherever they stand,
    those beyond 256 are dropped, and a short picture is filled with its last code.

    Args:
        ids: the answer, [n].
        tokenizer: of the text, with the vocabulary.
    """
    vocabulary = tokenizer.vocabulary
    kinds = vocabulary.modality_of(ids)
    ends = np.isin(ids, [vocabulary.control_id(IM_END), vocabulary.end_of_text_id])
    begins = np.flatnonzero(ids == vocabulary.control_id("<|begin_of_audio|>"))
    speech_start = int(begins[0]) + 1 if len(begins) else len(ids)
    written = np.arange(len(ids)) < _first(ends, len(ids))
    if len(begins) and speech_start <= _first(ends, len(ids)):
        written &= np.arange(len(ids)) < speech_start
    is_text = (kinds == TokenKind.TEXT) & written & (ids < tokenizer.base_size)
    speech = None
    if len(begins):
        stops = ends | (ids == vocabulary.control_id("<|end_of_audio|>"))
        spoken = ids[speech_start : speech_start + _first(stops[speech_start:], len(ids))]
        codes = spoken[vocabulary.modality_of(spoken) == TokenKind.SPEECH]
        speech = vocabulary.speech_codes(codes).astype(np.int32) if len(codes) else None
    drawn = ids[kinds == TokenKind.IMAGE][:PICTURE_CODES]
    picture, filled = None, 0
    if len(drawn):
        filled = PICTURE_CODES - len(drawn)
        codes = vocabulary.image_codes(drawn).astype(np.int32)
        picture = np.concatenate((codes, np.repeat(codes[-1:], filled)))
    return Parts(
        text=tokenizer.decode(ids[is_text]).strip(),
        picture=picture,
        filled=filled,
        speech=speech,
        ended=bool(ends.any()),
    )


def _first(flags: NDArray[np.bool_], otherwise: int) -> int:
    """Position of the first True."""
    found = np.flatnonzero(flags)
    return int(found[0]) if len(found) else otherwise
