"""The unified vocabulary: text, control tokens, speech codes and image codes in one id range.

The ids of Omni-Diffusion follow from one number, how many ids ordinary text takes (`text_size`):

    0 .. text_size - 1      ordinary text (byte-level BPE)
    + 24 special tokens     of Qwen2 and Dream; the first is end of text, the last is the mask
    + 21 task tokens        begin, end, context and placeholder of picture, video, audio ...
    + 16,384 speech codes   of the GLM-4-Voice tokenizer
    + 8,192 image codes     of MAGVIT-v2

With Qwen2's 151,643 text ids that gives the published layout (176,264 ids, `vocab_size` of the
published `config_dream_resume.json`). Codes are never strings here: an id is a code plus the start
of its range.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

import numpy as np
import xxhash
from numpy.typing import ArrayLike, NDArray

from omni_diffusion.errors import CodeRangeError

PUBLISHED_TEXT_SIZE: Final = 151_643
"""Ids of ordinary text in Qwen2's and Dream's tokenizer."""
SPEECH_CODEBOOK_SIZE: Final = 16_384
IMAGE_CODEBOOK_SIZE: Final = 8_192

END_OF_TEXT: Final = "<|endoftext|>"
IM_START: Final = "<|im_start|>"
IM_END: Final = "<|im_end|>"
MASK: Final = "<|mask|>"

SPECIAL_TOKENS: Final = (
    END_OF_TEXT,
    IM_START,
    IM_END,
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<|beginoftext|>",
    MASK,
)
"""The special tokens of Dream's tokenizer in id order."""

TASK_TOKENS: Final = (
    "<|begin_of_image|>",
    "<|end_of_image|>",
    "<|context_of_image|>",
    "<|begin_of_video|>",
    "<|end_of_video|>",
    "<|context_of_video|>",
    "<|begin_of_patch|>",
    "<|end_of_patch|>",
    "<|context_of_patch|>",
    "<|begin_of_quad|>",
    "<|end_of_quad|>",
    "<|begin_of_ref|>",
    "<|end_of_ref|>",
    "<|begin_of_box|>",
    "<|end_of_box|>",
    "<|image|>",
    "<|video|>",
    "<|begin_of_audio|>",
    "<|end_of_audio|>",
    "<|context_of_audio|>",
    "<|audio|>",
)
"""The tokens that Omni-Diffusion adds to Dream's, in id order."""

CONTROL_TOKENS: Final = SPECIAL_TOKENS + TASK_TOKENS
_CONTROL_INDEX: Final = {token: index for index, token in enumerate(CONTROL_TOKENS)}

CONTROL_PATTERN: Final = re.compile(
    "|".join(re.escape(token) for token in CONTROL_TOKENS)
    + r"|<\|audio_(?P<speech>0|[1-9][0-9]{0,4})\|>|<\|image_(?P<image>0|[1-9][0-9]{0,3})\|>"
)
"""Finds what may be the name of an id above the text range (a code may still be out of range)."""


class TokenKind(IntEnum):
    """What an id of the unified vocabulary stands for."""

    TEXT = 0
    CONTROL = 1
    SPEECH = 2
    IMAGE = 3


@dataclass(frozen=True)
class Vocabulary:
    """Where each kind of token lies, computed from the size of the text range.

    Attributes:
        text_size: ids of ordinary text; also the id of end-of-text, the first special token.
    """

    text_size: int

    def __post_init__(self) -> None:
        if self.text_size < 256:
            raise CodeRangeError(
                f"text_size {self.text_size}: byte-level text needs at least 256 ids"
            )

    @property
    def end_of_text_id(self) -> int:
        """Id of end-of-text, which also pads."""
        return self.text_size

    @property
    def mask_id(self) -> int:
        """Id that hides a token from the model."""
        return self.control_id(MASK)

    @property
    def speech_start(self) -> int:
        """Id of speech code 0."""
        return self.text_size + len(CONTROL_TOKENS)

    @property
    def image_start(self) -> int:
        """Id of image code 0."""
        return self.speech_start + SPEECH_CODEBOOK_SIZE

    @property
    def size(self) -> int:
        """Number of ids: rows of the embedding and of the output layer."""
        return self.image_start + IMAGE_CODEBOOK_SIZE

    def control_id(self, token: str) -> int:
        """Id of one special or task token, such as `<|begin_of_image|>`.

        Raises:
            CodeRangeError: there is no control token of this name.
        """
        if token not in _CONTROL_INDEX:
            raise CodeRangeError(f"{token!r} is not a control token of the vocabulary")
        return self.text_size + _CONTROL_INDEX[token]

    def id_of(self, name: str) -> int | None:
        """Id whose name is `name` (`<|im_end|>`, `<|audio_7|>`, `<|image_7|>`), or None."""
        match = CONTROL_PATTERN.fullmatch(name)
        if match is None:
            return None
        for kind, start, size in self._code_ranges():
            if (code := match[kind]) is not None:
                return start + int(code) if int(code) < size else None
        return self.control_id(name)

    def name_of(self, token_id: int) -> str:
        """Name of one id above the text range; the inverse of `id_of`.

        Raises:
            CodeRangeError: the id is ordinary text or outside the vocabulary.
        """
        kind = int(self.modality_of([token_id])[0])
        if kind == TokenKind.TEXT:
            raise CodeRangeError(f"id {token_id} is ordinary text, which has no name")
        if kind == TokenKind.CONTROL:
            return CONTROL_TOKENS[token_id - self.text_size]
        if kind == TokenKind.SPEECH:
            return f"<|audio_{token_id - self.speech_start}|>"
        return f"<|image_{token_id - self.image_start}|>"

    def modality_of(self, ids: ArrayLike) -> NDArray[np.uint8]:
        """Kind of every id.

        Args:
            ids: integers of any shape.

        Returns:
            `TokenKind` values, uint8, of the same shape.

        Raises:
            CodeRangeError: an id is negative or not below `size`.
        """
        array = _in_range(np.asarray(ids), 0, self.size, "vocabulary id")
        starts = (self.text_size, self.speech_start, self.image_start)
        return np.searchsorted(starts, array, side="right").astype(np.uint8)

    def text_ids(self, ids: ArrayLike) -> NDArray[np.int32]:
        """Ids of a stored text stream (int32), which lie anywhere in the vocabulary.

        Raises:
            CodeRangeError: an id is negative or not below `size`.
        """
        return _in_range(np.asarray(ids), 0, self.size, "text id").astype(np.int32)

    def speech_ids(self, codes: ArrayLike) -> NDArray[np.int32]:
        """Vocabulary ids (int32) of native speech codes 0..16,383; `CodeRangeError` outside."""
        array = _in_range(np.asarray(codes), 0, SPEECH_CODEBOOK_SIZE, "speech code")
        return array.astype(np.int32) + np.int32(self.speech_start)

    def image_ids(self, codes: ArrayLike) -> NDArray[np.int32]:
        """Vocabulary ids (int32) of native image codes 0..8,191; `CodeRangeError` outside."""
        array = _in_range(np.asarray(codes), 0, IMAGE_CODEBOOK_SIZE, "image code")
        return array.astype(np.int32) + np.int32(self.image_start)

    def speech_codes(self, ids: ArrayLike) -> NDArray[np.uint16]:
        """Native speech codes (uint16) of vocabulary ids; `CodeRangeError` if one is no speech."""
        array = _in_range(np.asarray(ids), self.speech_start, self.image_start, "speech id")
        return (array - self.speech_start).astype(np.uint16)

    def image_codes(self, ids: ArrayLike) -> NDArray[np.uint16]:
        """Native image codes (uint16) of vocabulary ids; `CodeRangeError` if one is no image."""
        array = _in_range(np.asarray(ids), self.image_start, self.size, "image id")
        return (array - self.image_start).astype(np.uint16)

    def fingerprint(self, tokenizer_digest: str) -> str:
        """16 hex digits that differ whenever the ids of some content would differ.

        Args:
            tokenizer_digest: `TextTokenizer.digest`, which covers the text range.
        """
        layout = f"{self.text_size}|{CONTROL_TOKENS}|{SPEECH_CODEBOOK_SIZE}|{IMAGE_CODEBOOK_SIZE}"
        return xxhash.xxh3_64_hexdigest(f"{layout}|{tokenizer_digest}".encode())

    def _code_ranges(self) -> tuple[tuple[str, int, int], ...]:
        """(group of `CONTROL_PATTERN`, first id, number of codes) of each code book."""
        return (
            ("speech", self.speech_start, SPEECH_CODEBOOK_SIZE),
            ("image", self.image_start, IMAGE_CODEBOOK_SIZE),
        )


def _in_range(array: NDArray[Any], low: int, high: int, what: str) -> NDArray[Any]:
    """`array` itself if it holds integers in [low, high), or an error naming the first outsider."""
    if array.size == 0:
        return array.astype(np.int64)
    if not np.issubdtype(array.dtype, np.integer):
        raise CodeRangeError(f"{what}s must be integers, not {array.dtype}")
    # min and max first: the position is only worth computing when there is something to report.
    if int(array.min()) < low or int(array.max()) >= high:
        outside = (array < low) | (array >= high)
        position = int(np.flatnonzero(outside)[0])
        value = int(array.reshape(-1)[position])
        raise CodeRangeError(f"{what} {value} at position {position} is not in {low}..{high - 1}")
    return array
